"""Runs as a pandas frame: a row a run, with its state, its settings, its scores and its costs. Without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mbt_lightning.config.settings import SEED, flat, may_be_absent
from mbt_lightning.runs.read import Run, is_finite, part_of
from mbt_lightning.table.strategies import show

if TYPE_CHECKING:
    import pandas as pd

EARLIER = "trained before"
"""Among the settings of a run: how it was trained before, if that was with others."""

Settings = dict[str, Any]
"""A value for each setting that a score can depend on, plain or a class with its arguments."""

PARTS_OF_NAME = {"data.inputs.": 5, "model.patches.": 3}
"""How many parts of a dotted name are one setting; two elsewhere: a class with its arguments is one, as is a size."""


@cache
def key_of(name: str) -> str:
    """The setting that a dotted name belongs to; a modality's setting may be given without `init_args`."""
    names = name.split(".")
    if name.startswith("data.inputs.") and len(names) > 3 and names[3] not in ("class_path", "init_args"):
        names.insert(3, "init_args")
    parts = next((n for start, n in PARTS_OF_NAME.items() if name.startswith(start)), 2)
    return ".".join(names[:parts])


def settings_of(run: Run, identity: Settings, hashes: Mapping[str, str]) -> Settings:
    """What a run's score can depend on, without the seed.

    The data set is identified by its hash, if that is known: the same file has other paths on other machines.

    Args:
        run: the run.
        identity: its `identity_settings`.
        hashes: of manifests whose hash other runs know, by their path.
    """
    found: Settings = {}
    for name, value in identity.items():
        key = key_of(name)
        if key == name:
            found[key] = value
        else:
            found.setdefault(key, {})[name.removeprefix(f"{key}.")] = value
    found.pop(SEED, None)
    path = str(found.get("data.manifest"))
    digest = (run.summary.get("data") or {}).get("hash") or hashes.get(path)
    if digest:
        found["data.manifest"] = digest
        for name in ("data.media_root", "data.classes"):
            found.pop(name, None)
    if stages := earlier_training(run):
        found[EARLIER] = stages
    return found


def earlier_training(run: Run) -> str:
    """How a run was trained before its settings were changed, or before it was continued in a folder of its own."""
    history = part_of(run.summary, "fit").get("history")
    stages = []
    for stage in history if isinstance(history, list) else []:
        settings = ", ".join(f"{name} {show(value)}" for name, value in (stage.get("settings") or {}).items())
        where = " in another run" if "continued_from" in stage else ""
        stages.append(f"{stage.get('steps')} steps{where}{settings and ' with ' + settings}")
    return "; ".join(stages)


def differences(one: Settings, other: Settings) -> list[str]:
    """The settings in which two runs differ, of those that have a meaning for both."""
    return [
        key
        for key in sorted(one.keys() | other.keys())
        if (one[key] != other[key] if key in one and key in other else not may_be_absent(key))
    ]


def explained(one: Settings, other: Settings) -> dict[str, tuple[str, str]]:
    """Where two runs differ, by the dotted names within their settings: {name: (one's value, the other's)}."""
    found = {}
    for key in differences(one, other):
        ours, theirs = (flat({key: s[key]}) if key in s else {} for s in (one, other))
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name, "–") != theirs.get(name, "–"):
                found[name] = (show(ours.get(name, "–")), show(theirs.get(name, "–")))
    return found


def text(value: Any) -> str:
    """Plain data as text that is equal where the data are."""
    return json.dumps(value, sort_keys=True, default=str)


def state_of(run: Run) -> str:
    """A run's state; a finished one without a score is not called finished."""
    return "without a score" if run.state == "finished" and not run.is_scored else run.state


def seed_of(run: Run) -> Any:
    """The run's seed; one that was drawn (`true`) or not set (`false`) is of that run alone."""
    seed = run.config.get(SEED)
    return f"drawn ({run.name})" if isinstance(seed, bool) else seed


def run_frame(runs: Sequence[Run], identities: Sequence[Settings]) -> pd.DataFrame:
    """A row a run, in four groups of columns: `run`, `setting`, `test` and `summary`.

    Args:
        runs: the runs.
        identities: their `identity_settings`; empty where they are not known.
    """
    import pandas as pd

    about: dict[str, list[Any]] = {
        "run": [run.name for run in runs],
        "source": [run.source for run in runs],
        "state": [run.state for run in runs],
        "message": [run.why for run in runs],
        "seed": [seed_of(run) for run in runs],
        "is_scored": [run.is_scored for run in runs],
        "ended": [run.ended for run in runs],
        "git_commit": [run.summary.get("git_commit") for run in runs],
        "data_hash": [(run.summary.get("data") or {}).get("hash") for run in runs],
    }
    summaries = [flat({name: value for name, value in run.summary.items() if name != "test"}) for run in runs]
    groups = {
        "run": pd.DataFrame(about, dtype=object),
        "setting": pd.DataFrame([plain(own) for own in identities], dtype=object),
        "test": pd.DataFrame([numbers(run.test) for run in runs], index=range(len(runs)), dtype=float),
        "summary": pd.DataFrame([numbers(values) for values in summaries], index=range(len(runs)), dtype=float),
    }
    return pd.concat(groups, axis=1)


def group_of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A group of the columns of a `run_frame`, which may be empty."""
    return frame[name] if name in frame.columns.get_level_values(0) else frame.iloc[:, :0].droplevel(0, axis=1)


def plain(settings: Settings) -> Settings:
    """Settings with lists and empty mappings as text."""
    return {name: text(value) if isinstance(value, list | dict) else value for name, value in settings.items()}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among some values."""
    return {name: value for name, value in values.items() if is_finite(value) and not isinstance(value, bool)}
