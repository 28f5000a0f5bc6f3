"""Modalities: laws that hold for all of them, and a user's own: from frames that are read, and from own media."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from package import defined
from torch.utils.data import DataLoader

from mbt_lightning import AudioVisualData, ColumnModality, Modality, Rgb, Spectrogram, Stream, VideoStream
from mbt_lightning.data import store
from mbt_lightning.data.dataset import ClipDataset, WindowSetting, collate
from mbt_lightning.data.manifest.manifest import read_manifest
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.modalities import Window
from mbt_lightning.data.records import Batch, Draw, Example
from mbt_lightning.data.spectrogram import LogMel
from mbt_lightning.data.store import Files
from mbt_lightning.errors import UserError

SECONDS = 0.8
STEPS_A_SECOND = 10


class FrameDifference(Rgb):
    """A user's own, made from frames that are read already."""

    def shape(self, window_seconds):
        channels, time, *grid = super().shape(window_seconds)
        return channels, time - 1, *grid

    def make(self, batch, generator):
        return super().make(batch, generator).diff(dim=2)


class Features(ColumnModality):
    """A user's own, with media of its own: features (time, dim) in a file of NumPy, cut at the window."""

    def __init__(self, column: str = "features", dim: int = 6):
        super().__init__(column)
        self.dim = dim

    def shape(self, window_seconds):
        return 1, round(window_seconds * STEPS_A_SECOND), self.dim

    def load(self, path, window):
        first = round(window.start_seconds * STEPS_A_SECOND)
        return torch.from_numpy(np.load(path))[None, first : first + round(window.seconds * STEPS_A_SECOND)]


LAWS = {
    Rgb: lambda: Rgb(4, frame_size=16, short_side=24),
    Spectrogram: lambda: Spectrogram(LogMel(num_mels=32)),
    ColumnModality: Features,
    FrameDifference: lambda: FrameDifference(4, frame_size=16, short_side=24),
}
"""Every kind of modality, and how to build one."""


def test_every_modality_of_the_package_obeys_the_laws() -> None:
    missing = {kind.__name__ for kind in defined(Modality) - LAWS.keys()}
    assert not missing, f"add {missing} to LAWS in {__file__}"


@pytest.fixture(scope="module")
def manifest(demo, tmp_path_factory) -> Path:
    """The embedded clips, each with a file of features that count its tenths of a second, named in a further column."""
    folder = tmp_path_factory.mktemp("features")
    with open(folder / "m.jsonl", "w") as file:
        for split, examples in read_manifest(demo).splits.items():
            for number, example in enumerate(examples):
                features = np.arange(16, dtype=np.float32)[:, None] + 100 * number + np.zeros(6, np.float32)
                np.save(folder / f"{example.clip_id}.npy", features)
                row = {"clip_id": example.clip_id, "video": example.video, "labels": example.labels, "split": split}
                file.write(json.dumps(row | {"features": f"{example.clip_id}.npy", "number": number}) + "\n")
    return folder / "m.jsonl"


def data_of(manifest: Path, training: bool = True, **inputs: Modality) -> AudioVisualData:
    data = AudioVisualData(
        str(manifest), inputs=inputs, window_seconds=SECONDS, batch_size=4, num_test_views=2, num_workers=0
    )
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.training = training
    return data


def batch_of(data: AudioVisualData) -> Batch:
    loader = data.train_dataloader() if data.trainer.training else data.test_dataloader()
    return next(iter(loader))


