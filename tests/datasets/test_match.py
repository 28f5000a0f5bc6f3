"""Which files of a folder belong to an official clip, and where in them it lies."""

import os
from pathlib import Path

import pytest

from mbt_lightning.datasets.clips import OfficialClip
from mbt_lightning.datasets.examine import Probed
from mbt_lightning.datasets.match import Match, Media, MediaIndex, resolve
from mbt_lightning.errors import UserError

ID = "-a_SYNTH_01"


def clip(source=ID, start=30.0, end=40.0, clip_id=None, split="train") -> OfficialClip:
    return OfficialClip(clip_id or f"{source}@{start}", source, start, end, ("label",), split, "list.csv:1")


def whole(source, split="train") -> OfficialClip:
    return OfficialClip(source, source, None, None, ("label",), split, "list.csv:1")


def found(names, wanted: OfficialClip) -> Match:
    return MediaIndex("/media", names).match(wanted)


# ---- names ----------------------------------------------------------------------------------------------------------

CUT = [
    f"{ID}_30.000.mp4",
    f"{ID}_000030.mp4",
    f"video/{ID}_000030_000040.mp4",
    f"archery/{ID}_000030_000040.MP4",
    f"{ID}_30000_40000.mp4",
    f"{ID}_30_40.webm",
    f"{ID}_30.mkv",
    f"{ID}_30000.mp4",
    f"{ID}_30.0-40.0.avi",
]
BARE = [f"{ID}.mp4", f"a/b/{ID}.MKV", f"A title [live] [{ID}].mp4", f"Y{ID}.mp4"]


@pytest.mark.parametrize("name", CUT)
def test_names_with_times_are_cut_clips(name) -> None:
    assert found([name], clip()) == Match(f"/media/{name}", None, video_is_cut=True)
    # The next segment of the same video is another file.
    other = found([name], clip(start=40.0, end=50.0))
    assert other.video is None and name in other.note


@pytest.mark.parametrize("name", BARE)
def test_names_without_times_may_be_the_whole_source(name) -> None:
    assert found([name], clip()) == Match(f"/media/{name}", None, video_is_cut=False)
    assert found([name], whole(ID)).video == f"/media/{name}"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a", "WAV"])
@pytest.mark.parametrize("pattern", ["Y{}.{}", "audio/bal_train/{}.{}", "Speech/{}_30.0-40.0.{}", "{}_30000_40000.{}"])
def test_files_of_sound_stand_beside_the_video(pattern, suffix) -> None:
    name = pattern.format(ID, suffix)
    assert found([name], clip())[:2] == (None, f"/media/{name}")
    match = found([name, f"video/{ID}_30000_40000.mp4"], clip())
    assert match[:2] == (f"/media/video/{ID}_30000_40000.mp4", f"/media/{name}")
    assert match.audio_is_cut == ("_30" in name)


@pytest.mark.parametrize(
    "name",
    [
        f"{ID}_000030_000041.mp4",  # another end
        f"{ID}_030000.mp4",  # zero-padded: 30,000 seconds
        f"{ID}_30.mp4.txt",
        f"{ID}x.mp4",
        f"{ID}_part.mp4",
        f"x{ID}.mp4",
        f"{ID.lower()}.mp4",  # another video
        f"{ID.swapcase()}_000030.mp4",
        f"A title [{ID}] [1080p].mp4",
        f"{ID}/video.mp4",
    ],
)
def test_other_names_do_not_fit(name) -> None:
    assert found([name], clip())[:2] == (None, None)


@pytest.mark.parametrize(
    ("source", "start", "end", "name"),
    [
        ("abcd_000030", 12, 22, "abcd_000030_000012.mp4"),
        ("abcd_000030", 12, 22, "abcd_000030_000012_000022.mp4"),
        ("00012345678", 0, 10, "00012345678_000000.mp4"),
        ("1234567e890", 0, 9, "1234567e890_0.0-9.0.ogg"),
        ("--aaSYNTH01", 110, 120, "--aaSYNTH01_110000_120000.mp4"),
        ("YaaaSYNTH01", 5, 15, "YaaaSYNTH01_000005.mp4"),
        ("YaaaSYNTH01", 5, 15, "YYaaaSYNTH01.wav"),
        ("a_000030_00", 0, 10, "a_000030_00.mp4"),
        ("___________", 1, 11, "____________000001.mp4"),
        ("-1234567890", 12.345, 22.345, "-1234567890_12345_22345.mp4"),
    ],
)
def test_ids_are_never_cut_at_an_underscore(source, start, end, name) -> None:
    match = found([name], clip(source, float(start), float(end)))
    assert f"/media/{name}" in (match.video, match.audio)
    assert found([name], clip(source[:4], float(start), float(end)))[:2] == (None, None)


