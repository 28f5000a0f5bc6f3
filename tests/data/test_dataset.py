"""From rows of a manifest to batches, on real clips: windows, clips that cannot be read, and the embedded data."""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media import Recipe, write_clip
from torch.utils.data import DataLoader

from mbt_lightning.data.dataset import MAX_STAND_INS, ClipDataset, Sample, WindowSetting, collate
from mbt_lightning.data.demo import CLASSES, DemoSize, Facts, demo_manifest, plan
from mbt_lightning.data.manifest.manifest import ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import BadClip, Draw, Example
from mbt_lightning.data.samplers import ClassBalanced, ClipSampler, DrawSampler, InOrder, Shuffled, times_before
from mbt_lightning.data.sampling import chance
from mbt_lightning.data.streams import AudioStream, VideoStream, repeat_after, shrink, silence_after
from mbt_lightning.errors import UserError

RATE = 16_000
AUDIO = AudioStream(RATE)
SETTING = WindowSetting(0.8, (VideoStream(4, None, 64), AUDIO))
NAMES = [name for name, _ in CLASSES]


@pytest.fixture
def examples(demo) -> list[Example]:
    """Eight readable clips of 1.6 seconds."""
    return list(read_manifest(demo).split("train"))


@pytest.fixture
def with_damage(examples, tmp_path) -> list[Example]:
    """The same, of which the third and the sixth are no media."""
    for index in (2, 5):
        junk = tmp_path / f"{index}.mp4"
        junk.write_bytes(os.urandom(2000))
        examples[index] = replace(examples[index], video=str(junk), audio=str(junk))
    return examples


