"""Files of this world that are no damage: repeated frames in AVI, gaps of time, several tracks, oblong pixels.

And one that is: a broken packet costs the frames that may refer to it, not the clip.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import FPS, HEIGHT, WIDTH, Recipe, draw_number, find_sound, read_number, write_clip

from mbt_lightning.data.media.decode import read_clip
from mbt_lightning.data.media.frames import DECODERS
from mbt_lightning.data.media.probe import ClipError, StreamQuirk, probe

WORKING = [name for name, readers in DECODERS.items() if not readers[0].why_not()]
each_decoder = pytest.mark.parametrize("decoder", WORKING)


def remuxed(source: Path, target: Path, keep=lambda packet: True, shift=lambda packet: 0) -> Path:
    """Copy a file without some packets, or with other times (in ticks)."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None and keep(packet):
                moved = shift(packet)
                packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


@each_decoder
def test_avi_repeats_a_frame_by_an_empty_packet(decoder: str, tmp_path: Path) -> None:
    """The muxer writes empty packets where frames 5 to 7 are missing; frame 4 is on display for their time."""
    recipe = Recipe(".avi", 2.0, "mpeg4", None, gop=1)
    source = write_clip(tmp_path / "whole.avi", recipe)
    path = remuxed(source, tmp_path / "odd.avi", keep=lambda packet: packet.dts not in (5, 6, 7))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 50
    clip = read_clip(path, window_seconds=10 / FPS, num_frames=10, decoder=decoder, streams=["video"])
    assert [read_number(frame) for frame in clip.frames.numpy()] == [0, 1, 2, 3, 4, 4, 4, 4, 8, 9]


def test_avi_that_is_cut_off_is_still_truncated(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "whole.avi", Recipe(".avi", 2.0, "mpeg4", None, gop=1))
    content = source.read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(ClipError, match=r"truncated: only|damaged"):
        read_clip(tmp_path / "cut.avi", window_seconds=0.4, streams=["video"])


def test_the_first_packets_of_a_phone_have_a_gap(tmp_path: Path) -> None:
    """All audio packets but the first are 0.15 s late; their samples are found where their times place them."""
    source = write_clip(tmp_path / "whole.mp4", Recipe(seconds=3.0))

    def late(packet: av.Packet) -> int:
        is_late = packet.stream.type == "audio" and packet.pts > 0
        return round(0.15 / packet.time_base) if is_late else 0

    path = remuxed(source, tmp_path / "gap.mp4", shift=late)
    clip = read_clip(path, window_seconds=2.0, num_frames=4)
    waveform = clip.waveform.numpy()
    assert find_sound(waveform[8000:]) == pytest.approx(0.5 - 0.15, abs=0.002)
    assert not waveform[700:2000].any(), "the gap is silent"


def test_a_gap_that_is_no_gap_of_time_is_damage(tmp_path: Path) -> None:
    """Packets whose times promise audio that cannot be decoded."""
    source = write_clip(tmp_path / "whole.mkv", Recipe(".mkv", 3.0, None, "pcm_s16le"))
    content = bytearray(source.read_bytes())
    info = probe(source)
    assert info.audio is not None
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 3])
    with pytest.raises(ClipError, match=r"truncated|damaged"):
        read_clip(tmp_path / "cut.mkv", window_seconds=2.5, streams=["audio"])


@each_decoder
def test_the_largest_default_track_is_read(decoder: str, tmp_path: Path) -> None:
    """A preview of 32 x 32 with more packets comes first, as some cameras write it."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size, rate in ((32, 2 * FPS), (WIDTH, FPS)):
            stream = container.add_stream("libx264", rate=rate, options={"crf": "30"})
            stream.width, stream.height = size, size if size == 32 else HEIGHT
            stream.pix_fmt = "yuv420p"
            stream.disposition = av.stream.Disposition.default if size == WIDTH else av.stream.Disposition(0)
            streams.append((stream, rate))
        for stream, rate in streams:
            for number in range(2 * rate):
                image = draw_number(number % 200, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    info = probe(path)
    assert info.video is not None and (info.video.width, info.video.height) == (WIDTH, HEIGHT)
    with av.open(str(path)) as container:
        assert (StreamQuirk.OTHER_TRACK in info.quirks) is (container.streams.best("video").width == 32)
    clip = read_clip(path, window_seconds=8 / FPS, num_frames=8, decoder=decoder, streams=["video"])
    assert [read_number(frame) for frame in clip.frames.numpy()] == list(range(8))


@each_decoder
@pytest.mark.parametrize(
    ("ratio", "rotation", "shape"),
    [
        ("16/11", 0, (HEIGHT, round(WIDTH * 16 / 11))),
        ("8/9", 0, (HEIGHT, round(WIDTH * 8 / 9))),
        ("16/11", 90, (round(WIDTH * 16 / 11), HEIGHT)),
        ("224/225", 0, (HEIGHT, WIDTH)),
    ],
)
def test_pixels_that_are_not_square(
    ratio: str, rotation: int, shape: tuple[int, int], decoder: str, tmp_path: Path
) -> None:
    options = (("crf", "20"), ("x264-params", f"sar={ratio}"))
    path = write_clip(
        tmp_path / "a.mp4", Recipe(seconds=1.0, audio_codec=None, rotation=rotation, video_options=options)
    )
    clip = read_clip(path, window_seconds=0.4, num_frames=10, decoder=decoder, streams=["video"])
    assert tuple(clip.frames.shape[1:3]) == shape
    by_pyav = read_clip(path, window_seconds=0.4, num_frames=10, decoder="pyav", streams=["video"])
    assert (clip.frames == by_pyav.frames).all()
    if not rotation:
        assert [read_number(frame) for frame in clip.frames.numpy()] == list(range(10))


@each_decoder
def test_a_broken_packet_costs_the_frames_up_to_the_next_key_frame(decoder: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", Recipe(seconds=2.0, audio_codec=None, gop=12, container_options=()))
    with av.open(str(path)) as container:
        broken = next(p for p in container.demux(video=0) if p.pts == p.time_base.denominator // FPS * 15)
        place, size = broken.pos, broken.size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes([0xFF]) * size
    path.write_bytes(content)

    def numbers(start: int, count: int) -> list[int]:
        window = {"start_seconds": start / FPS, "window_seconds": count / FPS, "num_frames": count}
        clip = read_clip(path, **window, decoder=decoder, streams=["video"])
        return [read_number(frame) for frame in clip.frames.numpy()]

    assert numbers(0, 12) == list(range(12))
    assert numbers(24, 12) == list(range(24, 36))
    with pytest.raises(ClipError, match=r"cannot be decoded|is damaged"):
        numbers(12, 8)
    assert np.all(np.isfinite(numbers(36, 12)))
