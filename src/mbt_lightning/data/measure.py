"""What is in the clips of a manifest, measured in other processes, and how training finds the figures afterwards.

Mean and standard deviation of a log-mel are those of all its values: every row that is made of sound, of the whole
labelled segment of every clip. Training cuts its windows out of these segments evenly, so it sees the same values;
what fills up a clip that is shorter than the window is left out.

They lie beside the manifest in `<manifest>.stats.json`, with the settings of the spectrogram that they belong to and
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
from mbt_lightning.data.spectrogram import LogMel, Spectrogram
from mbt_lightning.data.store import Store, read_sound, readable_seconds
from mbt_lightning.data.worker_pool import Failure, WorkerProgress, run_in_workers
from mbt_lightning.errors import UserError

PIECE_SECONDS = 60
"""A longer sound becomes spectrograms of several equal parts: one of an hour would not fit into memory."""


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


class MeasureJob(NamedTuple):
    """A clip that is to be looked at.

    Args:
        number: its place among the clips.
        example: the clip.
        store: where it lies.
        recipe: the spectrogram's settings as JSON; "": the sound is not decoded.
    """

    number: int
    example: Example
    store: Store
    recipe: str


class ClipMeasurement(NamedTuple):
    """What is in a clip.

    Args:
        seconds: length of its labelled segment, as far as the file goes.
        size: width and height of its pictures as they are stored; None: the sound's file has none.
        frames_per_second: its pictures a second, on average.
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


def look_at(
    examples: Sequence[Example],
    store: Store,
    settings: Mapping[str, Any] | None,
    num_workers: int,
    timeout_seconds: float,
    progress: WorkerProgress,
    what: str,
) -> tuple[list[ClipMeasurement], list[BadClip]]:
    """Look at clips in other processes; the result does not depend on how many they are.

    Args:
        examples: the clips.
        store: where they lie.
        settings: of the spectrogram, see `settings_of`; None: their sound is not decoded.
        num_workers: processes.
        timeout_seconds: time limit of one clip.
        progress: where to show how far it is.
        what: what the work is called there.

    Returns:
        What is in those that can be read, in their order, and those that cannot.
    """
    recipe = "" if settings is None else json.dumps(settings)
    jobs = [(MeasureJob(i, example, store, recipe), timeout_seconds) for i, example in enumerate(examples)]
    seen: dict[int, ClipMeasurement] = {}
    bad: dict[int, BadClip] = {}
    progress.start(what, len(jobs), 0)
    for wanted, answer in run_in_workers(f"{__name__}:look", jobs, num_workers):
        if isinstance(answer, Failure):
            example = wanted.example
            bad[wanted.number] = BadClip(example.clip_id, str(example.audio), answer.reason)
        else:
            seen[wanted.number] = answer
        progress.count(isinstance(answer, Failure))
    return [seen[i] for i in sorted(seen)], [bad[i] for i in sorted(bad)]


def look(wanted: MeasureJob) -> ClipMeasurement | Failure:
    """What is in one clip, or why it cannot be told; called in a process of its own."""
    torch.set_num_threads(1)
    example = wanted.example
    try:
        media = wanted.store.open(example, ("audio",))
        seconds = readable_seconds(media, example)
        if seconds <= 0:
            end = f"the clip ends at {media.seconds:.3f} s"
            return Failure(f"{end}, before its segment starts at {example.start_seconds:g} s")
        width, height, rate = media.pictures() or (0, 0, None)
        seen = ClipMeasurement(seconds, (width, height) if width else None, rate)
        if not wanted.recipe:
            return seen
        spectrogram = _build(wanted.recipe)
        waveform, real = read_sound(media, example.start_seconds, seconds, spectrogram.sample_rate)
        sound = waveform[slice(*real)]
        parts = sound.tensor_split(math.ceil(len(sound) / (PIECE_SECONDS * spectrogram.sample_rate)) or 1)
        values = [spectrogram.log_mel(part[None])[0, : spectrogram.rows_of_sound(len(part))].double() for part in parts]
    except (ClipError, UserError) as error:
        return Failure(getattr(error, "reason", "") or str(error))
    return seen._replace(
        num_values=sum(x.numel() for x in values),
        total=math.fsum(float(x.sum()) for x in values),
        squares=math.fsum(float(x.square().sum()) for x in values),
    )