def tensors_of(batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.map(lambda x: found.append(x) or x)
    assert len(found) == 6  # frames, sizes, waveform, targets, index, view
    return found


def build(
    examples, num_views=0, seed=0, num_frames=4, frame_seconds=None, kinds=("video", "audio"), **changes
) -> ClipDataset:
    streams = tuple({"video": VideoStream(num_frames, frame_seconds, 64), "audio": AUDIO}[kind] for kind in kinds)
    return ClipDataset(examples, NAMES, replace(SETTING, streams=streams, **changes), num_views, seed)


def frames_of(sample: Sample) -> torch.Tensor | None:
    return next((x for stream, x in sample.content.items() if stream.kind == "video"), None)


def waveform_of(sample: Sample) -> torch.Tensor | None:
    return sample.content.get(AUDIO)


def same(a: Sample, b: Sample) -> bool:
    tensors = [(a.target, b.target), *((x, b.content[stream]) for stream, x in a.content.items())]
    plain = [(x.index, x.view, x.bad, x.content.keys()) for x in (a, b)]
    return plain[0] == plain[1] and all(torch.equal(x, y) for x, y in tensors)


class TestWindows:
    def test_a_sample(self, examples) -> None:
        sample = build(examples)[Draw(0, 3)]
        assert frames_of(sample).shape == (4, 64, 64, 3) and frames_of(sample).dtype == torch.uint8
        assert waveform_of(sample).shape == (0.8 * RATE,) and waveform_of(sample).dtype == torch.float32
        assert (sample.index, sample.view, sample.bad) == (3, 0, ())
        assert [NAMES[i] for i in sample.target.nonzero()] == sorted(examples[3].labels, key=NAMES.index)
        assert sample.target.sum() == 6

    def test_depend_on_seed_epoch_and_index_only(self, examples) -> None:
        first = build(examples)[Draw(4, 3)]
        dataset = build(examples)
        for index in range(3):
            dataset[Draw(0, index)]
        torch.manual_seed(99)
        assert same(dataset[Draw(4, 3)], first)
        # Each of these cuts somewhere else.
        for other in (dataset[Draw(5, 3)], build(examples, seed=1)[Draw(4, 3)]):
            assert not torch.equal(waveform_of(other), waveform_of(first))

    def test_are_spread_over_the_clip(self, examples) -> None:
        starts = [starts_of(build(examples), Draw(epoch, i), 10.0) for epoch in range(50) for i in range(8)]
        assert all(rgb == audio for rgb, audio in starts)
        ordered = torch.tensor(starts)[:, 0].sort().values
        assert (ordered - torch.linspace(0, 9.2, 400)).abs().max() < 0.8
        assert len(set(starts)) == 400

    def test_synchronous_or_each_at_its_own(self, examples) -> None:
        together = build(examples, frame_seconds=0.4)
        apart = build(examples, frame_seconds=0.4, synchronous=False)
        ratios = [rgb / 9.6 - audio / 9.2 for rgb, audio in draws(together)]
        assert ratios == pytest.approx([0] * 20)  # the same proportion of the clip
        assert all(abs(rgb / 9.6 - audio / 9.2) > 1e-6 for rgb, audio in draws(apart))

    def test_views_are_even(self, examples) -> None:
        dataset = build(examples, num_views=3)
        for view in range(3):
            assert starts_of(dataset, Draw(7, 0, view), 2.8) == pytest.approx((view, view))
        assert starts_of(build(examples, num_views=1), Draw(0, 0), 2.8) == pytest.approx((1, 1))
        views = [dataset[Draw(0, 0, view)] for view in range(3)]
        assert [sample.view for sample in views] == [0, 1, 2]
        whole = waveform_of(build(examples, num_views=1, seconds=1.6)[Draw(0, 0)])
        for sample, start in zip(views, (0, 0.4, 0.8), strict=True):
            piece = whole[round(start * RATE) : round((start + 0.8) * RATE)]
            assert (waveform_of(sample) - piece).abs().max() < 1e-3

    def test_pictures_may_have_a_window_of_their_own(self, examples) -> None:
        long = build(examples, num_views=1, seconds=1.6, num_frames=8)[Draw(0, 0)]
        short = build(examples, num_views=1, seconds=1.6, frame_seconds=0.4, num_frames=2)[Draw(0, 0)]
        assert waveform_of(short).shape == (1.6 * RATE,) and torch.equal(waveform_of(short), waveform_of(long))
        assert torch.equal(frames_of(short), frames_of(long)[3:5])  # at 0.6 and 0.8 of 1.6 seconds


def starts_of(dataset: ClipDataset, draw: Draw, duration: float) -> tuple[float, ...]:
    return tuple(dataset.starts(draw, duration).values())


def draws(dataset: ClipDataset) -> list[tuple[float, ...]]:
    return [starts_of(dataset, Draw(epoch, 0), 10.0) for epoch in range(20)]


class TestSegments:
    def test_after_the_end_the_last_frame_is_repeated_and_the_audio_is_silent(self) -> None:
        frames = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 2, 2, 3)
        seconds, waveform = torch.tensor([1.0, 1.5, 2.0, 2.5]).double(), torch.ones(20)
        assert repeat_after(1.9, frames, seconds)[:, 0, 0, 0].tolist() == [0, 1, 1, 1]
        assert silence_after(1.9, waveform, 1.0, 10).tolist() == [1.0] * 9 + [0.0] * 11
        for end in (None, 9.0):
            assert torch.equal(repeat_after(end, frames, seconds), frames)
            assert torch.equal(silence_after(end, waveform, 1.0, 10), waveform)
        assert not repeat_after(0.5, frames, seconds).any() and not silence_after(0.5, waveform, 1.0, 10).any()
        assert waveform.all() and frames[3, 0, 0, 0] == 3  # not changed

    def test_a_short_segment_of_a_real_clip(self, examples) -> None:
        segment = replace(examples[0], start_seconds=0.4, end_seconds=0.8)
        sample = build([segment])[Draw(0, 0)]
        whole = build(examples[:1], num_views=1, seconds=1.6, num_frames=8)[Draw(0, 0)]
        assert torch.equal(frames_of(sample)[:2], frames_of(whole)[2:4])  # at 0.4 and 0.6 seconds
        assert torch.equal(frames_of(sample)[2:], frames_of(sample)[1:2].expand(2, -1, -1, -1))
        inside = round(0.4 * RATE)
        assert (waveform_of(sample)[:inside] - waveform_of(whole)[inside : 2 * inside]).abs().max() < 1e-3
        assert waveform_of(sample)[:inside].any() and not waveform_of(sample)[inside:].any()

    def test_windows_stay_in_a_long_segment(self, examples) -> None:
        segment = replace(examples[0], start_seconds=0.4, end_seconds=1.4)
        whole = waveform_of(build(examples[:1], num_views=1, seconds=1.6)[Draw(0, 0)])
        for epoch in range(5):
            dataset = build([segment])
            (start, _) = starts_of(dataset, Draw(epoch, 0), 1.0)
            at = round((0.4 + start) * RATE)
            piece = waveform_of(dataset[Draw(epoch, 0)])
            assert 0 <= start < 0.2 and (piece - whole[at : at + len(piece)]).abs().max() < 0.02

    def test_a_segment_behind_the_end_of_the_file_is_bad(self, examples) -> None:
        sample = build([replace(examples[0], start_seconds=5.0, end_seconds=6.0)], num_views=1)[Draw(0, 0)]
        assert not sample.content and "the clip ends at 1.6" in sample.bad[0].reason


