"""Points: all runs whose settings differ in the seed at most, and what they scored and cost. Without torch."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from statistics import fmean, stdev
from typing import Any

from mbt_lightning.config.settings import OF_MODALITY, OF_SEVERAL_MODALITIES, flat, identity_settings, is_late
from mbt_lightning.model import authors_flops as arithmetic
from mbt_lightning.runs.read import Run, is_finite
from mbt_lightning.table import paper
from mbt_lightning.table.paper import PaperNumber, arguments_of, class_of

SEED = "seed_everything"

MAY_BE_ABSENT = (*(name for names in OF_MODALITY.values() for name in names), *OF_SEVERAL_MODALITIES)
"""Settings that have no meaning for some runs, which then agree with every value."""

Settings = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------------------------------------------------


@cache
def key_of(name: str) -> str:
    """The setting that a dotted name belongs to: a class with its arguments is one setting, as is a size."""
    for key in MAY_BE_ABSENT:
        if name == key or name.startswith(f"{key}."):
            return key
    return ".".join(name.split(".")[:2])


def settings_of(run: Run, hashes: Mapping[str, str] | None = None) -> Settings:
    """What a run's score can depend on, without the seed: a value a setting, plain or a class with its arguments.

    The data set is known by its hash, if that is known: the same file has other paths on other machines.

    Args:
        run: the run.
        hashes: of manifests whose hash other runs know, by their path.

    Raises:
        KeyError: its configuration lacks what every one has.
    """
    found: Settings = {}
    for name, value in identity_settings(run.config).items():
        if name != SEED:
            key = key_of(name)
            if key == name:
                found[key] = value
            else:
                found.setdefault(key, {})[name.removeprefix(f"{key}.")] = value
    path = str(found.get("data.manifest"))
    digest = (run.summary.get("data") or {}).get("hash") or (hashes or {}).get(path)
    if digest:
        found["data.manifest"] = digest
        for name in ("data.media_root", "data.classes"):
            found.pop(name, None)
    return found


def text(value: Any) -> str:
    """Plain data as text that is equal where the data are."""
    return json.dumps(value, sort_keys=True, default=str)


def agree(one: Settings, other: Settings) -> bool:
    """Whether two runs' settings are equal, where both have a meaning for them."""
    return not any(True for _ in differences(one, other))


def differences(one: Settings, other: Settings) -> Iterable[str]:
    """The settings in which two runs differ."""
    for key in one.keys() | other.keys():
        if key in one and key in other:
            if one[key] != other[key]:
                yield key
        elif key not in MAY_BE_ABSENT:
            yield key


def explain(one: Settings, other: Settings) -> dict[str, tuple[str, str]]:
    """Where two runs differ, as finely as their settings go: {dotted name: (one's value, the other's)}."""
    found = {}
    for key in sorted(differences(one, other)):
        ours, theirs = (flat({key: s.get(key)}) if key in s else {} for s in (one, other))
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name, "–") != theirs.get(name, "–"):
                found[name] = (show(ours.get(name, "–")), show(theirs.get(name, "–")))
    return found


