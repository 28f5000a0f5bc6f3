"""What version 0.1 resolved, from tests/goldens/v0_1."""

from __future__ import annotations

import json

from paths import GOLDENS

FOLDER = GOLDENS / "v0_1"
RECIPES = json.loads((FOLDER / "resolved_recipes.json").read_text())
FINGERPRINTS = json.loads((FOLDER / "fingerprints.json").read_text())
_STORED = json.loads((FOLDER / "resolved_points.json").read_text())


def changed(settings: dict, delta: dict) -> dict:
    """Settings by dotted name, put together from others and what differs."""
    return {name: value for name, value in settings.items() if name not in delta["removed"]} | delta["changed"]


EXPERIMENTS = {"experiments/base.yaml": _STORED["base"]} | {
    path: changed(_STORED["base"], delta) for path, delta in _STORED["experiments"].items()
}
"""The settings of each file in experiments/."""


def points(sweep: str) -> list[dict]:
    """The settings of every point of a sweep, e.g. of `sweeps/demo.yaml`."""
    first = changed(_STORED["base"], _STORED["sweeps"][sweep]["first"])
    return [changed(first, point) for point in _STORED["sweeps"][sweep]["points"]]
