"""Runs side by side: which of them belong in one table, and what is swept there. Without torch.

The points of a table differ in nothing but what is swept; runs that differ in more are excluded, with the settings that
differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbt_lightning.config.settings import SEED, flat, identity_settings, may_be_absent, nested
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import Plan
from mbt_lightning.table import paper
from mbt_lightning.table.facts import trained_otherwise
from mbt_lightning.table.points import Point, by_number, collect
from mbt_lightning.table.run_frame import Settings, differences, explained, key_of, run_frame, settings_of, text
from mbt_lightning.table.strategies import class_of, show, with_distinct_names

if TYPE_CHECKING:
    import pandas as pd

STRATEGY = ("model.modalities", "model.fusion", "model.fusion_layer")
"""Swept settings that a row is named by."""

AXES = (
    *STRATEGY,
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
        frame: all runs, a row each, see `run_frame`; ("run", "role") is what each is in the table, ("run", "point") the
            number of its point.
        points: the table's rows, in order.
        swept: the settings that vary.
        varying: the settings in which any of the runs differ.
        score: name of the score that rows are judged by, e.g. `mAP`.
        excluded: runs that differ in more than what is swept, and where: {dotted name: (theirs, the table's)}.
        unread: runs of which too little is known, and why.
        evaluations: runs that trained nothing.
        plans: of the sweeps that the runs belong to.
    """

    frame: pd.DataFrame
    points: list[Point]
    swept: tuple[str, ...]
    varying: set[str]
    score: str
    excluded: list[tuple[Run, dict[str, tuple[str, str]]]] = field(default_factory=list)
    unread: list[tuple[Run, str]] = field(default_factory=list)
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
        return [key for key in self.swept if key not in STRATEGY]

    @cached_property
    def has_layers(self) -> bool:
        """Whether L_f varies, apart from late fusion."""
        return len({p.strategy.fusion_layer for p in self.points if not p.strategy.is_late} - {None}) > 1

    @cached_property
    def scores(self) -> list[str]:
        """Names of all test scores, in the order in which runs report them."""
        return list(dict.fromkeys(name for point in self.points for run in point.runs for name in run.test))

    @property
    def modalities(self) -> list[str]:
        """All modalities, in the order in which most models have them."""
        orders = sorted((p.strategy.modalities for p in self.points), key=len, reverse=True)
        return list(dict.fromkeys(m for order in orders for m in order))

    @property
    def groups(self) -> list[str]:
        """Groups of classes that have a score of their own."""
        start = f"{self.main}/"
        return [name.removeprefix(start) for name in self.scores if name.startswith(start)]

    def name_of(self, point: Point) -> str:
        """A point in a few words."""
        strategy = point.strategy
        layer = [] if strategy.fusion_layer is None or strategy.is_late else [f"L_f = {strategy.fusion_layer}"]
        return ", ".join([strategy.name, *layer, *(f"{axis_title(key)} {v}" for key, v in point.labels.items())])


def axis_title(key: str) -> str:
    """What a swept setting is called."""
    titles = {
        "data.window_seconds": "window (s)",
        "data.manifest": "data",
        "model.share_encoder": "one encoder",
        "model.init": "starting weights",
    }
    return titles.get(key, key.rpartition(".")[2].replace("_", " "))


def compare(runs: Sequence[Run], plans: Sequence[Plan] = (), score: str | None = None) -> Comparison:
    """Put runs side by side.

    Args:
        runs: all runs there are.
        plans: of the sweeps that they belong to.
        score: name of the score to judge by; default: the main one of the task.
    """
    runs = completed(runs)
    hashes = known_hashes(runs)
    identities: list[Settings] = [{} for _ in runs]
    settings: dict[int, Settings] = {}
    unread, roles = [], {}
    for row, run in enumerate(runs):
        if not run.is_training:
            roles[row] = "no training"
            continue
        try:
            identities[row] = identity_settings(run.config)
            settings[row] = settings_of(run, identities[row], hashes)
        except (KeyError, TypeError, AttributeError) as error:
            unread.append((run, f"its configuration lacks {error}" if run.config else "it has no configuration"))
            roles[row] = "not read"
    frame = run_frame(runs, identities)
    may_vary = axes_of([runs[row] for row in settings], settings.values(), plans)
    family = largest_family(settings, frame["run"]["is_scored"], may_vary)
    inside = {row: settings[row] for row in family}
    swept = tuple(key for key in may_vary if varies(key, inside.values()))
    excluded = []
    for row, gaps in trained_otherwise(frame, runs, inside, swept).items():
        del inside[row], settings[row]
        excluded.append((runs[row], gaps))
        roles[row] = "excluded"
    points = collect(frame, runs, inside, swept) if inside else []
    known: Settings = {}
    for point in points:
        known = point.settings | known
    for row, own in settings.items():
        if row not in inside:
            excluded.append((runs[row], explained(without(own, may_vary), without(known, may_vary))))
            roles[row] = "excluded"
    if roles:
        frame.loc[list(roles), ("run", "role")] = list(roles.values())
    evaluations = [run for run in runs if not run.is_training]
    varying = {key for key in {key for own in settings.values() for key in own} if varies(key, settings.values())}
    score = score or main_score(points)
    found = Comparison(frame, points, swept, varying, score, excluded, unread, evaluations, list(plans))
    describe(found)
    return found


