"""Runs side by side: which of them are one point, which may stand in one table, and what their scores say.

A point is all runs whose settings differ in the seed at most. A table is of points that differ in nothing but what is
swept; runs that differ in more are told apart with the settings that differ. Without torch.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mbt_lightning.lab import arithmetic, paper
from mbt_lightning.lab.paper import PaperNumber, arguments_of, class_of
from mbt_lightning.lab.results import Plan, Run
from mbt_lightning.settings import OF_MODALITY, OF_SEVERAL_MODALITIES, depth_of, flat, is_late, meaningful

AXES = (
    "model.modalities",
    "model.fusion",
    "model.fusion_layer",
    "model.share_encoder",
    "model.size",
    "model.init",
    "model.mixup",
    "data.manifest",
    "data.window_seconds",
    "data.synchronous",
)
"""What ablations vary; any other setting only where a sweep names it."""

SEED = "seed_everything"

MAY_BE_ABSENT = (*(name for names in OF_MODALITY.values() for name in names), *OF_SEVERAL_MODALITIES)
"""Settings that have no meaning for some runs, which then agree with every value."""

KNOWN_SCORES = ("mAP", "top1", "action_top1")

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
    for name, value in meaningful(run.config).items():
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
    """

    settings: Settings
    runs: list[Run] = field(default_factory=list)
    unscored: list[Run] = field(default_factory=list)
    doubles: list[Run] = field(default_factory=list)
    places: list[Settings] = field(default_factory=list)
    swept: tuple[str, ...] = ()
    paper: PaperNumber | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of its first run."""
        return [*self.runs, *self.unscored][0].config

    @property
    def modalities(self) -> list[str]:
        """Names of its modalities, in order."""
        return self.config["model"]["modalities"]

    @cached_property
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
        return known[own] if own in known else class_of(self.config["model"]["fusion"])

    @cached_property
    def strategy(self) -> str:
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
        return [run.test[name] for run in self.runs if isinstance(run.test.get(name), int | float)]

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
            if isinstance(value, int | float):
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
    """The run's seed."""
    return run.config.get(SEED)


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