class TestShrink:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((64, 64), (64, 64)),
            ((40, 64), (40, 64)),  # never enlarged
            ((128, 128), (64, 64)),
            ((128, 192), (64, 96)),
            ((192, 128), (96, 64)),
            ((100, 150), (64, 96)),
            ((100, 400), (64, 128)),  # the middle of what is longer than 2:1
            ((400, 100), (128, 64)),
            ((20, 100), (20, 40)),
        ],
    )
    def test_size(self, size, expected) -> None:
        small = shrink(torch.zeros(2, *size, 3, dtype=torch.uint8), 64)
        assert small.shape == (2, *expected, 3) and small.dtype == torch.uint8

    def test_the_middle_is_taken(self) -> None:
        picture = torch.zeros(1, 10, 100, 3, dtype=torch.uint8)
        picture[:, :, 40:60] = 200
        assert (shrink(picture, 64) == 200).all() and (shrink(picture.transpose(1, 2), 64) == 200).all()
        assert picture.sum() == 200 * 10 * 20 * 3

    def test_what_is_seen_stays(self) -> None:
        ramp = torch.arange(128, dtype=torch.uint8).view(1, 1, 128, 1).expand(1, 128, 128, 3)
        assert (shrink(ramp, 64)[0, :, 1:-1, 0].float() - torch.arange(64)[1:-1] * 2 - 0.5).abs().max() <= 1
        stripes = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
        stripes[:, :, ::4] = 240  # finer than the small picture can show: they turn grey, not black
        assert (shrink(stripes, 64)[0, :, 1:-1].float() - 60).abs().max() < 12


