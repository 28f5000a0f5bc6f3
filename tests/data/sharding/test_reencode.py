"""`mbt shard`: clips of which every instant is known, re-encoded both ways, read back, trained on, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from media import FPS, SAMPLE_RATE, Recipe, find_sound, read_number, write_clip
from torch.utils.data import DataLoader

from mbt_lightning.cli.main import main
from mbt_lightning.data.dataset import ClipDataset, WindowSetting, collate
from mbt_lightning.data.manifest.manifest import Manifest, ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.media import shard_records as shards
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import Draw, Example
from mbt_lightning.data.samplers import ClassBalanced, DrawSampler
from mbt_lightning.data.sharding.reencode import WRITERS, Segment, Target, compare
from mbt_lightning.data.store import store_of
from mbt_lightning.data.streams import AudioStream, VideoStream
from mbt_lightning.errors import UserError

FORMATS = ("mp4-intra", "jpeg-shards")
STORED_FPS = 5
KINDS = ("video", "audio")
SECONDS, NUM_FRAMES = 0.8, 4
TARGET = Target(STORED_FPS, 256, SAMPLE_RATE, 23, 90)
LATE = 0.4


def make_clips(folder: Path) -> Path:
    """Counter clips of four seconds and a manifest of them; returns the manifest."""
    write_clip(folder / "plain.mp4", Recipe())
    write_clip(folder / "late.mp4", Recipe(audio_delay=LATE))
    write_clip(folder / "early.mkv", Recipe(suffix=".mkv", video_delay=LATE))
    write_clip(folder / "silent.mp4", Recipe(audio_codec=None))
    write_clip(folder / "sound.flac", Recipe(suffix=".flac", video_codec=None, audio_codec="flac"))
    (folder / "damaged.mp4").write_bytes((folder / "plain.mp4").read_bytes()[:20_000])

    def row(name: str, video, audio=None, start=None, end=None, split="train", status="ok") -> ManifestRow:
        labels = ["b"] if name in ("late", "early") else ["a"]
        return ManifestRow(name, "s", 1.0, 5.0, video, audio, start, end, labels, split, status, "x.csv:3")

    rows = [
        row("plain", "plain.mp4"),
        row("late", "late.mp4"),
        row("early", "early.mkv"),
        row("part", "plain.mp4", start=1.3, end=3.5),
        row("two files", "silent.mp4", "sound.flac"),
        row("part of two", "silent.mp4", "sound.flac", 0.5, 3.0),
        row("damaged", "damaged.mp4"),
        row("lost", "nowhere.mp4", status="missing"),
        row("silent", "silent.mp4", split="pictures"),
        row("sound", None, "sound.flac", start=1.0, end=3.0, split="sound"),
        row("val", "plain.mp4", split="val"),
        row("test", "plain.mp4", split="test"),
    ]
    write_manifest(folder / "m.csv", rows, ("a", "b"), ("x", "y"), {"dataset": "counters"})
    return folder / "m.csv"


WHERE = {  # begin of the segment in the source, begin of its sound there
    "plain": (0.0, 0.0),
    "late": (0.0, LATE),
    "early": (0.0, -LATE),
    "part": (1.3, 0.0),
    "two files": (0.0, 0.0),
    "part of two": (0.5, 0.0),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_clips(tmp_path_factory.mktemp("counters"))


@pytest.fixture(scope="module", params=FORMATS)
def sharded(request, source, tmp_path_factory) -> Manifest:
    """The manifest of the re-encoded clips."""
    folder = tmp_path_factory.mktemp("shard") / "new"
    shard(source, folder, request.param)
    return read_manifest(folder / "manifest.parquet")


def shard(source: Path, folder: Path, kind: str, *more: str) -> None:
    main(["shard", str(source), "--out", str(folder), "--format", kind, "--num_workers", "1", *more])


def dataset(
    manifest: Manifest, split="train", num_views=0, kinds=KINDS, num_frames=NUM_FRAMES, frame_seconds=None, rate=16_000
) -> ClipDataset:
    streams = {"video": VideoStream(num_frames, frame_seconds), "audio": AudioStream(rate)}
    setting = WindowSetting(SECONDS, tuple(streams[kind] for kind in kinds))
    return ClipDataset(manifest.split(split), manifest.classes, setting, num_views, 0, store_of(manifest))


def content(sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and waveform."""
    frames, waveform = sample.content.values()
    return frames, waveform