def show(value: Any) -> str:
    """A setting's value in a few words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if isinstance(value, Mapping):
        if "class_path" in value:
            return class_of(value)
        return ", ".join(f"{name} {show(inner)}" for name, inner in value.items())
    return str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Points
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    """Runs that differ in the seed at most.

    Args:
        settings: their settings, see `settings_of`.
        runs: those with a score, one a seed, by seed.
        unscored: of every seed without a score the newest run.
        doubles: further runs of the same seeds, which are not counted.
        places: the sweep's values that lead here, without the seed; several where they mean the same.
        swept: what varies in the table.
        paper: the paper's number, if the setting is one of the paper's.
        labels: what else is swept in words, by the setting's name.
        class_path: of its strategy, where another point has a class of the same name.
        order: its modalities in words, where another point has all else in common.
    """

    settings: Settings
    runs: list[Run] = field(default_factory=list)
    unscored: list[Run] = field(default_factory=list)
    doubles: list[Run] = field(default_factory=list)
    places: list[Settings] = field(default_factory=list)
    swept: tuple[str, ...] = ()
    paper: PaperNumber | None = None
    labels: dict[str, str] = field(default_factory=dict)
    class_path: str = ""
    order: str = ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of its first run."""
        return [*self.runs, *self.unscored][0].config

    @property
    def modalities(self) -> list[str]:
        """Names of its modalities, in order."""
        return self.config["model"]["modalities"]

    @property
    def kind(self) -> str:
        """The strategy without its settings, in the field's words; a class of one's own by its name."""
        if len(self.modalities) == 1:
            return f"{self.modalities[0]} only"
        if is_late(self.config):
            return "late fusion"
        own = paper.strategy_of(self.config)
        known = {
            "Bottleneck": "bottleneck",
            "CrossAttention": "cross-attention",
            "JointSelfAttention": "joint self-attention",
        }
        return known[own] if own in known else self.class_path or class_of(self.config["model"]["fusion"])

    @property
    def strategy(self) -> str:
        """The strategy with what it is set to, and what tells it from others that would be called the same."""
        return self.plain_strategy + (f", of {self.order}" if self.order else "")

    @property
    def plain_strategy(self) -> str:
        """The strategy with what it is set to."""
        if len(self.modalities) == 1 or is_late(self.config):
            return self.kind
        chosen = dict(arguments_of(self.config["model"]["fusion"]))
        if self.kind == "bottleneck":
            chosen = arithmetic.BOTTLENECK | chosen
            order = "" if self.modalities[0] == "rgb" else f", {self.modalities[0]} first"
            update = chosen["update"] + (order if chosen["update"] == "sequential" else "")
            return f"bottleneck B = {chosen['num_bottlenecks']} ({update})"
        return self.kind + (f" ({show(chosen)})" if chosen else "")

    @property
    def fusion_layer(self) -> int | None:
        """L_f; None of a single modality."""
        return self.config["model"]["fusion_layer"] if len(self.modalities) > 1 else None

    @property
    def num_bottlenecks(self) -> int | None:
        """B; None without a bottleneck."""
        if self.kind != "bottleneck":
            return None
        return (arithmetic.BOTTLENECK | dict(arguments_of(self.config["model"]["fusion"])))["num_bottlenecks"]

    def values(self, name: str) -> list[float]:
        """A test score of all its runs that have it, by seed."""
        return [run.test[name] for run in self.runs if is_finite(run.test.get(name))]

    def mean(self, name: str) -> float | None:
        """Mean of a test score; None if there is none."""
        values = self.values(name)
        return fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """Sample standard deviation of a test score; None of fewer than two runs."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None

    def about(self, *path: str) -> list[float]:
        """A number of the summaries of all its runs that have it."""
        found = []
        for run in self.runs:
            value: Any = run.summary
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if is_finite(value):
                found.append(value)
        return found

    @property
    def count(self) -> str:
        """Number of seeds in words, e.g. `2 of 3, 1 failed`."""
        if not self.unscored:
            return str(len(self.runs))
        states = Counter(state_of(run) for run in self.unscored)
        total = len(self.runs) + len(self.unscored)
        return f"{len(self.runs)} of {total}, " + ", ".join(f"{n} {state}" for state, n in states.items())

    @cached_property
    def gflops(self) -> float | None:
        """Billions of multiply-adds of a clip, as counted on the model."""
        found = self.about("gflops_per_clip")
        return found[0] if found else None

    @cached_property
    def gflops_as_coded(self) -> float | None:
        """Billions of multiply-adds of a clip in the authors' code; None if that has no such model, or it is unknown.

        The arithmetic is believed only where its count of this very model is the counted one. A summary from before the
        number of classes was noted down tells it by its count.
        """
        for run in self.runs:
            counted = round((run.summary.get("gflops_per_clip") or 0) * 1e9)
            try:
                known = (run.summary.get("data") or {}).get("classes")
                classes = known or classes_of(self.config, counted)
                cost = arithmetic.cost_of_settings(self.config, classes) if classes else None
            except (KeyError, TypeError, ZeroDivisionError):  # tokens or spectrograms of somebody's own
                return None
            if cost and cost.as_run == counted:
                return cost.as_coded / 1e9 if cost.as_coded else None
        return None


def classes_of(config: Mapping[str, Any], counted: int) -> int | None:
    """The number of classes with which a network costs what was counted; None if there is none."""
    one, two = (arithmetic.cost_of_settings(config, n) for n in (1, 2))
    if not one or not two:
        return None
    classes, rest = divmod(counted - one.as_run, two.as_run - one.as_run)
    return None if rest or classes < 0 else classes + 1


def state_of(run: Run) -> str:
    """A run's state in a word; one that ended without a score is no finished one."""
    return "without a score" if run.state == "finished" and not run.is_scored else run.state


def seed_of(run: Run) -> Any:
    """The run's seed; one that was drawn (`true`) or never set (`false`) is of that run alone."""
    seed = run.config.get(SEED)
    return f"drawn ({run.name})" if isinstance(seed, bool) else seed


def collect(runs: Iterable[tuple[Run, Settings]], swept: Sequence[str]) -> list[Point]:
    """The points of runs that differ in what is swept at most.

    Of several runs of one seed the newest with a score is counted, or else the newest.
    """
    points: dict[str, Point] = {}
    seeds: dict[str, dict[Any, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run, settings in runs:
        name = text({key: settings.get(key, "–") for key in swept})
        points.setdefault(name, Point(settings))
        seeds[name][seed_of(run)].append(run)
    for name, by_seed in seeds.items():
        for _, same in sorted(by_seed.items(), key=lambda item: (isinstance(item[0], str), item[0] or 0)):
            best, *doubles = sorted(same, key=lambda run: (run.is_scored, run.ended, run.name), reverse=True)
            (points[name].runs if best.is_scored else points[name].unscored).append(best)
            points[name].doubles += doubles
    return list(points.values())