class TestDamage:
    def test_in_evaluation_the_sample_is_empty(self, with_damage) -> None:
        sample = build(with_damage, num_views=2)[Draw(0, 2, 1)]
        assert not sample.content and (sample.index, sample.view) == (2, 1)
        (bad,) = sample.bad
        assert (bad.clip_id, bad.path) == (with_damage[2].clip_id, with_damage[2].video) and bad.reason

    def test_in_training_another_clip_stands_in(self, with_damage) -> None:
        dataset = build(with_damage)
        chosen = []
        for epoch in range(20):
            sample = dataset[Draw(epoch, 2)]
            assert sample.content and sample.index not in (2, 5)
            assert sample.bad[0].clip_id == with_damage[2].clip_id
            assert {bad.path for bad in sample.bad} <= {with_damage[i].video for i in (2, 5)}
            assert torch.equal(sample.target, dataset.target(sample.index))
            assert same(sample, build(with_damage)[Draw(epoch, 2)])
            chosen.append(sample.index)
        assert len(set(chosen)) > 3  # another one each epoch
        assert chosen != [build(with_damage, seed=1)[Draw(epoch, 2)].index for epoch in range(20)]

    def test_when_nothing_can_be_read(self, with_damage) -> None:
        sample = build([with_damage[2], with_damage[5]])[Draw(0, 0)]
        assert not sample.content and sample.index == 0 and len(sample.bad) == 1 + MAX_STAND_INS

    def test_every_number_of_workers_gives_the_same(self, with_damage) -> None:
        epochs = []
        for num_workers in (0, 1, 2):
            dataset = build(with_damage)
            sampler = DrawSampler(dataset, 1, 0, Shuffled(), seed=3)
            sampler.set_epoch(2)
            loader = DataLoader(dataset, 3, sampler=sampler, collate_fn=collate, num_workers=num_workers)
            epochs.append(list(loader))
        assert Counter(bad.clip_id for batch in epochs[0] for bad in batch.bad).keys() == {
            with_damage[2].clip_id,
            with_damage[5].clip_id,
        }
        for others in epochs[1:]:
            for ours, theirs in zip(epochs[0], others, strict=True):
                assert ours.bad == theirs.bad
                for a, b in zip(tensors_of(ours), tensors_of(theirs), strict=True):
                    assert torch.equal(a, b)

    @pytest.mark.parametrize(("kept", "lost"), [("video", "audio"), ("audio", "video")])
    def test_a_missing_stream_matters_only_where_it_is_wanted(self, tmp_path, kept, lost) -> None:
        recipe = Recipe(seconds=1.0, audio_codec=None) if kept == "video" else Recipe(".m4a", 1.0, video_codec=None)
        path = str(write_clip(tmp_path / f"clip{recipe.suffix}", recipe))
        example = Example("a", path, path)
        both = build([example], num_views=1)[Draw(0, 0)]
        assert not both.content and both.bad[0].reason == f"no {lost} stream"
        one = build([example], num_views=1, kinds=(kept,))[Draw(0, 0)]
        assert one.content and not one.bad
        assert (frames_of(one) is None, waveform_of(one) is None) == (kept == "audio", kept == "video")

    def test_a_clip_of_sound_only(self, examples) -> None:
        sound_only = Example("a", None, examples[0].audio)
        sample = build([sound_only], num_views=1, kinds=("audio",))[Draw(0, 0)]
        assert torch.equal(waveform_of(sample), waveform_of(build(examples, num_views=1)[Draw(0, 0)]))
        # Its file has pictures, but the manifest says that they are not the clip's.
        assert not build([sound_only], num_views=1)[Draw(0, 0)].content

    def test_pictures_and_sound_of_two_files(self, examples, tmp_path) -> None:
        both = replace(examples[0], audio=examples[1].audio)
        sample = build([both], num_views=1)[Draw(0, 0)]
        assert torch.equal(frames_of(sample), frames_of(build(examples, num_views=1)[Draw(0, 0)]))
        assert torch.equal(waveform_of(sample), waveform_of(build(examples, num_views=1)[Draw(0, 1)]))
        # The file that is not needed is not opened.
        for kinds, gone in ((("video",), "audio"), (("audio",), "video")):
            half = replace(both, **{gone: str(tmp_path / "gone.mp4")})
            assert build([half], num_views=1, kinds=kinds)[Draw(0, 0)].content

    def test_a_manifest_without_sound(self, examples) -> None:
        with pytest.raises(ClipError, match="the manifest names no audio file for this clip"):
            build([Example("a", examples[0].video, None)], kinds=("audio",)).read(Draw(0, 0))


