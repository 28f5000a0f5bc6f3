"""Length, frame size and mean and standard deviation of the log-mel of a manifest's clips: measured, and read again.

Mean and standard deviation of a log-mel are those of all its values: every time step that is made of audio, of the
whole labelled segment of every clip. Training cuts its windows out of these segments evenly, so it sees the same
values; the padding of clips that are shorter than the window is left out.

They are kept beside the manifest in `<manifest>.stats.json`, with the settings of the log-mel that they belong to and
the manifest's hash. A configuration in which `mean` and `std` are null takes them from there.
"""

from __future__ import annotations

import inspect
import json
import math
import pkgutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import BadClip, Example
from mbt_lightning.data.spectrogram import LogMel, MelTransform
from mbt_lightning.data.store import Store, readable_seconds
from mbt_lightning.data.worker_pool import Failure, Progress, run_apart
from mbt_lightning.errors import UserError

PIECE_SECONDS = 60
"""Longer audio is transformed in several equal parts: the spectrogram of an hour would not fit into memory."""


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


class MeasureJob(NamedTuple):
    """A clip to be measured.

    Args:
        number: its place among the clips.
        example: the clip.
        store: where it is.
        recipe: settings of the log-mel as JSON; "": the audio is not decoded.
    """

    number: int
    example: Example
    store: Store
    recipe: str


class ClipMeasurement(NamedTuple):
    """What was measured on a clip.

    Args:
        seconds: length of its labelled segment, as far as the file goes.
        size: width and height of its frames as they are stored; None: the file has none.
        frames_per_second: on average.
        num_values: values of the log-mel.
        total: their sum.
        squares: the sum of their squares.
    """

    seconds: float
    size: tuple[int, int] | None
    frames_per_second: float | None
    num_values: int = 0
    total: float = 0.0
    squares: float = 0.0


def measure_clips(
    examples: Sequence[Example],
    store: Store,
    settings: Mapping[str, Any] | None,
    num_workers: int,
    timeout_seconds: float,
    progress: Progress,
    title: str,
) -> tuple[list[ClipMeasurement], list[BadClip]]:
    """Measure clips in worker processes; the result does not depend on their number.

    Args:
        examples: the clips.
        store: where they are.
        settings: of the log-mel, see `settings_of`; None: the audio is not decoded.
        num_workers: processes.
        timeout_seconds: time limit of one clip.
        progress: the progress bar.
        title: what it shows.

    Returns:
        The measurements of the clips that can be read, in their order, and the clips that cannot.
    """
    recipe = "" if settings is None else json.dumps(settings)
    jobs = [(MeasureJob(i, example, store, recipe), timeout_seconds) for i, example in enumerate(examples)]
    measured: dict[int, ClipMeasurement] = {}
    bad: dict[int, BadClip] = {}
    progress.begin(title, len(jobs), 0)
    for job, answer in run_apart(f"{__name__}:measure_clip", jobs, num_workers):
        if isinstance(answer, Failure):
            bad[job.number] = BadClip(job.example.clip_id, str(job.example.audio), answer.reason)
        else:
            measured[job.number] = answer
        progress.count(isinstance(answer, Failure))
    return [measured[i] for i in sorted(measured)], [bad[i] for i in sorted(bad)]


def measure_clip(job: MeasureJob) -> ClipMeasurement | Failure:
    """Measure one clip, or give the reason why that is not possible; runs in a worker process."""
    torch.set_num_threads(1)
    example = job.example
    try:
        media = job.store.open(example, ("audio",))
        seconds = readable_seconds(media, example)
        if seconds <= 0:
            end = f"the clip ends at {media.seconds:.3f} s"
            return Failure(f"{end}, before its segment starts at {example.start_seconds:g} s")
        width, height, rate = media.frame_format() or (0, 0, None)
        found = ClipMeasurement(seconds, (width, height) if width else None, rate)
        if not job.recipe:
            return found
        transform = _build(job.recipe)
        waveform, real = media.read_audio(example.start_seconds, seconds, transform.sample_rate)
        audio = waveform[slice(*real)]
        parts = audio.tensor_split(math.ceil(len(audio) / (PIECE_SECONDS * transform.sample_rate)) or 1)
        values = [transform.log_mel(part[None])[0, : transform.steps_of_audio(len(part))].double() for part in parts]
    except (ClipError, UserError) as error:
        return Failure(getattr(error, "reason", "") or str(error))
    return found._replace(
        num_values=sum(x.numel() for x in values),
        total=math.fsum(float(x.sum()) for x in values),
        squares=math.fsum(float(x.square().sum()) for x in values),
    )