@lru_cache(maxsize=1)
def _build(recipe: str) -> Spectrogram:
    settings = json.loads(recipe)
    return kind_of(settings["class_path"])(**settings["init_args"], mean=0.0, std=1.0)


def mean_and_std(seen: Sequence[ClipMeasurement]) -> tuple[float, float]:
    """Mean and standard deviation of all values of the log-mel of some clips, whatever their order."""
    count = sum(clip.num_values for clip in seen)
    mean = math.fsum(clip.total for clip in seen) / count
    return mean, math.sqrt(max(0.0, math.fsum(clip.squares for clip in seen) / count - mean**2))


# ---------------------------------------------------------------------------------------------------------------------
# Finding what was measured
# ---------------------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Mean and standard deviation of a log-mel over a data set.

    Args:
        mean: of all values.
        std: likewise.
        num_clips: clips that they were measured on.
        split: whose clips they are.
        hash: of the manifest at that time.
        path: the file that they stand in.
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
    manifest: str | Path, kind: type[Spectrogram] = LogMel, init_args: Mapping[str, Any] | None = None
) -> Measured:
    """Mean and standard deviation that `mbt stats` has measured on a manifest.

    Args:
        manifest: the manifest.
        kind: the class of the spectrogram.
        init_args: its settings that are not the defaults; `mean` and `std` do not matter.

    Raises:
        UserError: nothing was measured, or not with these settings.
    """
    if not Path(manifest).is_file():
        raise UserError(f"{manifest}: no such manifest")
    path, settings = stats_file(Path(manifest)), settings_of(kind, init_args or {})
    command = f"run `mbt stats {manifest}{options_of(settings)}`, or give numbers"
    null = "the spectrogram's mean or std is null, which stands for the measured one, but"
    if not path.is_file():
        raise UserError(f"{null} there is no {path}: {command}")
    entries = read_stats(path).get("spectrograms", [])
    for entry in entries:
        if {key: entry[key] for key in settings} == settings:
            return Measured(**{key: entry[key] for key in Measured._fields[:-1]}, path=path)
    known = " and ".join(f"`{options_of(entry).strip() or 'LogMel by default'}`" for entry in entries) or "none"
    raise UserError(f"{null} {path} has that of other spectrograms ({known}): {command}")


def scale_given(config: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """The mean and standard deviation that a configuration gives to a spectrogram of certain settings.

    Args:
        config: the configuration of a spectrogram, `class_path` and `init_args`.
        settings: the settings that it must have.

    Returns:
        `mean` and `std`; None if it has other settings, or no numbers either.
    """
    if not config:
        return None
    kind = kind_of(config["class_path"])
    given = {**_defaults(kind), **config.get("init_args", {})}
    scale = {name: given[name] for name in ("mean", "std") if given.get(name) is not None}
    return scale if settings_of(kind, given) == settings and len(scale) == 2 else None


def kind_of(class_path: str) -> type[Spectrogram]:
    """The class of a spectrogram by its path; ours may go without their module."""
    return pkgutil.resolve_name(class_path if "." in class_path else f"{Spectrogram.__module__}.{class_path}")


def settings_of(kind: type[Spectrogram], init_args: Mapping[str, Any]) -> dict[str, Any]:
    """What a log-mel depends on, as plain data: class path and all settings but mean and standard deviation."""
    settings = {**_defaults(kind), **init_args}
    plain = {name: value for name, value in settings.items() if name not in ("mean", "std")}
    return json.loads(json.dumps({"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": plain}))


def options_of(settings: Mapping[str, Any]) -> str:
    """The words of the command line that say how settings differ from the default ones, each behind a space."""
    kind = kind_of(settings["class_path"])
    name = kind.__name__ if kind.__module__ == Spectrogram.__module__ else settings["class_path"]
    words = "" if kind is LogMel else f" --spectrogram {name}"
    default = settings_of(kind, {})["init_args"]
    changed = {key: value for key, value in settings["init_args"].items() if value != default.get(key)}
    return words + "".join(f" --spectrogram.{key} {json.dumps(value)}" for key, value in changed.items())


def _defaults(kind: type[Spectrogram]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def stats_file(manifest: Path) -> Path:
    """The file beside a manifest that holds what was measured on it."""
    return manifest.with_name(manifest.name + ".stats.json")


def read_stats(path: Path) -> dict[str, Any]:
    """What `mbt stats` has written.

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
        raise UserError(f"{path}: not what mbt stats writes; delete it, and measure again")
    return content