class TestCache:
    def test_gives_equal_samples(self, examples) -> None:
        plain, cached = (build(examples, seconds=1.6, cache=cache) for cache in (False, True))
        for epoch, index in itertools.product(range(2), (1, 4)):
            assert same(plain[Draw(epoch, index)], cached[Draw(epoch, index)])
        assert cached.kept.keys() == {1, 4} and not plain.kept

    def test_reads_a_file_once(self, examples, tmp_path) -> None:
        copy = tmp_path / "copy.mp4"
        copy.write_bytes(Path(examples[0].video).read_bytes())
        example = replace(examples[0], video=str(copy), audio=str(copy))
        dataset = build([example], num_views=3, seconds=1.6, cache=True)
        first = dataset[Draw(0, 0, 1)]
        copy.unlink()
        assert same(dataset[Draw(5, 0, 2)], replace(first, view=2))

    @pytest.mark.parametrize("changes", [{"seconds": 0.8}, {"seconds": 1.6, "frame_seconds": 0.8}])
    def test_keeps_nothing_that_is_cut_at_random(self, examples, changes) -> None:
        dataset = build(examples, cache=True, **changes)
        dataset[Draw(0, 0)]
        assert not dataset.kept

    def test_does_not_keep_whose_place_a_stand_in_took(self, with_damage) -> None:
        dataset = build(with_damage, seconds=1.6, cache=True)
        first, second = dataset[Draw(0, 2)], dataset[Draw(0, 2)]
        assert same(first, second) and first.bad
        assert not dataset[Draw(0, first.index)].bad


class TestCollate:
    video, audio = SETTING.streams

    def sample(self, index: int, height: int, width: int, streams=SETTING.streams, bad=()) -> Sample:
        content = {
            self.video: torch.full((2, height, width, 3), index, dtype=torch.uint8),
            self.audio: torch.full((5,), float(index)),
        }
        content = {stream: content[stream] for stream in streams}
        return Sample(torch.eye(3)[index % 3], index, index % 2, content, bad)

    def test_pads_frames_and_leaves_out_the_empty(self) -> None:
        bad = tuple(BadClip(name, f"{name}.mp4", "damaged") for name in "abc")
        gone = self.sample(9, 8, 8, streams=(), bad=bad[1:])
        batch = collate([self.sample(1, 4, 6, bad=bad[:1]), gone, self.sample(2, 6, 3)])
        assert len(batch) == 2 and batch.bad == bad
        frames, sizes = batch.content[self.video]
        assert frames.shape == (2, 2, 6, 6, 3) and sizes.tolist() == [[4, 6], [6, 3]]
        assert (frames[0, :, :4] == 1).all() and not frames[0, :, 4:].any()
        assert (frames[1, :, :, :3] == 2).all() and not frames[1, :, :, 3:].any()
        assert batch.index.tolist() == [1, 2] and batch.view.tolist() == [1, 0]
        assert batch.content[self.audio].tolist() == [[1.0] * 5, [2.0] * 5]
        assert batch.targets.tolist() == [[0, 1, 0], [0, 0, 1]]

    @pytest.mark.parametrize("stream", SETTING.streams)
    def test_one_stream(self, stream) -> None:
        batch = collate([self.sample(i, 4, 4, (stream,)) for i in (1, 2)])
        assert list(batch.content) == [stream] and len(batch) == 2

    def test_nothing_but_empty_samples(self) -> None:
        batch = collate([self.sample(1, 4, 4, (), (BadClip("a", "a.mp4", "damaged"),))] * 2)
        assert len(batch) == 0 and len(batch.bad) == 2
        assert not batch.content and batch.targets.shape == (0, 3)
        assert batch.to("cpu").index.dtype == torch.long


def ranks(dataset, sampler: ClipSampler, epoch: int = 0, seed: int = 0, world: int = 2) -> list[list[Draw]]:
    samplers = [DrawSampler(dataset, world, rank, sampler, seed) for rank in range(world)]
    for one in samplers:
        one.set_epoch(epoch)
    draws = [list(one) for one in samplers]
    assert [len(one) for one in samplers] == [len(d) for d in draws]
    return draws