@lru_cache(maxsize=1)
def _build(recipe: str) -> MelTransform:
    settings = json.loads(recipe)
    return kind_of(settings["class_path"])(**settings["init_args"], mean=0.0, std=1.0)


def mean_and_std(clips: Sequence[ClipMeasurement]) -> tuple[float, float]:
    """Mean and standard deviation of all values of the log-mel of some clips, whatever their order."""
    count = sum(clip.num_values for clip in clips)
    mean = math.fsum(clip.total for clip in clips) / count
    return mean, math.sqrt(max(0.0, math.fsum(clip.squares for clip in clips) / count - mean**2))


# ---------------------------------------------------------------------------------------------------------------------
# Reading what was measured
# ---------------------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Mean and standard deviation of a log-mel over a data set.

    Args:
        mean: of all values.
        std: likewise.
        num_clips: clips that they were measured on.
        split: of these clips.
        hash: of the manifest at that time.
        path: the file that holds them.
    """

    mean: float
    std: float
    num_clips: int
    split: str
    hash: str
    path: Path

    def __str__(self) -> str:
        """Where the numbers come from, for messages."""
        return f"measured on {self.num_clips} clips of split {self.split} ({self.path})"


def read_measured(
    manifest: str | Path, kind: type[MelTransform] = LogMel, init_args: Mapping[str, Any] | None = None
) -> Measured:
    """Mean and standard deviation that `mbt stats` measured on a manifest.

    Args:
        manifest: the manifest.
        kind: the class of the log-mel.
        init_args: its settings that are not the defaults; `mean` and `std` do not matter.

    Raises:
        UserError: nothing was measured, or not with these settings.
    """
    if not Path(manifest).is_file():
        raise UserError(f"{manifest}: no such manifest")
    path, settings = stats_file(Path(manifest)), settings_of(kind, init_args or {})
    command = f"run `mbt stats {manifest}{options_of(settings)}`, or give numbers"
    null = "the log-mel's mean or std is null, which means the measured one, but"
    if not path.is_file():
        raise UserError(f"{null} there is no {path}: {command}")
    entries = read_stats(path).get("spectrograms", [])
    for entry in entries:
        if {key: entry[key] for key in settings} == settings:
            return Measured(**{key: entry[key] for key in Measured._fields[:-1]}, path=path)
    known = " and ".join(f"`{options_of(entry).strip() or 'LogMel by default'}`" for entry in entries) or "none"
    raise UserError(f"{null} {path} has it for other settings only ({known}): {command}")


def scale_given(config: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """The mean and standard deviation that a configuration gives to a log-mel of certain settings.

    Args:
        config: the configuration of a log-mel, `class_path` and `init_args`.
        settings: the settings that it must have.

    Returns:
        `mean` and `std`; None if its settings differ, or if it has no numbers either.
    """
    if not config:
        return None
    kind = kind_of(config["class_path"])
    given = {**_defaults(kind), **config.get("init_args", {})}
    scale = {name: given[name] for name in ("mean", "std") if given.get(name) is not None}
    return scale if settings_of(kind, given) == settings and len(scale) == 2 else None


def kind_of(class_path: str) -> type[MelTransform]:
    """The class of a log-mel by its path; one of this package by its name alone, too."""
    return pkgutil.resolve_name(class_path if "." in class_path else f"mbt_lightning.{class_path}")


def settings_of(kind: type[MelTransform], init_args: Mapping[str, Any]) -> dict[str, Any]:
    """What the values of a log-mel depend on, as plain data: class path and settings without mean and std."""
    settings = {**_defaults(kind), **init_args}
    plain = {name: value for name, value in settings.items() if name not in ("mean", "std")}
    return json.loads(json.dumps({"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": plain}))


def options_of(settings: Mapping[str, Any]) -> str:
    """The options of `mbt stats` for settings that differ from the default, each after a space."""
    kind = kind_of(settings["class_path"])
    name = kind.__name__ if kind.__module__ == MelTransform.__module__ else settings["class_path"]
    words = "" if kind is LogMel else f" --spectrogram {name}"
    default = settings_of(kind, {})["init_args"]
    changed = {key: value for key, value in settings["init_args"].items() if value != default.get(key)}
    return words + "".join(f" --spectrogram.{key} {json.dumps(value)}" for key, value in changed.items())


def _defaults(kind: type[MelTransform]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def stats_file(manifest: Path) -> Path:
    """The file beside a manifest with what was measured on it."""
    return manifest.with_name(manifest.name + ".stats.json")


def read_stats(path: Path) -> dict[str, Any]:
    """What `mbt stats` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = all(
            {*Measured._fields[:-1], "class_path", "init_args"} <= entry.keys() for entry in content["spectrograms"]
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: not a file of mbt stats, or damaged; delete it and measure again")
    return content
