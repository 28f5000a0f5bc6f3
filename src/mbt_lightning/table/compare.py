"""Runs side by side: which of them may stand in one table, and what is swept there. Without torch.

A table is of points that differ in nothing but what is swept; runs that differ in more are told apart with the settings
that differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import flat, nested
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import Plan
from mbt_lightning.table import paper
from mbt_lightning.table.paper import class_of
from mbt_lightning.table.points import (
    MAY_BE_ABSENT,
    SEED,
    Point,
    Settings,
    agree,
    collect,
    explain,
    key_of,
    settings_of,
    show,
    text,
)

AXES = (
    "model.modalities",
    "model.fusion",
    "model.fusion_layer",
    "model.share_encoder",
    "model.size",
    "model.init",
    "model.mixup",
    "data.window_seconds",
    "data.synchronous",
)
"""What ablations vary; any other setting, the data set too, only where a sweep names it."""

KNOWN_SCORES = ("mAP", "top1", "action_top1")


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
    def split(self) -> str:
        """The split that is reported, in words."""
        names = dict.fromkeys(p.config["data"].get("test_split") or "test" for p in self.points)
        return f"the {' or '.join(names)} split"

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
    runs = completed(runs)
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
    known: Settings = {}
    for point in points:
        known = point.settings | known
    apart = [(run, explain(without(settings, may_vary), without(known, may_vary))) for run, settings in others]
    found = Comparison(points, swept, common, score or main_score(points), apart, unplaced, evaluations, list(plans))
    finish(found)
    return found


def completed(runs: Sequence[Run]) -> list[Run]:
    """Runs that wait, of which only the swept values are known, with the configuration of the others put below them."""
    whole = [run.config for run in runs if run.is_training and run.config.get("trainer")]
    if not whole:
        return list(runs)
    base = max(whole, key=lambda config: len(flat(config)))
    strategies = {class_of(config["model"].get("fusion")): config["model"].get("fusion") for config in whole}

    def filled(run: Run) -> Run:
        values = flat(run.config)
        name = values.get("model.fusion")
        if isinstance(name, str):  # a class by its name alone has its usual settings
            own = strategies.get(name.rpartition(".")[2]) or {"class_path": f"mbt_lightning.{name}", "init_args": {}}
            values = {**{key: v for key, v in values.items() if key != "model.fusion"}, **flat({"model.fusion": own})}
        replaced = {key_of(key) for key in values if key.startswith("model.fusion.class_path")}
        below = {key: v for key, v in flat(base).items() if key_of(key) not in replaced}
        return replace(run, config=nested(below | values))

    return [
        filled(r) if (r.state == "waiting" or SEED in r.config) and r.config and "trainer" not in r.config else r
        for r in runs
    ]


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
    tell_apart(found.points)
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


def tell_apart(points: Sequence[Point]) -> None:
    """Give points that would be called the same what tells them apart: the class's whole path, or the modalities."""
    paths: dict[str, set[str]] = defaultdict(set)
    own = {id(p): str((p.settings.get("model.fusion") or {}).get("class_path", "")) for p in points}
    for point in points:
        paths[point.kind].add(own[id(point)])
    for point in points:
        if point.kind == own[id(point)].rpartition(".")[2] and len(paths[point.kind]) > 1:
            point.class_path = own[id(point)]
    alike: dict[tuple, list[Point]] = defaultdict(list)
    for point in points:
        alike[point.strategy, point.fusion_layer, *point.labels.values()].append(point)
    for same in alike.values():
        if len({tuple(p.modalities) for p in same}) > 1:
            for point in same:
                point.order = ", ".join(point.modalities)


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
    values = [flat(point["values"]) for plan in plans for point in plan.points]
    names = [
        *dict.fromkeys(name for chosen in values for name in chosen),
        *(n for p in plans if not p.points for n in p.parameters),
    ]
    of_plans = dict.fromkeys(key_of(name) for name in names if name != SEED)
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