class TestSampler:
    @pytest.mark.parametrize("num_clips", [7, 8, 1])
    @pytest.mark.parametrize("num_views", [0, 1, 3])
    @pytest.mark.parametrize("sampler", [Shuffled(), InOrder()])
    def test_two_ranks_cover_everything(self, examples, num_clips, num_views, sampler) -> None:
        first, second = ranks(build(examples[:num_clips], num_views), sampler)
        assert len(first) == len(second)
        wanted = {(i, v) for i in range(num_clips) for v in range(max(1, num_views))}
        got = Counter((draw.index, draw.view) for draw in first + second)
        assert got.keys() == wanted and got.total() - len(wanted) == len(wanted) % 2  # what fills the last round

    @pytest.mark.parametrize("sampler", [Shuffled(), ClassBalanced()])
    def test_order_by_seed_and_epoch(self, examples, sampler) -> None:
        dataset = build(examples)
        orders = [ranks(dataset, sampler, epoch, seed) for epoch in (0, 1) for seed in (0, 10)]
        plain = [tuple(draw.index for draw in first + second) for first, second in orders]
        assert len(set(plain)) == 4
        assert ranks(dataset, sampler, 1, seed=10) == orders[3]
        assert {draw.epoch for rank in orders[3] for draw in rank} == {1}

    def test_the_order_of_earlier_versions(self, examples) -> None:
        """A run that was begun with one of them goes on with the clips that it would have drawn."""
        (draws,) = ranks(build(examples), Shuffled(), epoch=3, seed=5, world=1)
        generator = torch.Generator().manual_seed(chance("order", 5).getrandbits(62) + 3)
        assert [draw.index for draw in draws] == torch.randperm(8, generator=generator).tolist()

    def test_evaluation_is_in_order(self, examples) -> None:
        (draws,) = ranks(build(examples[:2], num_views=2), InOrder(), world=1)
        assert draws == [Draw(0, 0, 0), Draw(0, 0, 1), Draw(0, 1, 0), Draw(0, 1, 1)]


LABELS = [("a",)] * 60 + [("b",)] * 30 + [("a", "c")] * 8 + [("c",)] * 2 + [()] * 20
"""Of 120 clips: a stands 68 times, b 30, c 10."""


@pytest.fixture(params=["examples", "table"])
def uneven(request, tmp_path) -> ClipDataset:
    """Those clips, as examples and as a manifest's table."""
    examples = [Example(str(i), "x.mp4", "x.mp4", labels=labels) for i, labels in enumerate(LABELS)]
    if request.param == "examples":
        return ClipDataset(examples, "abc", SETTING, num_views=0)
    rows = [ManifestRow(e.clip_id, None, None, None, "x.mp4", None, None, None, e.labels, "train") for e in examples]
    write_manifest(tmp_path / "m.parquet", [rows[0]._replace(clip_id="other", split="test"), *rows], "abc")
    return ClipDataset(read_manifest(tmp_path / "m.parquet").split("train"), "abc", SETTING, num_views=0)


