"""The media reader, on real encoded clips that say what they show and when (see media.py)."""

import importlib
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import av
import media
import numpy as np
import pytest
import torch
from media import Recipe
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from mbt_lightning.data.media import decode, frames
from mbt_lightning.data.media import probe as probing
from mbt_lightning.data.media.decode import read_clip
from mbt_lightning.data.media.frames import DECODERS, Decord, Torchcodec
from mbt_lightning.data.media.probe import ClipError, probe
from mbt_lightning.errors import UserError

IRREGULAR = tuple(np.cumsum([0, *np.random.default_rng(3).choice([0.02, 0.04, 0.12, 0.2], 38)]).round(3))

KINDS = {
    "mp4": Recipe(),
    "mp4_one_key_frame": Recipe(gop=250),
    "mp4_fragmented": Recipe(container_options=(("movflags", "frag_keyframe+empty_moov"),)),
    "mp4_open_gop": Recipe(video_options=(("x264-params", "open-gop=1:bframes=3:b-adapt=0:scenecut=0"),)),
    "mp4_irregular": Recipe(times=IRREGULAR),
    "mp4_sound_late": Recipe(audio_delay=0.5),
    "mp4_pictures_late": Recipe(video_delay=0.52),
    "mp4_rotated": Recipe(rotation=90),
    "mp4_51_channels": Recipe(layout="5.1", sample_rate=48_000),
    "mkv": Recipe(".mkv"),
    "mkv_sound_late": Recipe(".mkv", audio_delay=0.5),
    "mkv_odd_rate": Recipe(".mkv", audio_codec="pcm_s16le", sample_rate=44_123),
    "webm_vp8_opus": Recipe(".webm", video_codec="libvpx", audio_codec="libopus", sample_rate=48_000),
    "webm_vp9_opus": Recipe(".webm", 2.0, video_codec="libvpx-vp9", audio_codec="libopus", sample_rate=48_000),
    "avi_mpeg4_mp3": Recipe(".avi", video_codec="mpeg4", audio_codec="libmp3lame"),
    "avi_b_pictures": Recipe(".avi", video_codec="mpeg4", audio_codec="pcm_s16le", b_frames=2),
    "avi_h264": Recipe(".avi", audio_codec="pcm_s16le"),
    "ts": Recipe(".ts"),
}
TRANSFORMED = {  # kind: (the kind it is made from, seconds cut off the front)
    "mp4_edit_list": ("mp4_one_key_frame", 1.52),
    "webm_hidden_pictures": ("webm_vp8_opus", 0.0),
}
ALL_KINDS = [*KINDS, *TRANSFORMED]
MUST_NOT = {
    "decord": {"mp4_open_gop", "avi_b_pictures", "avi_h264", "ts", *TRANSFORMED},
    "torchcodec": {"avi_b_pictures", "avi_h264", "ts", "webm_hidden_pictures"},
}
NO_PICTURES = Recipe(".m4a", video_codec=None)


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory):
    """Give me the file of a kind or recipe; each is encoded once."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def path_of(kind: str | Recipe) -> Path:
        if kind not in made:
            if kind == "mp4_edit_list":
                source, seconds = TRANSFORMED[kind]
                made[kind] = media.cut_by_stream_copy(path_of(source), folder / "edit_list.mp4", seconds)
            elif kind == "webm_hidden_pictures":
                made[kind] = media.add_hidden_pictures(path_of("webm_vp8_opus"), folder / "hidden.webm")
            else:
                recipe = kind if isinstance(kind, Recipe) else KINDS[kind]
                made[kind] = media.write_clip(folder / f"{len(made)}{recipe.suffix}", recipe)
        return made[kind]

    return path_of


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Let no test find what another one probed under its own settings."""
    probing._remembered.cache_clear()


@pytest.fixture(params=[name for name in DECODERS if name != "auto"])
def decoder(request):
    skip_without(request.param)
    return request.param


def skip_without(name: str) -> None:
    if why := DECODERS[name][0].why_not():
        pytest.skip(why)