def test_ids_that_differ_by_case_are_two() -> None:
    index = MediaIndex("/media", ["aaaaaSYNTH1.mp4", "aaaaasynth1.mp4", "AAAAASYNTH1_000030.mp4"])
    for name in ("aaaaaSYNTH1", "aaaaasynth1"):
        assert index.match(clip(name)) == Match(f"/media/{name}.mp4", None)
    assert index.match(clip("AAAAASYNTH1")).video == "/media/AAAAASYNTH1_000030.mp4"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (clip("P01_01", 65.5, 67.0, "P01_01_10"), "EPIC-KITCHENS/P01/videos/P01_01.MP4"),
        (whole("1901_DFA_ANG_XX"), "VideoFlash/1901_DFA_ANG_XX.flv"),
        (whole("clapping/yt-aaSYNTH0_1.mp4"), "training/clapping/yt-aaSYNTH0_1.mp4"),
        (whole("clapping/yt-aaSYNTH0_1"), "training/clapping/yt-aaSYNTH0_1.mp4"),
        (whole("playing+music/getty-a.b.c_4.mp4"), "playing+music/getty-a.b.c_4.mp4"),
        (whole("00012345678"), "AVE/00012345678.mp4"),
        (whole("Yaaaaaaaaaaa"), "videos/Yaaaaaaaaaaa.mp4"),
        (whole("a [aaaaaaaaaaa]"), "a [aaaaaaaaaaa].mp4"),
        (whole("video 7"), "video 7.mov"),
        (whole("clapping/a.MOV"), "clapping/a.MOV.mp4"),
        (whole("Straße/Übung"), "Straße/Übung.mp4"),
    ],
)
def test_any_source_is_found_by_its_whole_stem_or_path(wanted, name) -> None:
    names = [name, "P01_01_1.MP4", "P01_0.MP4", "other/clapping/xyt-aaSYNTH0_1.mp4", "xclapping/yt-aaSYNTH0_1.mp4"]
    assert found(names, wanted) == Match(f"/media/{name}", None)


def test_a_file_named_after_the_clip_is_cut() -> None:
    names = ["trimmed/P01_01_10.mp4", "P01/videos/P01_01.MP4", "trimmed/P01_01_1.mp4"]
    match = found(names, clip("P01_01", 10.0, 12.0, "P01_01_10"))
    assert match == Match("/media/trimmed/P01_01_10.mp4", None, video_is_cut=True)
    # `_10` counts narrations here, not seconds.
    assert found(names, clip("P01_01", 10.0, 12.0, "P01_01_11")).video == "/media/P01/videos/P01_01.MP4"


def test_a_cut_file_is_taken_before_a_whole_one() -> None:
    assert found([f"{ID}.mp4", f"{ID}_000030.mp4"], clip()).video == f"/media/{ID}_000030.mp4"


# ---- several files --------------------------------------------------------------------------------------------------


def test_the_choice_among_equals_is_the_same_on_every_machine_and_reported() -> None:
    names = [f"Speech/{ID}_30.0-40.0.ogg", f"Music/{ID}_30.0-40.0.ogg", f"Dog/deep/{ID}_30.0-40.0.ogg"]
    match = found(names, clip())
    assert match == found(names[::-1], clip())
    assert match.audio == f"/media/Music/{ID}_30.0-40.0.ogg"
    assert match.note.startswith("3 files match; Music/") and "not Speech/" in match.note


def test_wav_is_taken_before_mp3() -> None:
    stem = "1901_DFA_ANG_XX"
    names = [f"AudioMP3/{stem}.mp3", f"VideoFlash/{stem}.flv"]
    assert found(names, whole(stem))[:2] == (f"/media/{names[1]}", f"/media/{names[0]}")
    names.append(f"AudioWAV/{stem}.wav")
    assert found(names, whole(stem)) == Match(f"/media/{names[1]}", f"/media/{names[2]}")


@pytest.mark.parametrize(
    ("folders", "split", "folder"),
    [
        (("training", "validation"), "train", "training"),
        (("training", "validation"), "val", "validation"),
        (("train", "val"), "test", "val"),  # of Kinetics-Sounds
        (("unbalanced_train_segments_part07", "eval_segments"), "train", "unbalanced_train_segments_part07"),
        (("balanced_train_segments", "eval_segments"), "test", "eval_segments"),
    ],
)
def test_a_file_in_the_folder_of_its_split_is_taken_first(folders, split, folder) -> None:
    names = [f"{name}/training dog/{ID}.mp4" for name in folders]
    assert found(names, clip(split=split)) == Match(f"/media/{folder}/training dog/{ID}.mp4", None)