class TestClassBalanced:
    def test_clips_are_drawn_by_the_weights_of_their_classes(self, uneven) -> None:
        """A clip's chance is the sum over its labels of 1000 / (clips of that label + 0.01), as AST's, written out."""
        weigh = {"a": 1000 / 68.01, "b": 1000 / 30.01, "c": 1000 / 10.01}
        weights = torch.tensor([sum(weigh[label] for label in labels) for labels in LABELS], dtype=torch.double)
        drawn = torch.zeros(len(LABELS))
        for epoch in range(400):
            index, _ = ClassBalanced()(uneven, seed=0, epoch=epoch)
            assert len(index) == len(LABELS)
            drawn += torch.bincount(torch.from_numpy(index), minlength=len(LABELS))
        expected = weights / weights.sum() * drawn.sum()
        assert not drawn[100:].any()  # without labels
        assert ((drawn - expected).abs() <= 5 * expected.sqrt()).all()

    @pytest.mark.parametrize("world", [2, 3, 7])
    def test_ranks_share_what_one_process_draws(self, uneven, world) -> None:
        (alone,) = ranks(uneven, ClassBalanced(), epoch=4, seed=1, world=1)
        parts = ranks(uneven, ClassBalanced(), epoch=4, seed=1, world=world)
        assert len(alone) == 120 and {len(part) for part in parts} == {-(-120 // world)}
        together = [draw for turn in zip(*parts, strict=True) for draw in turn]
        assert together[:120] == alone and together[120:] == alone[: len(together) - 120]

    def test_a_clip_drawn_again_gives_another_window(self, uneven) -> None:
        (draws,) = ranks(uneven, ClassBalanced(), world=1)
        assert len(set(draws)) == 120 > len({draw.index for draw in draws})
        most, count = Counter(draw.index for draw in draws).most_common(1)[0]
        again = [draw for draw in draws if draw.index == most]
        assert [draw.view for draw in again] == list(range(count))
        assert len({starts_of(uneven, draw, 10.0) for draw in again}) == count

    def test_times_before(self) -> None:
        assert times_before(np.array([5, 2, 5, 9, 2, 5])).tolist() == [0, 0, 1, 0, 1, 2]

    def test_clips_without_labels_are_refused(self) -> None:
        dataset = ClipDataset([Example("a", "x.mp4", "x.mp4")] * 3, "abc", SETTING, num_views=0)
        with pytest.raises(UserError, match="no clip of the split has one: use Shuffled"):
            ClassBalanced()(dataset, 0, 0)

    def test_two_million_clips_take_seconds(self) -> None:
        """The arithmetic alone, on labels without objects."""
        clips = np.arange(2_000_000)

        class Many(ClipDataset):
            def labelled(self):
                return clips, clips % 527

        dataset = Many(range(2_000_000), "", SETTING, num_views=0)
        start = time.process_time()
        index, _ = ClassBalanced()(dataset, 0, 0)
        assert len(index) == 2_000_000 and time.process_time() - start < 10


def bits(facts: Facts) -> tuple[bool, ...]:
    return (facts.red, facts.early_flash, facts.high, facts.early_burst)


class TestDemo:
    def test_the_encoder_is_told_to_be_the_same_each_time(self, demo) -> None:
        """One clip in a hundred is not, by its macroblock tree, which is too rare to see here."""
        for clip in demo.parent.glob("clips/*.mp4"):
            assert b" mbtree=0 " in clip.read_bytes(), "x264 notes its settings in every stream"

    def test_the_manifest(self, demo) -> None:
        manifest = read_manifest(demo)
        assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 8, "val": 2, "test": 4}
        assert (manifest.classes, manifest.groups) == tuple(zip(*CLASSES, strict=True))
        assert all(Path(e.video).is_file() for rows in manifest.splits.values() for e in rows)

    def test_its_bytes_depend_on_its_seed_only(self, tmp_path) -> None:
        def files(folder: str, seed: int) -> dict[str, bytes]:
            root = demo_manifest(DemoSize(2, 1, 0, seed), cache=tmp_path / folder).parent
            return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

        first, again, other = files("a", 0), files("b", 0), files("a", 1)
        assert first == again and len(first) == 5
        assert first.keys() == other.keys()
        assert all(first[name] != other[name] for name in first if name.endswith(".mp4"))

    def test_facts_are_balanced_and_labels_follow_them(self) -> None:
        size = DemoSize(64, 16, 32)
        for split in ("train", "val", "test"):
            clips = [(row, facts) for row, facts, _ in plan(size) if row["split"] == split]
            assert set(Counter(bits(facts) for _, facts in clips).values()) == {len(clips) // 16}
            labels = Counter(label for row, _ in clips for label in row["labels"].split("|"))
            assert labels == dict.fromkeys(NAMES, len(clips) // 2)
            assert all(row["labels"].split("|") == facts.labels() for row, facts in clips)
        seeds = [seed for _, _, seed in plan(size)]
        assert len(set(seeds)) == len(seeds)

    def test_no_modality_alone_says_anything_about_a_relation(self) -> None:
        """Whatever is known of the pictures (or of the sound), every relation class is as likely as not."""
        groups = dict(CLASSES)
        relations = [name for name in NAMES if groups[name] == "relation"]
        assert len(relations) == 4
        everything = [Facts(*values) for values in itertools.product((False, True), repeat=4)]
        for known in (lambda f: (f.red, f.early_flash), lambda f: (f.high, f.early_burst)):
            for seen in set(map(known, everything)):
                fitting = [facts.labels() for facts in everything if known(facts) == seen]
                assert [sum(name in labels for labels in fitting) for name in relations] == [2, 2, 2, 2]
        for facts in everything:
            assert ("tone against colour" in facts.labels()) == facts.red ^ facts.high
            assert ("burst apart from flash" in facts.labels()) == facts.early_flash ^ facts.early_burst

    def test_a_relation_is_no_sum_of_scores(self) -> None:
        """An exclusive-or: the scores of two clips of one kind sum to those of two clips of the other."""
        fits = [Facts(True, True, True, True), Facts(False, True, False, True)]
        against = [Facts(True, True, False, True), Facts(False, True, True, True)]
        assert all("tone fits colour" in f.labels() for f in fits)
        assert all("tone against colour" in f.labels() for f in against)
        for known in (lambda f: (f.red, f.early_flash), lambda f: (f.high, f.early_burst)):
            assert Counter(map(known, fits)) == Counter(map(known, against))

    def test_the_clips_show_their_facts(self, examples) -> None:
        dataset = build(examples, num_views=1, seconds=1.6, num_frames=16)
        for index, example in enumerate(examples):
            sample = dataset[Draw(0, index)]
            frames, sound = frames_of(sample).float(), waveform_of(sample)
            redness = (frames[..., 0] - frames[..., 2]).mean()
            assert (redness > 0) == ("red disc" in example.labels)
            brightness = frames.mean((1, 2, 3))
            assert (brightness[:8].mean() > brightness[8:].mean()) == ("early flash" in example.labels)
            spectrum = torch.fft.rfft(sound).abs()
            pitch_hz = spectrum.argmax().item() / 1.6
            assert (pitch_hz > 1000) == ("high tone" in example.labels)
            hiss = torch.stft(sound, 256, window=torch.hann_window(256), return_complex=True).abs()[112:].mean(0)
            middle = len(hiss) // 2
            assert (hiss[:middle].mean() > hiss[middle:].mean()) == ("early burst" in example.labels)

    def test_two_processes_at_once_make_one_data_set(self, tmp_path) -> None:
        code = (
            "from mbt_lightning.data.demo import DemoSize, demo_manifest\n"
            f"print(demo_manifest(DemoSize(3, 0, 1), cache={str(tmp_path)!r}))"
        )
        both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        paths = {process.communicate(timeout=120)[0].strip() for process in both}
        assert [process.returncode for process in both] == [0, 0]
        (path,) = paths
        assert {split: len(rows) for split, rows in read_manifest(path).splits.items()} == {"train": 3, "test": 1}
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [Path(path).parent.name]  # nothing unfinished

    def test_what_a_killed_process_left_is_not_used(self, tmp_path) -> None:
        size = DemoSize(1, 0, 0)
        left = tmp_path / ".demo-killed"
        (left / "clips").mkdir(parents=True)
        (left / "manifest.csv").write_text("clip_id,video,labels,split\n")
        manifest = demo_manifest(size, cache=tmp_path)
        assert manifest.parent != left and len(read_manifest(manifest).split("train")) == 1
        before = manifest.stat().st_mtime_ns
        assert demo_manifest(size, cache=tmp_path) == manifest and manifest.stat().st_mtime_ns == before