def recipe_of(kind: str) -> tuple[Recipe, float]:
    """A kind's recipe, and where its first picture lies in the recipe's own seconds."""
    source, cut = TRANSFORMED.get(kind, (kind, 0.0))
    return KINDS[source], cut or KINDS[source].video_delay


def random_windows(kind: str, duration: float, count: int = 4) -> list[tuple[float, float]]:
    rng = np.random.default_rng(ALL_KINDS.index(kind))
    return [(rng.uniform(0, duration * 0.6), rng.uniform(0.5, duration * 0.6)) for _ in range(count)]


# ---- pictures


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_pictures_are_those_on_display(kind, clip_of, decoder):
    recipe, begin = recipe_of(kind)
    info = probe(clip_of(kind))
    shown = recipe.picture_times + recipe.video_delay
    for start, window in random_windows(kind, info.duration_seconds):
        clip = read_clip(
            clip_of(kind), start_seconds=start, window_seconds=window, num_frames=6, decoder=decoder, info=info
        )
        times = begin + start + np.arange(6) * window / 6
        expected = np.searchsorted(shown, times + 1e-3, side="right") - 1
        images = clip.frames.numpy()
        if recipe.rotation:
            images = np.rot90(images, -recipe.rotation // 90, axes=(1, 2))
        assert [media.read_number(image) for image in images] == expected.tolist()
        np.testing.assert_allclose(clip.frame_seconds, shown[expected] - begin, atol=1e-3)
        assert clip.num_real_frames == np.sum(start + np.arange(6) * window / 6 < info.video.end_seconds - 1e-3)
        assert clip.frames.dtype == torch.uint8 and clip.frame_seconds.dtype == torch.float64


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_decoder_gets_only_the_files_in_which_it_counts_right(kind, clip_of):
    info = probe(clip_of(kind))
    refused = {name for name in MUST_NOT if DECODERS[name][0].problem(info)}
    assert refused == {name for name, kinds in MUST_NOT.items() if kind in kinds}


@pytest.mark.parametrize(
    "name, kind", [(name, kind) for name, kinds in MUST_NOT.items() for kind in ALL_KINDS if kind not in kinds]
)
def test_all_decoders_give_the_same_pixels(name, kind, clip_of):
    """Without the help of PyAV."""
    skip_without(name)
    info, indices = probe(clip_of(kind)), np.array([0, 1, 11, 12, 30])
    (expected, seconds), (frames, frame_seconds) = (
        DECODERS[by][0].read(info, info.video, indices) for by in ("pyav", name)
    )
    assert np.abs(frames.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(frame_seconds, seconds, atol=1e-9)


def test_a_rotated_clip_is_upright(clip_of, decoder):
    clip = read_clip(clip_of("mp4_rotated"), window_seconds=1, num_frames=1, decoder=decoder)
    assert clip.frames.shape == (1, media.WIDTH, media.HEIGHT, 3)


def test_more_pictures_wanted_than_there_are(clip_of, decoder):
    clip = read_clip(clip_of("mp4"), start_seconds=1, window_seconds=0.1, num_frames=10, decoder=decoder)
    assert [media.read_number(image) for image in clip.frames.numpy()] == [25, 25, 25, 25, 26, 26, 26, 26, 27, 27]


def test_a_seek_that_lands_late_starts_again_from_the_beginning(clip_of, monkeypatch):
    seeks, walk = [], frames._decode_frames

    def late(info, video, wanted, seek):
        seeks.append(seek)
        if seek:
            raise ClipError(info.path, "late")
        return walk(info, video, wanted, seek)

    monkeypatch.setattr(frames, "_decode_frames", late)
    clip = read_clip(clip_of("mp4"), start_seconds=2, window_seconds=1, num_frames=2, decoder="pyav")
    assert [media.read_number(image) for image in clip.frames.numpy()] == [50, 62] and seeks == [True, False]


# ---- sound


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "avi_mpeg4_mp3"])
def test_sound_lies_where_the_pictures_are(kind, clip_of):
    recipe, begin = recipe_of(kind)
    info = probe(clip_of(kind))
    for start, window in random_windows(kind, info.duration_seconds):
        clip = read_clip(clip_of(kind), start_seconds=start, window_seconds=window, streams=["audio"], info=info)
        assert clip.frames is None and clip.waveform.shape == (round(window * 16_000),)
        first, end = clip.real_samples
        if end - first > 4_000:
            piece = clip.waveform[first:end].numpy()
            heard = media.find_sound(piece) + recipe.audio_delay
            assert heard == pytest.approx(begin + start + first / 16_000, abs=0.0015)