def test_a_replacement_is_taken_before_the_broken_file() -> None:
    name = f"{ID}_000030_000040.mp4"
    names = [f"train/{name}", f"replacement/replacement_for_corrupted_k400/{name}"]
    assert found(names, clip()) == Match(f"/media/{names[1]}", None, video_is_cut=True)


# ---- the folder -----------------------------------------------------------------------------------------------------


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_walk_takes_media_only_and_counts_the_rest(tmp_path) -> None:
    for name in (f"a/b/{ID}.mp4", "c.WAV", "d.MOV"):
        write(tmp_path / name)
    for name in ("e.mp4.part", "e.mp4.ytdl", "e.temp.mp4", "e.mp4.part-Frag3", "._c.wav", "list.csv", "noext"):
        write(tmp_path / name)
    write(tmp_path / "empty.mp4", "")
    os.mkfifo(tmp_path / "fifo.mp4")
    index = MediaIndex(tmp_path)
    assert len(index) == 3
    assert index.ignored == {"unfinished download": 4, "macOS side file": 1, "not media": 3, "empty file": 1}
    assert index.examples["empty file"] == "empty.mp4"
    assert index.match(clip()).video == f"{tmp_path}/a/b/{ID}.mp4"


def test_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        MediaIndex(tmp_path / "nowhere")


def test_nothing_outside_the_folder_is_given(tmp_path) -> None:
    root, outside = tmp_path / "media", tmp_path / "media-outside"
    write(outside / "secret.mp4")
    inside = write(root / "real" / "inside.mp4")
    (root / "linked.mp4").symlink_to(inside)
    (root / "escape.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "broken.mp4").symlink_to(root / "gone.mp4")
    index = MediaIndex(root)
    assert index.ignored == {"link that leads out of the folder": 2, "link to a folder": 1, "broken link": 1}
    assert len(index) == 2 and index.match(whole("linked")).video == f"{root}/linked.mp4"
    for source in ("secret", "escape", "../media-outside/secret.mp4", "real/../../media-outside/secret.mp4"):
        assert index.match(whole(source))[:2] == (None, None)
    for source in ("../secret.mp4", f"{outside}/secret.mp4", "..", ""):
        assert "not a path inside the media folder" in index.match(whole(source)).note


def test_the_root_may_be_a_link_itself(tmp_path) -> None:
    write(tmp_path / "real" / "x.mp4")
    (tmp_path / "media").symlink_to(tmp_path / "real")
    assert MediaIndex(tmp_path / "media").match(whole("x")).video == f"{tmp_path}/media/x.mp4"


# ---- where the clip lies --------------------------------------------------------------------------------------------


def film(video: float | None, audio: float | None, status: str | None = None, reason: str = "") -> Probed:
    status = status or ("ok" if video and audio else "no_audio" if video else "no_video")
    return Probed(status, reason, video is not None, audio is not None, video, audio)


POINTER, BROKEN = Probed("pointer", "a git-lfs pointer"), Probed("unreadable", "truncated")


def decide(seconds, wanted=None, is_cut=False, **options) -> Media:
    match = Match("v.mp4", None, video_is_cut=is_cut)
    return resolve(wanted or clip(), match, {"v.mp4": film(seconds, seconds)}, **options)


@pytest.mark.parametrize(
    ("segment", "seconds", "span"),
    [
        ((30, 40), 10.0, (0, 10)),  # cut
        ((30, 40), 9.2, (0, 9.2)),
        ((30, 40), 10.9, (0, 10)),
        ((30, 40), 40.0, (30, 40)),  # whole
        ((30, 40), 3600.0, (30, 40)),
        ((30, 40), 39.5, (30, 39.5)),
        ((30, 40), 12.0, None),  # neither
        ((30, 40), 5.0, None),
        ((30, 40), 35.0, None),
        ((0, 10), 10.0, (0, 10)),  # both are the same
        ((0, 10), 100.0, (0, 10)),
        ((0, 7), 7.0, (0, 7)),
        ((1821.0, 1821.75), 1821.74, (1821.0, 1821.74)),  # ends after its video
        ((65.5, 66.0), 1652.1, (65.5, 66.0)),
        ((65.5, 66.0), 0.48, (0, 0.48)),
    ],
)
def test_the_duration_decides_whether_a_bare_name_is_a_cut_file(segment, seconds, span) -> None:
    media = decide(seconds, clip("source", float(segment[0]), float(segment[1])))
    if span:
        assert media == Media("v.mp4", None, *span, "ok", "")
    else:
        assert media.status == "too_short" and media[2:4] == (None, None)
        assert "neither the segment" in media.reason and media.video == "v.mp4"


@pytest.mark.parametrize(("seconds", "start"), [(10.0, 0.0), (10.2, 0.0), (10.7, 1.0)])
def test_a_duration_that_fits_both_ways_is_reported(seconds, start) -> None:
    media = decide(seconds, clip("source", 1.0, 11.0))
    assert (media.status, media.start_seconds) == ("ok", start) and "may be either" in media.reason


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(10.0, "ok"), (9.0, "ok"), (15.0, "ok"), (60.0, "ok"), (8.0, "too_short"), (0.04, "too_short")],
)
def test_a_cut_file_starts_with_its_segment(seconds, status) -> None:
    media = decide(seconds, is_cut=True)
    assert media.status == status
    if status == "ok":
        assert (media.start_seconds, media.end_seconds) == (0.0, min(seconds, 10.0))
    assert decide(8.0, is_cut=True, min_part=0.5).status == "ok"