def numbers(frames) -> list[int]:
    return [read_number(frame.numpy()) for frame in frames]


@pytest.mark.parametrize("kind", FORMATS)
def test_all_pictures_of_a_clip_whose_sound_is_late(tmp_path, kind) -> None:
    """AAC begins one of its steps early, with silence: more than a picture lasts."""
    clip = write_clip(tmp_path / "late.mp4", Recipe(audio_delay=LATE))
    segment, file = Segment(Example("x", str(clip), str(clip)), replace(TARGET, fps=FPS)), tmp_path / "new.mp4"
    WRITERS[kind].write(segment, file)
    assert compare(segment, WRITERS[kind].open(file)).correlation > 0.9


class TestWhatIsRead:
    @pytest.mark.parametrize("name", WHERE)
    def test_pictures_and_sound_are_those_of_their_instant(self, sharded, name) -> None:
        """At any start, in a segment, with streams that start apart, with two files."""
        examples = {example.clip_id: example for example in sharded.split("train")}
        media = store_of(sharded).open(examples[name], KINDS)
        begin, sound_begin = WHERE[name]
        for start in (0.0, 0.2, 0.73, 1.1):
            frames, *_ = media.read_frames(start, SECONDS, NUM_FRAMES)
            waveform, _ = media.read_audio(start, SECONDS, SAMPLE_RATE)
            instants = np.floor((start + np.arange(4) * 0.2) * STORED_FPS + 1e-6) / STORED_FPS
            shown = np.floor((begin + instants) * FPS + 1e-6).astype(int).tolist()
            assert numbers(frames) == shown
            begins = max(start, sound_begin - begin)  # the noise of what lies before is silence
            at = find_sound(waveform.numpy()[round((begins - start) * SAMPLE_RATE) :])
            assert at == pytest.approx(begin + begins - sound_begin, abs=0.002)

    def test_windows_are_those_of_the_files(self, source, sharded) -> None:
        """The same draws: the same sound, and the picture that was kept last by then."""
        files = dataset(read_manifest(source))
        places = {example.clip_id: i for i, example in enumerate(files.examples)}
        stored = dataset(sharded)
        for i, example in enumerate(stored.examples):
            duration = files.store.open(files.examples[places[example.clip_id]], KINDS).seconds
            if example.clip_id.startswith("part"):
                continue  # its instants are counted from its own begin
            assert stored.store.open(example, KINDS).seconds == pytest.approx(duration, abs=0.001)
            for draw in (Draw(0, i), Draw(3, i, 1)):
                start, _ = stored.starts(draw, duration).values()
                frames, waveform = content(stored.read(draw))
                media = files.store.open(files.examples[places[example.clip_id]], KINDS)
                frames_then, *_ = media.read_frames(start, SECONDS, NUM_FRAMES)
                waveform_then, _ = media.read_audio(start, SECONDS, SAMPLE_RATE)
                behind = np.array(numbers(frames_then)) - numbers(frames)
                assert behind.min() >= 0 and behind.max() < FPS / STORED_FPS
                at, was_at = (find_sound(x.numpy()) for x in (waveform, waveform_then))
                assert at == pytest.approx(was_at, abs=0.001)  # Matroska's times are whole milliseconds

    def test_one_stream_is_enough(self, sharded) -> None:
        (frames,) = dataset(sharded, "pictures", kinds=("video",)).read(Draw(0, 0)).content.values()
        assert frames.shape == (4, 96, 128, 3)
        (waveform,) = dataset(sharded, "sound", 2, kinds=("audio",)).read(Draw(0, 0, 1)).content.values()
        assert find_sound(waveform.numpy()) == pytest.approx(1.0 + 1.2, abs=0.002)
        for split, missing in {"pictures": "audio", "sound": "video"}.items():
            with pytest.raises(ClipError, match=missing):
                dataset(sharded, split).read(Draw(0, 0))

    def test_other_rates_than_the_stored_ones(self, sharded) -> None:
        clips = dataset(sharded, "val", 1, num_frames=8, rate=8000, frame_seconds=0.4)
        frames, waveform = content(clips.read(Draw(0, 0)))
        assert numbers(frames) == [45] * 4 + [50] * 4  # 1.8 s and on
        assert len(waveform) == 6400
        assert find_sound(waveform.numpy(), 8000) == pytest.approx(1.6, abs=0.002)

    def test_the_last_picture_is_held(self, sharded) -> None:
        media = store_of(sharded).open(sharded.split("val")[0], KINDS)
        frames, _, num_real_frames = media.read_frames(3.7, SECONDS, NUM_FRAMES)
        waveform, _ = media.read_audio(3.7, SECONDS, SAMPLE_RATE)
        assert numbers(frames) == [90, 95, 95, 95] and num_real_frames == 2
        assert waveform[-4000:].abs().max() == 0 and waveform[:4000].abs().max() > 0

    def test_samplers_draw_and_workers_read(self, source, sharded) -> None:
        """Forked workers of a process that has read already; the draws are those of the files."""
        clips = dataset(sharded)
        clips.read(Draw(0, 0))
        orders = []
        for examples in (clips, dataset(read_manifest(source))):
            kept = [example for example in examples.examples if example.clip_id != "damaged"]
            equal = ClipDataset(kept, "ab", examples.setting, 0, 0, examples.store)
            orders.append([draw.index for draw in DrawSampler(equal, 1, 0, ClassBalanced(), seed=1)])
        assert orders[0] == orders[1] and len(set(orders[0])) > 2
        sampler = DrawSampler(clips, 1, 0, ClassBalanced(), seed=1)
        loader = DataLoader(clips, 2, sampler=sampler, collate_fn=collate, num_workers=2, timeout=120)
        batches = list(loader)
        assert torch.cat([batch.index for batch in batches]).tolist() == orders[0]
        assert not [bad for batch in batches for bad in batch.bad]
        alone = [content(clips[draw])[1] for draw in sampler]
        together = [batch.content[AudioStream(SAMPLE_RATE)] for batch in batches]
        assert torch.equal(torch.cat(together), torch.stack(alone))