@pytest.mark.parametrize(
    "suffix, codec, sample_rate",
    [
        (".wav", "pcm_s16le", 44_100),
        (".flac", "flac", 44_100),
        (".mp3", "libmp3lame", 44_100),
        (".ogg", "libopus", 48_000),
    ],
)
def test_sound_files_count_from_their_first_sample(suffix, codec, sample_rate, clip_of):
    path = clip_of(Recipe(suffix, video_codec=None, audio_codec=codec, sample_rate=sample_rate))
    info = probe(path)
    assert info.duration_seconds == pytest.approx(4.0, abs=0.03)
    for start in (0.0, 0.7, 2.6):  # the last one seeks
        clip = read_clip(None, audio_path=path, start_seconds=start, window_seconds=1.0, info=info)
        assert media.find_sound(clip.waveform[200:].numpy()) == pytest.approx(start + 200 / 16_000, abs=0.001)
        assert clip.real_samples == (0, 16_000)


def test_an_encoders_unspoken_delay_in_avi_is_within_25_ms(clip_of):
    clip = read_clip(clip_of("avi_mpeg4_mp3"), start_seconds=1.0, window_seconds=2.0, streams=["audio"])
    assert media.find_sound(clip.waveform.numpy()) == pytest.approx(1.0, abs=0.014)


@pytest.mark.parametrize("kind", ["mp4_sound_late", "mkv_sound_late"])
def test_sound_that_starts_late_is_silent_before(kind, clip_of):
    clip = read_clip(clip_of(kind), window_seconds=2.0)
    assert clip.real_samples[0] == pytest.approx(8_000, abs=0.025 * 16_000)
    assert clip.real_samples[1] == 32_000
    assert clip.waveform[: clip.real_samples[0] - 100].abs().max() == 0
    assert clip.waveform[8_000:].std() == pytest.approx(0.1, rel=0.1)


# An odd rate has no sample at the window's start: half a sample away is 11 microseconds, 0.2 of a turn at 3 kHz.
@pytest.mark.parametrize("sample_rate, tolerance", [(44_100, 0.002), (48_000, 0.002), (16_000, 1e-4), (44_123, 0.2)])
def test_resampling_keeps_the_sound(clip_of, sample_rate, tolerance):
    recipe = Recipe(".wav", video_codec=None, audio_codec="pcm_s16le", layout="mono", sample_rate=sample_rate)
    clip = read_clip(clip_of(recipe), start_seconds=1.0, window_seconds=2.0)
    expected = torch.from_numpy(media.sound()[16_000:48_000])
    assert (clip.waveform - expected).std() < tolerance * expected.std()
    assert clip.real_samples == (0, 32_000) and clip.sample_rate == 16_000


def write_wav(path, samples, codec="pcm_f32le", layout="mono", sample_rate=16_000, format="fltp"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format=format, layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        for converted in av.AudioResampler(stream.format.name, layout, sample_rate).resample(frame):
            for packet in [*stream.encode(converted), *stream.encode(None)]:
                container.mux(packet)
    return path


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_two_channels_become_their_mean(tmp_path, codec):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.9, 0.9, (2, 16_000)).astype(np.float32)
    clip = read_clip(write_wav(tmp_path / "a.wav", samples, codec, "stereo"), window_seconds=1.0)
    tolerance = 1 / 100 if codec == "pcm_u8" else 1 / 30_000
    np.testing.assert_allclose(clip.waveform.numpy(), samples.mean(0), atol=tolerance)