def make(modality: Modality, batch: Batch, seed: int | None) -> torch.Tensor:
    return modality.make(batch, None if seed is None else torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", LAWS, ids=lambda kind: kind.__name__)
class TestLaws:
    def test_the_shape_is_that_of_the_input(self, manifest, kind) -> None:
        for training in (True, False):
            data = data_of(manifest, training, own=LAWS[kind]())
            batch = batch_of(data)
            made = data.on_after_batch_transfer(batch, 0).inputs["own"]
            assert made.shape == (4, *data.shapes["own"]) == (4, *data.spec.inputs["own"])
            assert made.dtype == torch.float32 and made.isfinite().all()
            assert not batch.content

    def test_it_depends_on_batch_and_generator_only(self, manifest, kind) -> None:
        modality = LAWS[kind]()
        batch = batch_of(data_of(manifest, own=modality))
        before = pickle.dumps(list(batch.content.values()))
        for seed in (None, 1, 2):
            first = make(modality, batch, seed)
            torch.manual_seed(9)
            assert torch.equal(make(modality, batch, seed), first)
        assert torch.equal(make(LAWS[kind](), batch, 1), make(modality, batch, 1))
        assert pickle.dumps(list(batch.content.values())) == before

    def test_evaluation_draws_nothing(self, manifest, kind) -> None:
        modality = LAWS[kind]()
        batch = batch_of(data_of(manifest, training=False, own=modality))
        state = torch.get_rng_state()
        make(modality, batch, None)
        assert torch.equal(torch.get_rng_state(), state)

    def test_its_stream_is_known_again_in_another_process(self, manifest, kind) -> None:
        stream = LAWS[kind]().stream
        assert stream == LAWS[kind]().stream == pickle.loads(pickle.dumps(stream))
        assert hash(stream) == hash(LAWS[kind]().stream)
        assert stream != Features("other").stream and stream != VideoStream(99)


def test_a_modality_made_from_frames(manifest) -> None:
    rgb, difference = (kind(4, frame_size=16, short_side=24) for kind in (Rgb, FrameDifference))
    data = data_of(manifest, training=False, rgb=rgb, difference=difference)
    inputs = data.on_after_batch_transfer(batch_of(data), 0).inputs
    assert list(inputs) == ["rgb", "difference"] and data.shapes["difference"] == (3, 3, 16, 16)
    assert torch.equal(inputs["difference"], inputs["rgb"][:, :, 1:] - inputs["rgb"][:, :, :-1])

    data.trainer.training = True
    batch = batch_of(data)
    assert not torch.equal(make(difference, batch, 0), make(difference, batch, None))


@pytest.mark.parametrize(
    ("num_frames", "reads"), [((4, 4), 1), ((4, 5), 2)], ids=["equal streams once", "others each for itself"]
)
def test_equal_streams_are_read_once(manifest, monkeypatch, num_frames, reads) -> None:
    calls = []
    monkeypatch.setattr(store, "read_video", lambda *args: calls.append(args) or read_video(*args))
    data = data_of(manifest, **{f"m{i}": Rgb(n, frame_size=8 * (i + 1)) for i, n in enumerate(num_frames)})
    batch = batch_of(data)
    assert len(calls) == 4 * reads and len(batch.content) == reads
    inputs = data.on_after_batch_transfer(batch, 0).inputs
    assert [inputs[m].shape[2:4] for m in inputs] == [(n, 8 * (i + 1)) for i, n in enumerate(num_frames)]


read_video = store.read_video


class TestMediaOfItsOwn:
    def test_is_cut_where_the_frames_are(self, manifest) -> None:
        rgb = Rgb(4, frame_size=16)
        data = data_of(manifest, features=Features(), rgb=rgb)
        clips = data.dataset("train", num_views=0)
        for place in range(8):
            draw = Draw(0, place)
            start = clips.starts(draw, 1.6)[rgb.stream]
            features = clips[draw].content[data.inputs["features"].stream]
            assert features[0, :, 0].tolist() == [round(start * STEPS_A_SECOND) + i + 100 * place for i in range(8)]
        views = [data.dataset("test", num_views=2)[Draw(0, 1, view)] for view in range(2)]
        assert [view.content[Features()][0, 0, 0] for view in views] == [100, 108]

    def test_workers_send_it(self, manifest) -> None:
        clips = data_of(manifest, features=Features(), audio=Spectrogram()).dataset("train", 0)
        draws = [Draw(0, i) for i in range(4)]
        (batch,) = DataLoader(clips, 4, sampler=draws, collate_fn=collate, num_workers=1)
        alone = collate([clips[draw] for draw in draws])
        assert batch.content.keys() == alone.content.keys()
        assert all(torch.equal(batch.content[stream], alone.content[stream]) for stream in alone.content)

    def test_alone_it_needs_no_other_media_where_the_segment_is_given(self, manifest) -> None:
        example = Example("a", "gone.mp4", "gone.mp4", 0.2, 1.0, extra={"features": "test-00000.npy"})
        example = Example(**vars(example) | {"root": str(manifest.parent)})
        (content,) = alone(example).content.values()
        assert content[0, :, 0].tolist() == list(range(2, 10))
        (bad,) = alone(Example(**vars(example) | {"end_seconds": None})).bad  # then the video gives the end
        assert bad.reason == "no such file"

    @pytest.mark.parametrize(
        ("cell", "content", "reason"),
        [
            (None, b"", "column features of the manifest is empty for this clip"),
            ("gone.npy", None, "No such file"),
            ("x.npy", b"junk", "cannot be read"),
            ("x.npy", b"", "cannot be read"),
            ("x.npz", b"PK\x03\x04junk", "cannot be read"),
        ],
    )
    def test_what_cannot_be_read_is_a_bad_clip(self, tmp_path, cell, content, reason) -> None:
        if content is not None:
            (tmp_path / str(cell)).write_bytes(content)
        example = Example("a", None, None, 0.0, 0.8, extra={"features": cell}, root=str(tmp_path))
        sample = alone(example)
        (bad,) = sample.bad
        assert not sample.content and bad.clip_id == "a" and reason in bad.reason
        assert bad.path == (str(tmp_path / cell) if cell else "a")
        with pytest.raises(ClipError):
            Features().read(Window(example, None, 0.0, 0.8))

    def test_mistakes_in_the_code_are_no_bad_clips(self) -> None:
        class Wrong(Features):
            def load(self, path, window):
                raise TypeError("mistake")

        with pytest.raises(TypeError, match="mistake"):
            alone(Example("a", None, None, 0.0, 0.8, extra={"features": "x"}), Wrong())

    def test_only_what_a_stream_names_is_kept(self, manifest) -> None:
        plain, named = (read_manifest(manifest, extra=extra) for extra in ((), ("number", "features")))
        assert plain.split("train")[3].extra == {} and plain.split("train").table.extra == []
        example = named.split("train")[3]
        assert example.extra == {"number": "3", "features": f"{example.clip_id}.npy"}
        assert example.file("features") == str(manifest.parent / example.extra["features"])
        assert next(iter(named.split("train")[3:])).extra == example.extra
        assert plain.digest != named.digest  # other features are other data
        with pytest.raises(UserError, match=r"m.jsonl:1: column flow is missing; there are: clip_id"):
            data_of(manifest, flow=Features("flow")).manifest  # noqa: B018


def alone(example: Example, modality: Features | None = None):
    """What is read of a clip's features and nothing else, in evaluation."""
    setting = WindowSetting(SECONDS, ((modality or Features()).stream,))
    return ClipDataset([example], "a", setting, 1, 0, Files())[Draw(0, 0)]


def test_streams_of_a_class_with_other_attributes_differ() -> None:
    class Own(Stream):
        def __init__(self, column):
            self.columns = (column,)

    assert Own("a") == Own("a") != Own("b") and len({Own("a"), Own("b"), Own("a"), VideoStream(), VideoStream()}) == 3
