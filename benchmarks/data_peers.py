"""What `data.py` compares with: the clip, the peers, and the limits of the machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

try:
    import decord
except ImportError:
    decord = None
try:
    from torchvision.transforms import v2
except ImportError:
    v2 = None

resampler = functools.cache(torchaudio.transforms.Resample)


def make_clip(path: str, seconds: int = 10, width: int = 340, height: int = 256) -> None:
    """Encode a clip that costs about as much as film: two moving layers of texture with grain; noise as audio."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    behind, before = (  # smoothed noise with three sizes of grain
        sum(F.interpolate(torch.randn(1, 3, n, n), size=512, mode="bicubic") for n in (8, 32, 96))[0].permute(1, 2, 0)
        for _ in range(2)
    )
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "26", "g": "12"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="stereo", bit_rate=128000)
        for n in range(25 * seconds):
            image = 110 + 30 * behind.roll((n, round(40 * np.sin(n / 20))), (0, 1))[:height, :width].numpy()
            image[60:180, 90:250] = 130 + 30 * before.roll((-n, 3 * n), (0, 1))[60:180, 90:250].numpy()
            image += draw.normal(0, 2, image.shape)
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        for n in range(0, 44100 * seconds, 1024):
            block = draw.normal(0, 0.05, (2, 1024)) + 0.2 * np.sin(np.arange(n, n + 1024) / 20)
            sound = av.AudioFrame.from_ndarray(block.astype(np.float32), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 44100, n, Fraction(1, 44100)
            container.mux(audio.encode(sound))
        container.mux([*video.encode(None), *audio.encode(None)])


def demux(path: str) -> int:
    with av.open(path) as container:
        return sum(packet.size for packet in container.demux())


def decode(path: str, kind: str) -> int:
    with av.open(path) as container:
        stream = next(s for s in container.streams if s.type == kind)
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        return sum(1 for _ in container.decode(stream))


def whole_sound(path: str) -> Tensor:
    with av.open(path) as container:
        pieces = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    return resampler(rate, 16000)(torch.from_numpy(np.concatenate(pieces, axis=1).mean(0)))


def window_of_sound(path: str, start: float, seconds: float) -> Tensor:
    """The audio of a window at 16 kHz mono, with our filter, decoded from the start of the file to the window's end."""
    pieces = []
    with av.open(path) as container:
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            if frame.time >= start + seconds:
                break
            pieces.append(frame.to_ndarray())
        rate = stream.rate
    mono = torch.from_numpy(np.concatenate(pieces, axis=1)[:, round(start * rate) : round((start + seconds) * rate)])
    return resampler(rate, 16000, lowpass_filter_width=64)(mono.mean(0))


def decord_by_number(path: str, indices: list[int]) -> None:
    decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()


def pyav_by_number(path: str, indices: list[int]) -> None:
    """Frames by number at 25 a second: seek to each, and decode from its key frame."""
    pictures = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for index in indices:
            ticks = round(index / 25 / stream.time_base)
            container.seek(ticks, stream=stream)
            pictures.append(next(f for f in container.decode(stream) if f.pts >= ticks).to_ndarray(format="rgb24"))
    np.stack(pictures)


READERS = ({"decord": decord_by_number} if decord else {}) | {"pyav": pyav_by_number}


def bare(path: str, indices: list[int]) -> None:
    decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()
    whole_sound(path)


def naive(path: str, indices: list[int]) -> None:
    wanted, pictures = set(indices), []
    with av.open(path) as container:
        for n, frame in enumerate(container.decode(video=0)):
            if n in wanted:
                pictures.append(frame.to_ndarray(format="rgb24"))
            if n == indices[-1]:
                break
    np.stack(pictures)
    whole_sound(path)


def shrink_in_float(frames: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
    return resized.round().byte().permute(0, 2, 3, 1).contiguous()


def crop_clip_by_clip(frames: Tensor, boxes: Tensor, size: int) -> Tensor:
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1).round().int().tolist()
    cut = [x[:, top:end, left:right] for x, (top, left, end, right) in zip(frames, corners, strict=True)]
    cut = [x.permute(0, 3, 1, 2).float() / 255 for x in cut]
    return torch.stack([F.interpolate(x, size=(size, size), mode="bilinear", antialias=True) for x in cut])


def torchvision_crop(frames: Tensor) -> Callable[[], Tensor] | None:
    """Peer with the same recipe; None if torchvision is not installed."""
    if v2 is None:
        print("torchvision is not installed: its row has no peer\n")
        return None
    jitter = v2.RandomApply([v2.ColorJitter(32 / 255, (0.6, 1.4), (0.6, 1.4), 0.2)], p=0.8)
    steps = [v2.RandomResizedCrop(224, scale=(0.33, 1.0)), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.1)]
    recipe = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    return lambda: torch.stack([recipe(x.permute(0, 3, 1, 2)) for x in frames])