def test_many_channels_are_mixed_with_weights_that_sum_to_one(tmp_path):
    samples = np.full((6, 16_000), 0.5, dtype=np.float32)
    samples[3] = 0.9  # the subwoofer's channel is left out, as ffmpeg does
    clip = read_clip(write_wav(tmp_path / "a.wav", samples, layout="5.1"), window_seconds=1.0)
    np.testing.assert_allclose(clip.waveform.numpy(), 0.5, atol=1e-4)


def test_peaks_above_one_are_kept(tmp_path):
    samples = np.full(16_000, 1.5, dtype=np.float32)
    clip = read_clip(write_wav(tmp_path / "a.wav", samples), window_seconds=1.0)
    assert clip.waveform.max() == 1.5


def test_sound_that_is_no_number_is_refused(tmp_path):
    samples = np.zeros(48_000, dtype=np.float32)
    samples[5_000:5_100] = np.nan
    path = write_wav(tmp_path / "a.wav", samples)
    with pytest.raises(ClipError, match="the audio has values that are not numbers"):
        read_clip(path, window_seconds=1.0)
    assert read_clip(path, start_seconds=2.0, window_seconds=1.0).waveform.abs().max() == 0


# ---- windows


def test_past_the_end_the_last_picture_is_held_and_the_sound_is_zero(clip_of, decoder):
    clip = read_clip(clip_of("mp4"), start_seconds=3.0, window_seconds=4.0, num_frames=8, decoder=decoder)
    assert [media.read_number(image) for image in clip.frames.numpy()] == [75, 87, *[99] * 6]
    assert clip.num_real_frames == 2
    assert clip.frame_seconds.tolist() == pytest.approx([3.0, 3.48, *[3.96] * 6])
    assert clip.waveform.shape == (64_000,)
    assert clip.real_samples == (0, 16_000)
    assert clip.waveform[clip.real_samples[1] + 100 :].abs().max() == 0


def test_a_clip_far_shorter_than_the_window(clip_of, decoder):
    clip = read_clip(clip_of(Recipe(seconds=0.4)), window_seconds=8.0, num_frames=8, decoder=decoder)
    assert [media.read_number(image) for image in clip.frames.numpy()] == [0] + [9] * 7
    assert clip.num_real_frames == 1 and clip.real_samples == (0, 6_400)


def test_pictures_and_sound_of_different_windows(clip_of):
    clip = read_clip(
        clip_of("mp4"),
        start_seconds=2.0,
        window_seconds=0.5,
        num_frames=2,
        audio_start_seconds=0.5,
        audio_window_seconds=1.5,
    )
    assert [media.read_number(image) for image in clip.frames.numpy()] == [50, 56]
    assert clip.waveform.shape == (24_000,)
    assert media.find_sound(clip.waveform.numpy()) == pytest.approx(0.5, abs=0.001)


def test_sound_from_another_file(clip_of):
    silent, sound = clip_of(Recipe(audio_codec=None)), clip_of(NO_PICTURES)
    clip = read_clip(silent, audio_path=sound, start_seconds=1.0, window_seconds=2.0, num_frames=1, info=probe(silent))
    assert media.read_number(clip.frames[0].numpy()) == 25
    assert media.find_sound(clip.waveform.numpy()) == pytest.approx(1.0, abs=0.001)
    only_sound = read_clip(None, audio_path=sound, start_seconds=1.0, window_seconds=2.0, info=probe(sound))
    assert only_sound.frames is None and torch.equal(only_sound.waveform, clip.waveform)


def test_an_earlier_probe_is_used(clip_of, monkeypatch):
    path = clip_of("mp4")
    expected, info = read_clip(path), pickle.loads(pickle.dumps(probe(path)))
    monkeypatch.setattr(decode, "probe_once", None)
    clip = read_clip(str(path), info=info)
    assert torch.equal(clip.frames, expected.frames) and torch.equal(clip.waveform, expected.waveform)


def test_a_file_is_probed_once_until_it_changes(clip_of, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip_of("mp4").read_bytes())
    first = probing.probe_once(path)
    assert probing.probe_once(str(path)) is first
    path.write_bytes(clip_of("mkv").read_bytes())
    assert probing.probe_once(path).container != first.container
    path.unlink()
    with pytest.raises(ClipError, match="no such file"):
        probing.probe_once(path)