def completed(runs: Sequence[Run]) -> list[Run]:
    """Fill in the configuration of waiting runs of which only the swept values are known, from the other runs."""
    whole = [run.config for run in runs if run.is_training and run.config.get("trainer")]
    if not whole:
        return list(runs)
    base = max(whole, key=lambda config: len(flat(config)))
    strategies = {class_of(config["model"].get("fusion")): config["model"].get("fusion") for config in whole}

    def filled(run: Run) -> Run:
        values = flat(run.config)
        name = values.pop("model.fusion", None)
        if isinstance(name, str):  # a class by its name alone has its usual settings
            own = strategies.get(name.rpartition(".")[2]) or {"class_path": f"mbt_lightning.{name}", "init_args": {}}
            values |= flat({"model.fusion": own})
        replaced = {key_of(key) for key in values if key.startswith("model.fusion.class_path")}
        rest = {key: value for key, value in flat(base).items() if key_of(key) not in replaced}
        return replace(run, config=nested(rest | values))

    return [
        filled(r) if (r.state == "waiting" or SEED in r.config) and r.config and "trainer" not in r.config else r
        for r in runs
    ]


def describe(found: Comparison) -> None:
    """Order the points, and give each its name, its labels, its places in the sweeps and the paper's number."""
    points = found.points
    by_source = {
        str(Path(run.source)): point for point in points for run in (*point.runs, *point.unscored, *point.duplicates)
    }
    for plan in found.plans:
        for planned in plan.points:
            owner = by_source.get(str(plan.folder / planned["trial"]))
            values = {name: value for name, value in planned["values"].items() if name != SEED}
            if owner and values not in owner.places:
                owner.places.append(values)
    for key in found.axes:
        for point, label in zip(points, labels([p.settings.get(key, "–") for p in points]), strict=True):
            point.labels[key] = data_label(point, label) if key == "data.manifest" else label
    names = with_distinct_names([p.strategy for p in points], [tuple(p.labels.values()) for p in points])
    for point, strategy in zip(points, names, strict=True):
        point.strategy = strategy
    rules = {p.strategy.update for p in points} - {""}
    studied = {*found.swept, *(["update"] if len(rules) > 1 else [])}
    for point in points:
        if point.runs:
            point.paper = paper.find(point.config, point.data, found.score, studied)

    def place(point: Point) -> tuple:
        others = [by_number(point.settings.get(key)) for key in found.axes]
        return (*point.strategy.rank, others, point.strategy.fusion_layer or 0)

    points.sort(key=place)


def varies(key: str, settings: Iterable[Settings]) -> bool:
    """Whether runs differ in a setting; those for which it has no meaning do not count."""
    values = [own.get(key, "–") for own in settings if key in own or not may_be_absent(key)]
    return any(value != values[0] for value in values)


def known_hashes(runs: Iterable[Run]) -> dict[str, str]:
    """Hashes of manifests by their path, where all runs that know them agree."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if digest := (run.summary.get("data") or {}).get("hash"):
            found[str((run.config.get("data") or {}).get("manifest"))].add(str(digest))
    return {path: next(iter(digests)) for path, digests in found.items() if len(digests) == 1}


def axes_of(runs: Sequence[Run], settings: Iterable[Settings], plans: Sequence[Plan]) -> tuple[str, ...]:
    """The settings that may vary in a table: those of the sweeps if all runs are theirs, else what ablations vary."""
    known = {key for own in settings for key in own}
    values = [flat(point["values"]) for plan in plans for point in plan.points]
    names = [
        *dict.fromkeys(name for chosen in values for name in chosen),
        *(n for p in plans if not p.points for n in p.parameters),
    ]
    of_plans = dict.fromkeys(key_of(name) for name in names if name != SEED)
    folders = {plan.folder.resolve() for plan in plans}
    inside = all(Path(run.source).parent.resolve() in folders for run in runs)
    if of_plans and inside and of_plans.keys() <= known:
        return tuple(sorted(of_plans, key=lambda key: (AXES.index(key) if key in AXES else len(AXES), key)))
    return (*AXES, *(key for key in of_plans if key not in AXES))


def without(settings: Settings, keys: Sequence[str]) -> Settings:
    """All settings except some."""
    return {key: value for key, value in settings.items() if key not in keys}


def largest_family(settings: Mapping[int, Settings], is_scored: pd.Series, may_vary: Sequence[str]) -> list[int]:
    """The most runs that agree in all but what may vary.

    Runs with a score count before those without. A run of one modality agrees with any value of what it lacks.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for row, own in settings.items():
        alike[text(without(own, may_vary))].append(row)
    cores = [(without(settings[rows[0]], may_vary), rows) for rows in alike.values()]

    def size(rows: Sequence[int]) -> tuple[int, int]:
        return int(is_scored.loc[list(rows)].sum()), len(rows)

    # The fullest first: what a single modality lacks must not join runs that differ in it.
    cores.sort(key=lambda core: (len(core[0]), *size(core[1])), reverse=True)
    best: list[int] = []
    for core, rows in sorted(cores, key=lambda core: size(core[1]), reverse=True)[:50]:
        known, taken = core, list(rows)
        for other, more in cores:
            if other is not core and not differences(other, known):
                known, taken = known | other, taken + more
        if size(taken) > size(best):
            best = taken
    return best


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
    """Values of one setting in a few words each; what differs between values of the same words is added."""
    mappings = [value for value in values if isinstance(value, Mapping) and "class_path" not in value]
    differing = {name for value in mappings for name in value if any(o.get(name) != value[name] for o in mappings)}

    def short(value: Any) -> str:
        if differing and isinstance(value, Mapping) and "class_path" not in value:
            return show({name: inner for name, inner in value.items() if name in differing})
        return show(value)

    words = [short(value) for value in values]
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
    if not point.runs:
        return Path(digest).stem
    clips = (point.data.get("clips") or {}).get("train")
    return f"{Path(str(point.data.get('manifest'))).stem}, {clips} clips, {digest[:6]}"