def test_spawned_workers_read_records(source, tmp_path) -> None:
    shard(source, tmp_path / "new", "jpeg-shards")
    clips = dataset(read_manifest(tmp_path / "new" / "manifest.parquet"), "val", num_views=3)
    draws = [Draw(0, 0, view) for view in range(3)]
    loader = DataLoader(clips, None, sampler=draws, num_workers=1, multiprocessing_context="spawn", timeout=200)
    assert [numbers(content(sample)[0]) for sample in loader] == [numbers(content(clips[draw])[0]) for draw in draws]


def test_colours_and_training(demo, tmp_path, capsys) -> None:
    """The one option `data.manifest` is all that training needs; the embedded clips keep their colours."""
    for kind in FORMATS:
        shard(demo, tmp_path / kind, kind, "--fps", "20")
        new = read_manifest(tmp_path / kind / "manifest.parquet")
        old = read_manifest(demo)
        assert new.classes == old.classes and new.groups == old.groups
        assert [example.labels for example in new.split("train")] == [example.labels for example in old.split("train")]
        for i in range(4):
            now, then = (content(dataset(m, "test", 1).read(Draw(0, i)))[0].float() for m in (new, old))
            assert (now.mean((0, 1, 2)) - then.mean((0, 1, 2))).abs().max() < 2, "of each colour"
            assert 10 * torch.log10(255**2 / (now - then).square().mean()) > 30
        point = ["--config", "experiments/bottleneck_b4_lf8.yaml", "--runs", str(tmp_path / "runs")]
        point += ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "1"]
        point += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
        point += ["--data.batch_size", "4", "--data.num_workers", "0", "--data.sampler", "ClassBalanced"]
        main(["fit", *point, "--data.manifest", str(tmp_path / kind / "manifest.parquet")])
        assert "mAP" in capsys.readouterr().out