def test_a_clip_without_times_is_its_whole_file() -> None:
    assert decide(3.0, whole("x")) == Media("v.mp4", None, None, None, "ok", "")
    assert decide(0.04, whole("x")).status == "too_short"
    open_end = OfficialClip("c", "x", 5.0, None, (), "train", "a:1")
    assert decide(20.0, open_end)[2:5] == (5.0, None, "ok")
    assert decide(5.0, open_end).status == "too_short"


@pytest.mark.parametrize(
    ("video", "audio", "needs", "expected"),
    [
        (film(10, 10), None, "va", ("v.mp4", None, "ok")),
        (film(10, None), None, "va", ("v.mp4", None, "no_audio")),
        (film(10, None), None, "v", ("v.mp4", None, "ok")),
        (film(None, 10), None, "va", ("v.mp4", None, "no_video")),
        (film(None, 10), None, "a", (None, "v.mp4", "ok")),
        (film(10, None), film(None, 10), "va", ("v.mp4", "a.wav", "ok")),
        (film(10, 10), film(None, 10), "va", ("v.mp4", "a.wav", "ok")),
        (film(10, 10), BROKEN, "va", ("v.mp4", None, "ok")),
        (film(10, 10), POINTER, "va", ("v.mp4", None, "ok")),
        (film(10, None), BROKEN, "va", ("v.mp4", "a.wav", "unreadable")),
        (film(10, None), POINTER, "va", ("v.mp4", "a.wav", "pointer")),
        (film(10, None), POINTER, "v", ("v.mp4", None, "ok")),
        (BROKEN, film(None, 10), "va", ("v.mp4", "a.wav", "unreadable")),
        (POINTER, film(None, 10), "va", ("v.mp4", "a.wav", "pointer")),
        (BROKEN, film(None, 10), "a", (None, "a.wav", "ok")),
        (None, film(None, 10), "va", (None, "a.wav", "no_video")),
        (None, film(None, 10), "a", (None, "a.wav", "ok")),
        (None, BROKEN, "a", (None, "a.wav", "unreadable")),
        (film(10, 3), None, "va", ("v.mp4", None, "too_short")),
        (film(3, 10), None, "va", ("v.mp4", None, "too_short")),
        (film(10, 3), film(None, 10), "va", ("v.mp4", "a.wav", "ok")),
        (film(40, 40), film(None, 10), "va", ("v.mp4", None, "ok")),  # whole beside cut: one pair of times is for both
        (film(40, None), film(None, 10), "va", ("v.mp4", "a.wav", "no_audio")),
    ],
)
def test_streams_and_separate_sound(video, audio, needs, expected) -> None:
    match = Match("v.mp4" if video else None, "a.wav" if audio else None)
    probed = {"v.mp4": video, "a.wav": audio}
    media = resolve(clip(), match, probed, needs=[{"v": "video", "a": "audio"}[letter] for letter in needs])
    assert (media.video, media.audio, media.status) == expected
    if media.status != "ok":
        assert media.reason and media.start_seconds is None
    elif video and audio and media.audio is None and "a" in needs:
        assert "the audio of the video file is used" in media.reason


def test_different_lengths_of_streams_are_reported_for_whole_files() -> None:
    media = resolve(whole("x"), Match("v.mp4", None), {"v.mp4": film(10.0, 3.0)})
    assert media.status == "ok" and media.reason == "10.00 s of video, 3.00 s of audio"


def test_missing_media_say_what_was_looked_for() -> None:
    assert resolve(clip(), Match(None, None), {}) == Media(
        None, None, None, None, "missing", f"no file is named after {ID}"
    )
    near = found([f"{ID}_000050.mp4"], clip())
    assert resolve(clip(), near, {}).reason == f"only other segments of it exist, e.g. {ID}_000050.mp4"
