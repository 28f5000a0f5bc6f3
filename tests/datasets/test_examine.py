"""Probing: what is in a file, whatever state it is in, and workers that die of it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import media
import numpy as np
import pytest
from media import Recipe

from mbt_lightning.data import worker_pool
from mbt_lightning.datasets import examine as probe
from mbt_lightning.datasets.examine import Probed, probe_media
from mbt_lightning.errors import UserError

SHORT = Recipe(seconds=2.0)


# ---- what workers are made to do; by name, since they import this file ----------------------------------------------


def behave(path: str) -> Probed:
    """Act as the file's name requests."""
    name = os.path.basename(path)
    if name.startswith("hang"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(600)
    elif name.startswith("abort"):
        os.abort()
    elif name.startswith("exit"):
        os._exit(0)
    elif name.startswith("eat"):
        eaten = []
        while True:
            eaten.append(np.empty(64 << 20, dtype=np.uint8))
    elif name.startswith("raise"):
        raise ValueError("two\nlines")
    elif name.startswith("away"):
        raise OSError(5, "Input/output error")
    return Probed("ok", has_video=True, video_seconds=float(Path(path).stat().st_size), num_frames=os.getpid())


def slow(path: str) -> Probed:
    time.sleep(0.1)
    return behave(path)


def die(path: str) -> str:
    os.abort()


BEHAVE, SLOW = f"{__name__}:behave", f"{__name__}:slow"


@pytest.fixture
def run(tmp_path):
    """Probe with two workers, one cache and no bar."""
    return functools.partial(probe_media, cache=tmp_path / "cache" / "probe.jsonl", num_workers=2, progress=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return media.write_clip(tmp_path_factory.mktemp("good") / "good.mp4", SHORT)


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_text("1234")
    return [str(folder / name) for name in names]


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_facts_of_good_files(tmp_path, run, good) -> None:
    webm = Recipe(".webm", 2.0, video_codec="libvpx", audio_codec="libopus", sample_rate=48_000)
    wav = Recipe(".wav", 2.0, video_codec=None, audio_codec="pcm_s16le", sample_rate=16_000)
    disguised = media.write_clip(tmp_path / "b.webm", webm).rename(tmp_path / "b.mp4")  # names prove nothing
    paths = [str(good), str(disguised), str(media.write_clip(tmp_path / "c.wav", wav))]
    mp4, webm_named_mp4, audio_only = run(paths).values()
    for found, rate in ((mp4, 44_100), (webm_named_mp4, 48_000)):
        assert found.status == "ok" and found.reason == "" and found.has_video and found.has_audio
        assert (found.width, found.height, found.num_frames) == (media.WIDTH, media.HEIGHT, 50)
        assert found.frames_per_second == pytest.approx(25, abs=0.1) and found.sample_rate == rate
        assert found.video_seconds == pytest.approx(2.0, abs=0.02)
        assert found.audio_seconds == pytest.approx(2.0, abs=0.1) and found.damage is None
    assert audio_only == Probed("no_video", has_audio=True, audio_seconds=2.0, sample_rate=16_000)


def cut_moov(data: bytes) -> bytes:
    """An MP4 whose index lies at its end, cut off before that."""
    return data[: data.index(b"moov") - 4]


def wreck_codec(data: bytes) -> bytes:
    """The decoder's own header is noise: packets are listed, but nothing decodes."""
    at = data.index(b"avcC") + 4
    return data[:at] + bytes(40) + data[at + 40 :]


NOISE = np.random.default_rng(0).bytes(20_000)
AT_END = Recipe(seconds=2.0, container_options=())
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"0" * 64)
DAMAGED = {
    # name: (recipe or bytes, change, status, reason)
    "truncated.mp4": (SHORT, lambda data: data[: len(data) * 6 // 10], "unreadable", "truncated"),
    "truncated_end.mp4": (AT_END, lambda data: data[: len(data) * 6 // 10], "unreadable", "damaged"),
    "no_moov.mp4": (AT_END, cut_moov, "unreadable", "damaged"),
    "header.mp4": (SHORT, lambda data: data[:64], "unreadable", "no audio and no video"),
    "empty.mp4": (b"", None, "unreadable", "empty"),
    "noise.mp4": (NOISE, None, "unreadable", ""),
    "noise.wav": (NOISE, None, "unreadable", ""),
    "zeros.mp4": (bytes(20_000), None, "unreadable", "damaged"),
    "text.mp4": (b"a line of text\n" * 50, None, "unreadable", "not a media file"),
    "page.mp4": (b"<!DOCTYPE html><html>429 Too Many Requests</html>", None, "unreadable", "web page"),
    "pointer.mp4": (POINTER, None, "pointer", "git lfs pull"),
    "pointer.wav": (POINTER, None, "pointer", "git lfs pull"),
    "codec.mp4": (SHORT, wreck_codec, "unreadable", "the video stream cannot be decoded"),
    "no_audio.mp4": (Recipe(seconds=2.0, audio_codec=None), None, "no_audio", ""),
    "no_video.mp4": (Recipe(seconds=2.0, video_codec=None), None, "no_video", ""),
    "one_frame.mp4": (Recipe(seconds=0.04, audio_codec=None), None, "no_audio", ""),
    "short_sound.mp4": (Recipe(seconds=4.0, audio_delay=3.0), None, "ok", ""),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> dict[str, str]:
    folder, made = tmp_path_factory.mktemp("damaged"), {}
    for name, (source, change, _, _) in DAMAGED.items():
        path = folder / name
        if isinstance(source, Recipe):
            media.write_clip(path, source)
        else:
            path.write_bytes(source)
        if change:
            path.write_bytes(change(path.read_bytes()))
        made[name] = str(path)
    return made


def test_damaged_files_are_recognised(damaged, run) -> None:
    found = run(damaged.values())
    for name, (_, _, status, reason) in DAMAGED.items():
        result = found[damaged[name]]
        assert (name, result.status) == (name, status), result
        assert reason in result.reason and "\n" not in result.reason
    assert found[damaged["one_frame.mp4"]].num_frames == 1
    assert found[damaged["one_frame.mp4"]].video_seconds == pytest.approx(0.04)
    wrecked = found[damaged["codec.mp4"]]
    assert wrecked.has_audio and not wrecked.has_video and wrecked.audio_seconds


def test_pictures_and_sound_of_unlike_length(tmp_path, run) -> None:
    sound_ends_early = media.write_clip(tmp_path / "a.mkv", Recipe(".mkv", 1.0))
    long_pictures = media.write_clip(tmp_path / "b.mp4", Recipe(times=(0.0, 1.0, 4.0), seconds=1.0))
    first, second = run([str(sound_ends_early), str(long_pictures)]).values()
    assert first.seconds == pytest.approx(1.0, abs=0.1)
    assert second.status == "ok" and second.video_seconds > 4 and second.audio_seconds == pytest.approx(1.0, abs=0.1)
    assert second.seconds == second.video_seconds


def test_what_is_no_file_costs_no_worker(tmp_path, run) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    paths = [str(tmp_path / name) for name in ("fifo.mp4", "folder.mp4", "gone.mp4")]
    found = run(paths)
    assert [found[path].status for path in paths] == ["unreadable"] * 3
    assert [found[path].reason for path in paths] == [
        "not a file",
        "not a file",
        "cannot be read (No such file or directory)",
    ]


# ---- strict ---------------------------------------------------------------------------------------------------------


def test_the_strict_pass_reports_what_packets_do_not_show(tmp_path, run, good) -> None:
    data = bytearray(good.read_bytes())
    for at in range(data.index(b"mdat") + 2000, len(data) - 100, 997):
        data[at] ^= 0xFF
    flipped = tmp_path / "flipped.mp4"
    flipped.write_bytes(data)
    paths = [str(good), str(flipped), *touch(tmp_path, "text.mp4")]
    quick = run(paths)
    assert quick[str(flipped)].status == "ok" and quick[str(flipped)].damage is None
    strict = run(paths, strict=True)
    assert strict[str(good)] == quick[str(good)]._replace(damage="")
    assert strict[str(flipped)].status == "ok" and strict[str(flipped)].damage
    assert strict[paths[2]] == quick[paths[2]]
    # Both are kept: neither pass is done again, and the strict one is no loss to the other.
    assert run(paths, strict=True, examine=BEHAVE) == run(paths, examine=BEHAVE) == strict


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(".mkv", 2.0),
        Recipe(".ts", 2.0),
        Recipe(".avi", 2.0, video_codec="mpeg4", audio_codec="libmp3lame"),
        Recipe(".webm", 2.0, video_codec="libvpx", audio_codec="libopus", sample_rate=48_000),
        Recipe(".wav", 2.0, video_codec=None, audio_codec="pcm_s16le"),
        Recipe(seconds=2.0, audio_delay=0.5),
    ],
    ids=lambda recipe: recipe.suffix,
)
def test_the_strict_pass_finds_nothing_in_good_files(recipe, tmp_path) -> None:
    path = media.write_clip(tmp_path / f"clip{recipe.suffix}", recipe)
    assert probe.examine(str(path)).reason == ""
    assert probe.find_damage(str(path)) == ""


# ---- workers --------------------------------------------------------------------------------------------------------


def test_a_file_that_kills_or_stops_its_worker_costs_itself_only(tmp_path, run) -> None:
    bad = touch(tmp_path, "abort1", "hang", "exit", "eat", "raise", "away", "abort2")
    paths = [*bad, *touch(tmp_path, *(f"good{i}" for i in range(20)))]
    started = time.monotonic()
    found = run(paths, timeout_seconds=3, examine=BEHAVE)
    assert time.monotonic() - started < 30
    assert list(found) == paths
    assert [found[path].status for path in paths] == ["unreadable"] * 7 + ["ok"] * 20
    reasons = {os.path.basename(path): found[path].reason for path in bad}
    assert reasons == {
        "abort1": "reading it crashes (SIGABRT)",
        "abort2": "reading it crashes (SIGABRT)",
        "exit": "reading it crashes (exit code 0)",
        "hang": "took longer than 3 s",
        "eat": "needs more than 3 GB of memory",
        "raise": "ValueError: two lines",
        "away": "cannot be read (Input/output error)",
    }

    # A disk that was away is asked again, and so is a hanging file if it gets more time; nothing else is.
    again = run(paths, timeout_seconds=3, examine=SLOW)
    assert again == found
    lines = (tmp_path / "cache" / "probe.jsonl").read_text().splitlines()
    assert sum("away" in line for line in lines) == 0 and len(lines) == len(paths) - 1
    (tmp_path / "hang").rename(tmp_path / "was")
    (tmp_path / "was").rename(tmp_path / "hang")  # the same file with the same time
    assert run(paths[1:2], timeout_seconds=2, examine=BEHAVE)[paths[1]].reason == "took longer than 3 s"
    assert run(paths[1:2], timeout_seconds=4, examine=BEHAVE)[paths[1]].reason == "took longer than 4 s"


def test_a_strict_pass_that_dies_leaves_the_facts(good, run, monkeypatch) -> None:
    facts = run([str(good)])[str(good)]
    monkeypatch.setattr(probe, "STRICT", f"{__name__}:die")
    assert run([str(good)], strict=True)[str(good)] == facts._replace(damage="reading it crashes (SIGABRT)")


def test_a_wrong_function_or_workers_that_cannot_start_are_no_damage(tmp_path, run, monkeypatch) -> None:
    paths = touch(tmp_path, "good")
    with pytest.raises(AttributeError):
        run(paths, examine="os:nothing")
    with pytest.raises(UserError, match="num_workers is 0"):
        run(paths, num_workers=0)
    monkeypatch.setattr(worker_pool, "_serve", time.sleep)  # which refuses what it is given
    with pytest.raises(RuntimeError, match="cannot start"):
        run(paths)
    assert not (tmp_path / "cache" / "probe.jsonl").read_text()


# ---- cache ----------------------------------------------------------------------------------------------------------


def test_only_what_is_new_or_changed_is_probed_again(tmp_path, run) -> None:
    paths = touch(tmp_path, "a", "b", "c")
    first = run(paths, examine=BEHAVE)  # num_frames is the worker's process id
    assert run(paths, examine=BEHAVE) == first
    os.utime(paths[0], ns=(1, 1))
    Path(paths[1]).write_text("longer than before")
    new = touch(tmp_path, "d")
    second = run([*paths, *new], examine=SLOW)
    assert second[paths[2]] == first[paths[2]]
    assert all(second[path].num_frames != first[path].num_frames for path in paths[:2])
    assert second[paths[1]].video_seconds == 18
    assert run([*paths, *new], examine=BEHAVE) == second
    assert len((tmp_path / "cache" / "probe.jsonl").read_text().splitlines()) == 6


def test_a_torn_or_foreign_cache_is_read_as_far_as_it_goes(tmp_path, run) -> None:
    paths = touch(tmp_path, "a", "b")
    first = run(paths, examine=BEHAVE)
    cache = tmp_path / "cache" / "probe.jsonl"
    lines = cache.read_text().splitlines()
    lost = json.loads(lines[1])[1]
    foreign = b"null\n[0, 1]\n{}\n\n\0\xff\n" + b"[" * 90_000 + b"\n"
    cache.write_bytes(foreign + f"{lines[0]}\n{lines[1][:-5]}".encode())
    second = run(paths, examine=BEHAVE)
    assert [path for path in paths if second[path] != first[path]] == [lost]
    assert run(paths, examine=BEHAVE) == second


def test_names_of_all_kinds_are_kept(tmp_path, run) -> None:
    paths = touch(tmp_path, "with space", "ümlaut", "new\nline", "--a", "[x]")
    assert run(paths, examine=BEHAVE) == run(paths, examine=BEHAVE)


def test_a_killed_run_is_taken_up_where_it_was(tmp_path, run) -> None:
    paths = touch(tmp_path, *(f"{i:03}" for i in range(100)))
    code = (
        "import sys; from pathlib import Path; from mbt_lightning.datasets.examine import probe_media\n"
        f"probe_media({paths}, Path(sys.argv[1]), 2, examine={SLOW!r})"
    )
    cache = tmp_path / "cache" / "probe.jsonl"
    places = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code, str(cache)], env=os.environ | places)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not cache.exists() or cache.read_text().count("\n") < 10):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    lines = cache.read_text().splitlines()
    assert 10 <= len(lines) < 50
    workers = {json.loads(line)[-2] for line in lines}
    found = run(paths, examine=BEHAVE)
    assert len(found) == 100 and {path.status for path in found.values()} == {"ok"}
    kept = [path for path in found.values() if path.num_frames in workers]
    assert len(kept) == len(lines)
    # The killed run's workers are gone too.
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_the_bar_shows_rate_and_outcomes(tmp_path, run, capsys) -> None:
    run(touch(tmp_path, "a", "raise"), examine=BEHAVE, progress=True)
    run([str(tmp_path / "a")], examine=BEHAVE, progress=True)
    shown = capsys.readouterr().out
    assert "2/2" in shown and "files/s" in shown and "1 bad" in shown