class TestWhatIsWritten:
    def test_the_manifest(self, source, sharded) -> None:
        old = read_manifest(source)
        assert sharded.classes == ("a", "b") and sharded.groups == ("x", "y")
        assert sharded.counts["train"] == {"ok": 6, "unreadable": 1, "missing": 1}
        assert sharded.metadata["dataset"] == "counters"
        known = sharded.metadata["shard"]
        assert (known["fps"], known["source_hash"]) == (STORED_FPS, old.digest)
        for example in chain(*sharded.splits.values()):
            assert (example.start_seconds, example.end_seconds) == (0, None)
        examples = {example.clip_id: example for example in sharded.split("train")}
        assert examples.keys() == WHERE.keys() and examples["late"].labels == ("b",)

    def test_what_is_lost_is_told(self, sharded) -> None:
        lines = (sharded.path.parent / "manifest.parquet.report.txt").read_text().splitlines()
        assert len(lines) == 2 and lines[1] == "lost: missing before"
        assert lines[0].startswith("damaged: unreadable: ") and "damaged.mp4: truncated: only 23 of 100" in lines[0]

    def test_nothing_else_is_left(self, sharded) -> None:
        left = {path.suffix for path in sharded.path.parent.rglob("*") if path.is_file()}
        assert left <= {".parquet", ".txt", ".json", ".lock", "", ".mp4", ".bin"}

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            (Example("a", "late.mp4", "late.mp4"), r"the audio's correlation is -?0\.0"),
            (Example("a", "silent.mp4", "silent.mp4"), "no audio stream"),
            (Example("a", None, "sound.flac"), "no video stream"),
            (Example("a", "plain.mp4", "plain.mp4", 0.0, 3.0), "3.000 s long, not 4.0"),
            (Example("a", "plain.mp4", "plain.mp4", 0.12), r"the frame at \d.\d0 s has \d.\d dB"),
        ],
    )
    def test_a_wrong_clip_is_found_out(self, source, tmp_path, kind, other, reason) -> None:
        """What was written of another clip, or of another part, does not pass."""

        def segment(example: Example) -> Segment:
            video, audio = (x and str(source.parent / x) for x in (example.video, example.audio))
            return Segment(replace(example, video=video, audio=audio), TARGET)

        path = tmp_path / f"x{WRITERS[kind].suffix}"
        WRITERS[kind].write(segment(other), path)
        with pytest.raises(ClipError, match=reason):
            compare(segment(Example("a", "plain.mp4", "plain.mp4")), WRITERS[kind].open(path))