# ---------------------------------------------------------------------------------------------------------------------
# Families
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What a table is made of.

    Args:
        points: its rows, in order.
        swept: the settings that vary.
        common: the settings that all points share.
        score: name of the score that rows are judged by, e.g. `mAP`.
        apart: runs that differ in more than what is swept, and where: {dotted name: (theirs, the table's)}.
        unplaced: runs of which too little is known, and why.
        evaluations: runs that trained nothing.
        plans: of the sweeps that the runs belong to.
    """

    points: list[Point]
    swept: tuple[str, ...]
    common: Settings
    score: str
    apart: list[tuple[Run, dict[str, tuple[str, str]]]] = field(default_factory=list)
    unplaced: list[tuple[Run, str]] = field(default_factory=list)
    evaluations: list[Run] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    @property
    def main(self) -> str:
        """The test's name of the fused score."""
        return f"fused/{self.score}"

    @property
    def axes(self) -> list[str]:
        """What is swept beside strategy, modalities and L_f."""
        own = ("model.modalities", "model.fusion", "model.fusion_layer")
        return [key for key in self.swept if key not in own]

    @cached_property
    def has_layers(self) -> bool:
        """Whether L_f varies, late fusion aside."""
        return len({p.fusion_layer for p in self.points if p.kind != "late fusion"} - {None}) > 1

    @property
    def modalities(self) -> list[str]:
        """All modalities, in the order in which most models have them."""
        return list(
            dict.fromkeys(m for p in sorted(self.points, key=lambda p: -len(p.modalities)) for m in p.modalities)
        )

    @property
    def groups(self) -> list[str]:
        """Groups of classes that have a score of their own."""
        start = f"{self.main}/"
        names = dict.fromkeys(name for point in self.points for run in point.runs for name in run.test)
        return [name.removeprefix(start) for name in names if name.startswith(start)]


def compare(runs: Sequence[Run], plans: Sequence[Plan] = (), score: str | None = None) -> Comparison:
    """Put runs side by side.

    Args:
        runs: all runs there are.
        plans: of the sweeps that they belong to.
        score: name of the score to judge by; default: the main one of the task.
    """
    evaluations = [run for run in runs if not run.is_training]
    placed, unplaced = [], []
    paths = known_hashes(runs)
    for run in runs:
        if run.is_training:
            try:
                placed.append((run, settings_of(run, paths)))
            except (KeyError, TypeError, AttributeError) as error:
                unplaced.append((run, f"its configuration lacks {error}" if run.config else "it has no configuration"))
    fill_in_measured(placed)
    may_vary = axes_of(placed, plans)
    family, others = largest_family(placed, may_vary)
    swept = tuple(key for key in may_vary if varies(key, [s for _, s in family]))
    points = collect(family, swept)
    fullest = max((p.settings for p in points), key=len, default={})
    common = {key: value for key, value in fullest.items() if key not in swept}
    apart = [(run, explain(without(settings, may_vary), without(fullest, may_vary))) for run, settings in others]
    found = Comparison(points, swept, common, score or main_score(points), apart, unplaced, evaluations, list(plans))
    finish(found)
    return found


def finish(found: Comparison) -> None:
    """Order the points, and give each its labels, its places in the sweeps, and the paper's number."""
    owners = {id(run): point for point in found.points for run in (*point.runs, *point.unscored, *point.doubles)}
    by_source = {
        str(Path(run.source)): owners[id(run)] for p in found.points for run in [*p.runs, *p.unscored, *p.doubles]
    }
    for plan in found.plans:
        for planned in plan.points:
            point = by_source.get(str(plan.folder / planned["trial"]))
            values = {name: value for name, value in planned["values"].items() if name != SEED}
            if point and values not in point.places:
                point.places.append(values)
    studied = {*found.swept}
    updates = {p.strategy.partition("(")[2] for p in found.points if p.kind == "bottleneck"}
    studied |= {"update"} if len(updates) > 1 else set()
    for key in found.axes:
        for point, label in zip(found.points, labels([p.settings.get(key, "–") for p in found.points]), strict=True):
            point.labels[key] = data_label(point, label) if key == "data.manifest" else label
    for point in found.points:
        point.swept = found.swept
        if point.runs:
            data = point.runs[0].summary.get("data") or {}
            point.paper = paper.find(point.config, data, found.score, studied)
    first = ["rgb only", "spectrogram only", "late fusion", "joint self-attention", "cross-attention", "bottleneck"]

    def place(point: Point) -> tuple:
        kind = first.index(point.kind) if point.kind in first else len(first)
        alone = -1 if len(point.modalities) == 1 and point.kind not in first else kind
        others = [natural(point.settings.get(key)) for key in found.axes]
        return (alone, point.kind, point.num_bottlenecks or 0, point.strategy, others, point.fusion_layer or 0)

    found.points.sort(key=place)


def natural(value: Any) -> tuple[int, float, str]:
    """What sorts numbers by size, and the rest by its text behind them."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, text(value))


def varies(key: str, settings: Iterable[Settings]) -> bool:
    """Whether runs differ in a setting, those aside for which it has no meaning."""
    absent = [] if key in MAY_BE_ABSENT else ["–"]
    return len({text(value) for s in settings for value in ([s[key]] if key in s else absent)}) > 1


def known_hashes(runs: Iterable[Run]) -> dict[str, str]:
    """Hashes of manifests by their path, where all runs that know them say the same."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if digest := (run.summary.get("data") or {}).get("hash"):
            found[str((run.config.get("data") or {}).get("manifest"))].add(digest)
    return {path: next(iter(digests)) for path, digests in found.items() if len(digests) == 1}


def fill_in_measured(placed: list[tuple[Run, Settings]]) -> None:
    """A trial that has not begun has `null` where others have the measured scale of the spectrogram: take theirs."""
    key = "data.spectrogram"
    given = [{name: v for name, v in (s.get(key) or {}).items() if v is not None} for _, s in placed]
    measured = [own for own, (_, s) in zip(given, placed, strict=True) if own and own == s[key]]
    for own, (_, settings) in zip(given, placed, strict=True):
        if own and own != settings[key]:
            same = [m for m in measured if m.keys() <= settings[key].keys() and m.items() >= own.items()]
            settings[key] = same[0] if same else settings[key]


def axes_of(placed: Sequence[tuple[Run, Settings]], plans: Sequence[Plan]) -> tuple[str, ...]:
    """The settings that may vary in a table: those of the sweeps if all runs are theirs, else what ablations vary."""
    known = {key for _, settings in placed for key in settings}
    of_plans = dict.fromkeys(key_of(name) for plan in plans for name in plan.parameters if name != SEED)
    folders = {plan.folder.resolve() for plan in plans}
    inside = all(Path(run.source).parent.resolve() in folders for run, _ in placed)
    if of_plans and inside and of_plans.keys() <= known:
        return tuple(sorted(of_plans, key=lambda key: (AXES.index(key) if key in AXES else len(AXES), key)))
    return (*AXES, *(key for key in of_plans if key not in AXES))


def without(settings: Settings, keys: Sequence[str]) -> Settings:
    """Settings but for some."""
    return {key: value for key, value in settings.items() if key not in keys}


Placed = list[tuple[Run, Settings]]


def largest_family(placed: Placed, may_vary: Sequence[str]) -> tuple[Placed, Placed]:
    """The most runs that agree in all but what may vary, and the others.

    Runs with a score count before those without. A run of one modality agrees with any value of what it lacks.
    """
    alike: dict[str, Placed] = defaultdict(list)
    for run, settings in placed:
        alike[text(without(settings, may_vary))].append((run, settings))
    cores = [(without(members[0][1], may_vary), members) for members in alike.values()]

    def size(members: Placed) -> tuple[int, int]:
        return sum(run.is_scored for run, _ in members), len(members)

    # The fullest first: what a single modality lacks must not bind together what differs in it.
    cores.sort(key=lambda core: (len(core[0]), *size(core[1])), reverse=True)
    best: Placed = []
    for settings, members in sorted(cores, key=lambda core: size(core[1]), reverse=True)[:50]:
        chosen, taken = [settings], list(members)
        for other, more in cores:
            if other is not settings and all(agree(other, one) for one in chosen):
                chosen.append(other)
                taken += more
        if size(taken) > size(best):
            best = taken
    inside = {id(run) for run, _ in best}
    return best, [(run, settings) for run, settings in placed if id(run) not in inside]


def main_score(points: Iterable[Point]) -> str:
    """Name of the score that a run is judged by: the one that its test's `score` is equal to."""
    for point in points:
        for run in point.runs:
            equal = [
                name.removeprefix("fused/")
                for name, value in run.test.items()
                if name.startswith("fused/") and name.count("/") == 1 and value == run.test["score"]
            ]
            if equal:
                return next((name for name in KNOWN_SCORES if name in equal), equal[0])
    return KNOWN_SCORES[0]


def labels(values: Sequence[Any]) -> list[str]:
    """Values of one setting in a few words each, in more only where few would be the same for different ones."""
    plain = [value for value in values if isinstance(value, Mapping) and "class_path" not in value]
    differing = {name for value in plain for name in value if any(other.get(name) != value[name] for other in plain)}

    def few(value: Any) -> str:
        if differing and isinstance(value, Mapping) and "class_path" not in value:
            return show({name: inner for name, inner in value.items() if name in differing})
        return show(value)

    words = [few(value) for value in values]
    found = []
    for value, word in zip(values, words, strict=True):
        namesakes = [other for other, name in zip(values, words, strict=True) if name == word and other != value]
        if namesakes and isinstance(value, Mapping):
            own = flat(value)
            names = [name for name in own if any(flat(other).get(name, "–") != own[name] for other in namesakes)]
            word += " (" + ", ".join(f"{name.rpartition('.')[2]} {show(own[name])}" for name in names) + ")"
        found.append(word)
    return found


def data_label(point: Point, digest: str) -> str:
    """A data set in a few words: its manifest's name and how many clips it trains on."""
    for run in point.runs:
        data = run.summary.get("data") or {}
        clips = (data.get("clips") or {}).get("train")
        return f"{Path(str(data.get('manifest'))).stem}, {clips} clips, {digest[:6]}"
    return Path(digest).stem


# ---------------------------------------------------------------------------------------------------------------------
# What the scores say
# ---------------------------------------------------------------------------------------------------------------------


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of some (cost, score) are optimal: none costs less for at least the score, or scores more for the cost."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points) for cost, score in points
    ]


@dataclass(frozen=True)
class Duel:
    """The best points of two strategies, seed by seed.

    Args:
        one: the better point.
        other: the other one.
        seeds: that both have.
        difference: mean of the differences; None without common seeds.
        std: their sample standard deviation; None of fewer than two.
        p: two-sided, of a paired t-test; None of fewer than two seeds, of equal differences, or without scipy.
        is_chosen: whether one of them was chosen among several by the very score that is tested.
    """

    one: Point
    other: Point
    seeds: int
    difference: float | None
    std: float | None
    p: float | None
    is_chosen: bool


def duels(found: Comparison) -> list[Duel]:
    """The best point of the best strategy against the best of every other.

    Raises:
        ModuleNotFoundError: scipy is not there, and a test is to be made.
    """
    by_kind: dict[str, list[Point]] = defaultdict(list)
    for point in found.points:
        if point.mean(found.main) is not None:
            by_kind[point.kind].append(point)
    best = [max(points, key=lambda point: point.mean(found.main) or 0) for points in by_kind.values()]
    best.sort(key=lambda point: point.mean(found.main) or 0, reverse=True)
    several = {kind for kind, points in by_kind.items() if len(points) > 1}
    return [duel(best[0], other, found.main, bool({best[0].kind, other.kind} & several)) for other in best[1:]]


def duel(one: Point, other: Point, name: str, is_chosen: bool) -> Duel:
    """Two points, seed by seed."""
    theirs = {seed_of(run): run.test.get(name) for run in other.runs}
    pairs = [
        (run.test[name], theirs[seed_of(run)])
        for run in one.runs
        if run.test.get(name) is not None and theirs.get(seed_of(run)) is not None
    ]
    gaps = [a - b for a, b in pairs]
    if not gaps:
        return Duel(one, other, 0, None, None, None, is_chosen)
    std = stdev(gaps) if len(gaps) > 1 else None
    p = None
    if std and std > 1e-12:  # else rounding is all the spread there is
        from scipy.special import stdtr  # what scipy.stats.ttest_rel computes; scipy.stats takes a second to import

        p = float(2 * stdtr(len(gaps) - 1, -abs(fmean(gaps)) / (std / math.sqrt(len(gaps)))))
    return Duel(one, other, len(gaps), fmean(gaps), std, p, is_chosen)


def depth(found: Comparison) -> int | None:
    """Number of layers, if all models have the same."""
    depths = {depth_of(point.config) for point in found.points}
    return depths.pop() if len(depths) == 1 else None