def facts(info: probing.MediaInfo) -> list:
    """Every field of what `probe` finds, arrays as lists."""
    tracks = [list(vars(track).values()) if track else [] for track in (info.video, info.audio)]
    return [
        [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        for values in (*tracks, [info.path, info.container, info.origin, info.quirks])
    ]


@pytest.mark.parametrize("kind", ["mp4", "mp4_edit_list", NO_PICTURES], ids=str)
def test_what_is_in_long_files_is_kept_for_all_processes(clip_of, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probing, "LONG_BYTES", 0)
    path = clip_of(kind)
    expected = probing.probe_once(path)
    (file,) = (tmp_path / "cache" / "probes").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(probing, "probe", None)
        probing._remembered.cache_clear()
        found = probing.probe_once(path)
    assert facts(found) == facts(expected) == facts(probe(path))
    file.write_bytes(file.read_bytes()[:100])
    probing._remembered.cache_clear()
    assert facts(probing.probe_once(path)) == facts(expected)


def test_only_wanted_streams_are_decoded(clip_of, monkeypatch):
    monkeypatch.setattr(decode, "read_frames", None)
    assert read_clip(clip_of("mp4"), streams=["audio"]).frames is None
    monkeypatch.undo()
    monkeypatch.setattr(decode, "read_sound", None)
    clip = read_clip(clip_of("mp4"), streams=["video"])
    assert clip.waveform is None and clip.real_samples == (0, 0)


# ---- states


def test_a_stream_the_file_does_not_have_is_none(clip_of, decoder):
    silent, sound = clip_of(Recipe(audio_codec=None)), clip_of(NO_PICTURES)
    clip = read_clip(silent, window_seconds=2, decoder=decoder)
    assert clip.waveform is None and clip.real_samples == (0, 0) and clip.num_real_frames == 8
    clip = read_clip(sound, window_seconds=2, decoder=decoder)
    assert clip.frames is None and clip.frame_seconds is None and clip.num_real_frames == 0
    assert clip.real_samples == (0, 32_000)
    assert [probe(path).state for path in (silent, sound, clip_of("mp4"))] == [
        "no audio",
        "no video",
        "audio and video",
    ]


def test_no_wanted_stream_is_an_error(clip_of):
    silent, sound = clip_of(Recipe(audio_codec=None)), clip_of(NO_PICTURES)
    with pytest.raises(ClipError, match="no audio stream"):
        read_clip(silent, streams=["audio"])
    with pytest.raises(ClipError, match="no video stream"):
        read_clip(sound, streams=["video"])
    with pytest.raises(ClipError, match="no audio and no video stream"):
        read_clip(sound, audio_path=silent)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover = container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(media.draw_number(3, 64, 64), format="rgb24")
        packets = [*cover.encode(image), *cover.encode(None)]
        frame = av.AudioFrame.from_ndarray(media.sound(44_100)[None, :88_200], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        packets += [*sound.encode(frame), *sound.encode(None)]
        for packet in packets:
            container.mux(packet)
    assert probe(path).state == "no video"
    assert read_clip(path, window_seconds=1.0).frames is None


# ---- damage


def first(share: float):
    return lambda data: data[: int(len(data) * share)]


def wipe_media(data: bytes) -> bytes:
    at = data.index(b"mdat") + 8
    return data[:at] + bytes(len(data) - at)


DAMAGE = {
    "empty": ("mp4", lambda data: b"", "the file is empty"),
    "git-lfs pointer": (
        "mp4",
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "git lfs pull",
    ),
    "web page": ("mp4", lambda data: b"\n<!DOCTYPE html><html>not found</html>", "a web page, not a media file"),
    "text": ("mp4", lambda data: b"not media at all\n" * 100, "damaged, or not a media file"),
    "playlist": ("mp4", lambda data: b"ffconcat version 1.0\nfile 0.mp4\n", "a playlist, not a media file"),
    "noise": ("mp4", lambda data: np.random.default_rng(0).bytes(5_000), "damaged, or not a media file"),
    "no index": (Recipe(container_options=()), first(0.7), "damaged, or not a media file"),
    "header only": ("mp4", lambda data: data[: data.index(b"mdat") + 4], "the video stream holds no data"),
    "mp4 cut off": ("mp4", first(0.7), r"truncated: \d+ of 100 video packets are there"),
    "m4a cut off": (NO_PICTURES, first(0.7), r"truncated: \d+ of 174 audio packets are there"),
    "mkv cut off": ("mkv", first(0.7), r"truncated: \d\.\d\d s of 4\.\d\d s are there"),
    "webm cut off": ("webm_vp8_opus", first(0.9), r"truncated: \d\.\d\d s of 4\.\d\d s are there"),
    "avi cut off": ("avi_mpeg4_mp3", first(0.5), r"truncated: \d+ of 100 video packets are there"),
    "zeros for media": ("mp4", wipe_media, "damaged|cannot be decoded"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_in_a_line(name, clip_of, tmp_path, decoder):
    kind, spoil, reason = DAMAGE[name]
    source = clip_of(kind)
    path = tmp_path / f"spoilt{source.suffix}"
    path.write_bytes(spoil(source.read_bytes()))
    with pytest.raises(ClipError, match=reason) as caught:
        read_clip(path, window_seconds=4.0, decoder=decoder)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}" and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ClipError, match="no such file"):
        read_clip(tmp_path / "none.mp4")
    with pytest.raises(ClipError, match="not a file"):
        probe(str(tmp_path))


def test_a_still_picture_is_no_clip(tmp_path):
    path = tmp_path / "a.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for packet in stream.encode(av.VideoFrame.from_ndarray(media.draw_number(3, 64, 64), format="rgb24")):
            container.mux(packet)
    with pytest.raises(ClipError, match=r"not a clip \(its format is png\)"):
        probe(path)


def test_a_wrong_file_name_suffix_does_not_matter(clip_of, tmp_path, decoder):
    path = tmp_path / "a:b.webm"
    path.write_bytes(clip_of("mp4").read_bytes())
    clip = read_clip(path, window_seconds=1.0, num_frames=1, decoder=decoder)
    assert media.read_number(clip.frames[0].numpy()) == 0


def test_a_title_in_latin_1_is_no_damage(clip_of, tmp_path):
    path, data = tmp_path / "a.mp4", clip_of("mp4").read_bytes()
    assert b"VideoHandler" in data
    path.write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert read_clip(path, window_seconds=1.0).num_real_frames == 8


def test_times_that_jump_are_refused(tmp_path):
    path = media.write_clip(tmp_path / "a.mkv", Recipe(".mkv", times=(0, 0.04, 0.08, 100_000.0), audio_codec=None))
    with pytest.raises(ClipError, match="the times of the video stream jump by 100000 s"):
        read_clip(path)


def test_huge_pictures_are_refused_before_decoding(clip_of, monkeypatch):
    monkeypatch.setattr(probing, "MAX_PIXELS", 100 * 100)
    monkeypatch.setattr(decode, "read_frames", None)
    with pytest.raises(ClipError, match="frames of 128x96; at most 10000 pixels are read"):
        read_clip(clip_of("mp4"))
    assert read_clip(clip_of("mp4"), streams=["audio"]).waveform is not None


def test_declared_sound_without_data_is_an_error_only_where_sound_is_wanted(clip_of):
    info = probe(clip_of("mp4"))
    info = replace(info, audio=replace(info.audio, problem="the audio stream holds no data"))
    with pytest.raises(ClipError, match="the audio stream holds no data"):
        read_clip(clip_of("mp4"), info=info)
    assert read_clip(clip_of("mp4"), info=info, streams=["video"]).frames is not None


def test_sound_that_cannot_be_decoded_is_no_silence(clip_of):
    info = probe(clip_of(NO_PICTURES))
    longer = replace(info, audio=replace(info.audio, end_seconds=6.0))
    with pytest.raises(ClipError, match=r"damaged: only 4\.\d\d of 6\.00 s of audio can be decoded"):
        read_clip(clip_of(NO_PICTURES), info=longer)


def test_a_window_that_starts_behind_the_end(clip_of):
    with pytest.raises(ClipError, match=r"the clip ends at 4\.000 s, before the window starts at 5 s"):
        read_clip(clip_of("mp4"), start_seconds=5.0)
    with pytest.raises(ClipError, match="before the window starts at 9 s"):
        read_clip(clip_of("mp4"), audio_start_seconds=9.0)


@pytest.mark.parametrize("kind", ["mp4", "webm_vp8_opus", "avi_mpeg4_mp3"])
def test_any_bytes_give_a_clip_or_a_clip_error(kind, clip_of, tmp_path, decoder):
    rng = np.random.default_rng(0)
    good = np.frombuffer(clip_of(kind).read_bytes(), np.uint8)
    path = tmp_path / f"fuzz{clip_of(kind).suffix}"
    raised = 0
    for turn in range(24):
        data = good.copy()
        begin = int(rng.integers(len(data)))
        if turn % 4 == 0:
            data[rng.integers(0, 1_000, 10)] = rng.integers(0, 256, 10)
        elif turn % 4 == 1:
            data[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
        elif turn % 4 == 2:
            data[begin : begin + 5_000] = 0
        else:
            data = np.delete(data, slice(begin, begin + 3_000))
        path.write_bytes(data.tobytes())
        try:
            clip = read_clip(path, window_seconds=2.0, decoder=decoder)
            assert clip.frames is None or clip.frames.shape[0] == 8
        except ClipError:
            raised += 1
    assert raised > 0


# ---- the error, the decoders, the arguments


def test_the_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(ClipError("a.mp4", "the file is empty")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "the file is empty", "a.mp4: the file is empty")


def test_the_error_comes_out_of_a_worker_as_itself(tmp_path):
    # What a DataLoader does with a worker's error: only its type and text travel.
    try:
        read_clip(tmp_path / "none.mp4")
    except ClipError:
        wrapped = pickle.loads(pickle.dumps(ExceptionWrapper(sys.exc_info(), where="in a worker")))
    with pytest.raises(ClipError, match=r"none\.mp4: no such file"):
        wrapped.reraise()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_open_files_do_not_grow(clip_of, tmp_path, decoder):
    cut, wiped = tmp_path / "cut.mp4", tmp_path / "wiped.mp4"
    cut.write_bytes(clip_of("mp4").read_bytes()[:40_000])
    wiped.write_bytes(wipe_media(clip_of("mp4").read_bytes()))
    files = [clip_of("mp4"), clip_of(Recipe(audio_codec=None)), clip_of("ts"), cut, wiped]

    def read_all():
        for path in files:
            try:
                read_clip(path, window_seconds=1.0, num_frames=2, decoder=decoder)
            except ClipError:
                assert path in (cut, wiped)
        return len(os.listdir("/proc/self/fd"))

    before = read_all()
    assert max(read_all() for _ in range(15)) <= before


def test_without_decord_pyav_reads(clip_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    clip = read_clip(clip_of("mp4"), start_seconds=1.0, window_seconds=1.0, num_frames=1)
    assert media.read_number(clip.frames[0].numpy()) == 25
    with pytest.raises(UserError, match=r"decoder is 'decord', but decord is not installed here: .* or use .* auto"):
        read_clip(clip_of("mp4"), decoder="decord")


STUBS = {
    "missing": (None, r'torchcodec is not installed here: pip install "mbt-lightning\[torchcodec\]"'),
    "old, no FFmpeg": ("raise RuntimeError('Could not load libtorchcodec')", r"finds no FFmpeg .* apt install ffmpeg"),
    "new, no FFmpeg": ("ffmpeg_major_version = None", r"finds no FFmpeg .* apt install ffmpeg"),
    "broken": ("import nothing_of_this_name", r"does not import here \(ModuleNotFoundError: No module named 'nothing"),
}


@pytest.mark.parametrize("how", STUBS)
def test_torchcodec_that_does_not_work_is_told_with_the_fix(how, clip_of, tmp_path, monkeypatch):
    text, reason = STUBS[how]
    (tmp_path / "torchcodec.py").write_text(str(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    if text is None:
        monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match=rf"^decoder is 'torchcodec', but .*{reason}.*; or use decoder: auto\.$"):
        read_clip(clip_of("mp4"), decoder="torchcodec")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)  # the stub


@pytest.mark.parametrize("package, method", [("decord", "VideoReader"), ("torchcodec.decoders", "VideoDecoder")])
def test_where_a_decoder_fails_pyav_reads(package, method, clip_of, monkeypatch):
    name = package.partition(".")[0]
    skip_without(name)

    def fail(*args, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(sys.modules.get(package) or importlib.import_module(package), method, fail)
    clip = read_clip(clip_of("mp4"), start_seconds=1.0, window_seconds=1.0, num_frames=1, decoder=name)
    assert media.read_number(clip.frames[0].numpy()) == 25


@pytest.mark.parametrize(
    "reader, kind, reason",
    [
        (Decord(), "mp4_edit_list", r"decord counts \d+ frames, not 62"),
        (Torchcodec(), "webm_hidden_pictures", r"torchcodec counts \d+ frames, not 100"),
        (Torchcodec(), "ts", "torchcodec cannot decode it"),
    ],
)
def test_a_decoder_that_counts_otherwise_is_found_out(reader, kind, reason, clip_of):
    skip_without(reader.name)
    info = probe(clip_of(kind))
    assert reader.problem(info)
    with pytest.raises(ClipError, match=reason):
        reader.read(info, info.video, np.arange(len(info.video.seconds)))


def test_torchcodec_that_gives_pictures_of_other_times_is_found_out(clip_of):
    skip_without("torchcodec")
    info = probe(clip_of("mp4"))
    late = replace(info.video, seconds=info.video.seconds + 0.04)
    with pytest.raises(ClipError, match="returns other frames than it was asked for"):
        Torchcodec().read(info, late, np.array([3, 4]))


class OneWindow(Dataset):
    """A clip's window, read in a worker."""

    def __init__(self, path: str, decoder: str):
        self.path, self.decoder = path, decoder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return read_clip(self.path, start_seconds=index / 2, window_seconds=1.0, decoder=self.decoder).frames


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_decoders_work_in_the_workers_of_a_loader(start_method, clip_of, decoder):
    dataset = OneWindow(str(clip_of("mp4")), decoder)
    here = list(dataset[i] for i in range(4))  # so that the decoder is in use before the fork
    loader = DataLoader(dataset, None, num_workers=1, multiprocessing_context=start_method, timeout=120)
    assert all(torch.equal(one, other) for one, other in zip(here, loader, strict=True))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"window_seconds": 0}, "window_seconds is 0; it must be above 0"),
        ({"window_seconds": float("nan")}, "window_seconds is nan; it must be above 0"),
        ({"audio_window_seconds": -1.0}, r"audio_window_seconds is -1\.0; it must be above 0"),
        ({"num_frames": 0}, "num_frames is 0; it must be above 0 and whole"),
        ({"num_frames": 2.5}, r"num_frames is 2\.5; it must be above 0 and whole"),
        ({"sample_rate": 0}, "sample_rate is 0; it must be above 0 and whole"),
        ({"start_seconds": -0.5}, r"start_seconds is -0\.5; it must be 0 or more seconds"),
        ({"audio_start_seconds": -0.5}, r"audio_start_seconds is -0\.5; it must be 0 or more seconds"),
        ({"decoder": "opencv"}, "decoder is 'opencv'; it must be one of auto, decord, torchcodec, pyav"),
        ({"streams": ["sound"]}, r"streams is \['sound'\]; it must be a list of one or both of video, audio"),
        ({"streams": "video"}, "streams is 'video'; it must be a list"),
        ({"path": None}, "path is None; it must be the media file"),
    ],
)
def test_wrong_arguments_are_told(arguments, text):
    with pytest.raises(UserError, match=text):
        read_clip(**{"path": "a.mp4", **arguments})