class TestAgain:
    @pytest.mark.parametrize("kind", ["jpeg-shards", pytest.param("mp4-intra", marks=pytest.mark.slow)])
    def test_a_killed_run_goes_on(self, source, tmp_path, kind) -> None:
        """Kill -9 with some clips done: the second run leaves these alone and does the others."""
        folder = tmp_path / "new"
        done = f"{folder}/clips/*/*.mp4" if kind == "mp4-intra" else f"{folder}/shards/*.json"
        # Each record a chunk of its own.
        code = (
            "import sys; from mbt_lightning.cli.main import main; from mbt_lightning.data.sharding import chunks;"
            "chunks.CHUNK_BYTES = 1"
        )
        words = ["shard", str(source), "--out", str(folder), "--format", kind, "--num_workers", "1"]
        killed = subprocess.Popen([sys.executable, "-c", f"{code}; main({words!r})"], start_new_session=True)
        pattern = str(Path(done).relative_to(folder))
        while len(list(folder.glob(pattern))) < 2 and killed.poll() is None:
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert killed.returncode == -signal.SIGKILL and not (folder / "manifest.parquet").exists()
        before = {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}

        main(words)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        manifest = read_manifest(folder / "manifest.parquet")
        assert manifest.counts["train"] == {"ok": 6, "unreadable": 1, "missing": 1}
        assert not list(folder.rglob("*.new"))
        for example in manifest.split("train"):  # each its own
            media = store_of(manifest).open(example, KINDS)
            start = WHERE[example.clip_id][0]
            frames, *_ = media.read_frames(0.0, SECONDS, NUM_FRAMES)
            assert numbers(frames)[0] == round(start * FPS - 0.5 * (start == 1.3))

    def test_other_options_are_refused(self, source, sharded, capsys) -> None:
        folder, kind = sharded.path.parent, sharded.metadata["shard"]["format"]
        with pytest.raises(SystemExit):
            shard(source, folder, kind, "--short_side", "128")
        assert "was started with short_side 256, not 128; give another folder" in capsys.readouterr().err
        before = sharded.path.read_bytes()
        shard(source, folder, kind)
        assert sharded.path.read_bytes() == before

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--fps", "0"], "fps is 0.0: give a number from 0.1 to 120"),
            (["--jpeg_quality", "101"], "jpeg_quality is 101"),
            (["--num_workers", "0"], "num_workers is 0"),
            (["--format", "tar"], "'tar'"),
        ],
    )
    def test_wrong_options(self, source, tmp_path, capsys, words, message) -> None:
        with pytest.raises(SystemExit):
            main(["shard", str(source), "--out", str(tmp_path / "new"), *words])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "new").exists()

    def test_records_are_not_sharded_again(self, sharded, tmp_path, capsys) -> None:
        if sharded.metadata["store"] == "files":
            shard(sharded.path, tmp_path / "again", "mp4-intra")
            assert read_manifest(tmp_path / "again/manifest.parquet").counts == sharded.counts
        else:
            with pytest.raises(SystemExit):
                shard(sharded.path, tmp_path / "again", "mp4-intra")
            assert "its clips are already jpeg-shards" in capsys.readouterr().err

    def test_a_file_in_the_place_of_the_folder(self, source, tmp_path, capsys) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit):
            shard(source, tmp_path / "file", "mp4-intra")
        assert "file: cannot be written (File exists)" in capsys.readouterr().err

    def test_a_folder_with_something_else(self, source, tmp_path, capsys) -> None:
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(SystemExit):
            shard(source, tmp_path, "mp4-intra")
        assert "is neither empty nor made by mbt shard" in capsys.readouterr().err

    def test_packages_that_are_missing(self, source, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setattr(shards, "PACKAGES", ("litdata", "no_such_package"))
        with pytest.raises(SystemExit):
            shard(source, tmp_path / "new", "jpeg-shards")
        assert "need no_such_package: pip install 'mbt-lightning[shards]'" in capsys.readouterr().err


class TestDamage:
    def test_records(self, tmp_path, source) -> None:
        path = str(source.parent / "plain.mp4")
        WRITERS["jpeg-shards"].write(Segment(Example("a", path, path), TARGET), tmp_path / "x")
        content = (tmp_path / "x").read_bytes()
        begin = 4 + int.from_bytes(content[:4], "little")
        cases = {
            b"": "no header",
            content[:2000]: "no header|bytes, not",
            content[:-1]: f"has {len(content) - 1} bytes, not {len(content)}",
            content.replace(b'"version": 1', b'"version": 7'): "of version 7; this program reads 1",
            content[:begin] + bytes(len(content) - begin): "damaged",
        }
        for damaged, reason in cases.items():
            with pytest.raises(ClipError, match=reason):
                shards.Record("x", damaged).read_frames(0.0, SECONDS, NUM_FRAMES)

    def test_a_chunk_that_is_gone(self, source, tmp_path) -> None:
        shard(source, tmp_path / "new", "jpeg-shards")
        manifest = read_manifest(tmp_path / "new" / "manifest.parquet")
        (tmp_path / "new" / "shards" / "chunk-0-0.bin").unlink()
        sample = dataset(manifest, "val", 1)[Draw(0, 0)]
        assert not sample.content and "no such record, or its chunk is damaged" in sample.bad[0].reason

    def test_a_store_that_is_not_known(self, source, tmp_path) -> None:
        rows = [ManifestRow("x", None, None, None, "x.mp4", None, None, None, ["a"], "train")]
        write_manifest(tmp_path / "m.parquet", rows, ("a",), (), {"store": "tape"})
        with pytest.raises(UserError, match="store is 'tape', which this version cannot read; it reads files, jpeg"):
            store_of(read_manifest(tmp_path / "m.parquet"))
