"""A point of a sweep before it is parsed: values by dotted name, as JSON, put so that the parser reads what is meant.

The parser takes such names one after the other, and `model.fusion.init_args.num_bottlenecks` behind `model.fusion:
JointSelfAttention` would silently bring back the strategy that was set before. Here a class and its arguments are put
together, and an argument that means nothing to the trial's fusion strategy, but something to another one of the sweep,
is left out.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import flat, nested
from mbt_lightning.config.yaml_files import is_text, read_yaml
from mbt_lightning.model import fusion
from mbt_lightning.process import rank

ARGUMENTS = ".init_args."
HOMES = ("", "mbt_lightning.", "mbt_lightning.model.fusion.")
"""What may stand before the name of one of our own strategies."""


def prepare_points(configs: Sequence[str], strategy: str | None = None) -> list[str]:
    """The configurations of a command line, with those that are trials as JSON texts that the parser reads rightly.

    Only JSON is a trial; other files stay as they are.

    Args:
        configs: files, and JSON as text, in the order in which they are read.
        strategy: the fusion strategy of the command line, which wins; None if it names none.
    """
    trials = {config: content_of(config) for config in configs if is_text(config) or config.endswith(".json")}
    if any(key.startswith(f"model.fusion{ARGUMENTS}") for content in trials.values() for key in content):
        strategy = strategy or strategy_named(configs)
    prepared = {c: with_arguments(without_meaningless(content, strategy)) for c, content in trials.items()}
    return [json.dumps(prepared[c]) if c in trials and prepared[c] != trials[c] else c for c in configs]


def strategy_named(configs: Sequence[str]) -> str | None:
    """The fusion strategy that the last of the configurations that name one names."""
    for settings in map(flat, map(content_of, reversed(configs))):
        name = settings.get("model.fusion.class_path", settings.get("model.fusion"))
        if isinstance(name, str):
            return name
    return None


def without_meaningless(content: dict[str, Any], strategy: str | None) -> dict[str, Any]:
    """A trial without arguments of other fusion strategies than its own; each is printed.

    A sweep that crosses strategies with an argument of one of them has such trials. An argument that no strategy of
    the house takes stays, and is refused by the parser.
    """
    takes = arguments_of_strategies()
    name = str(strategy).rpartition(".")[2]
    if name not in takes or str(strategy) not in [f"{home}{name}" for home in HOMES]:
        return content
    foreign = {f"model.fusion{ARGUMENTS}{key}" for keys in takes.values() for key in keys - takes[name]}
    left_out = sorted(foreign & content.keys())
    for key in left_out if rank() == 0 else ():
        print(f"{key} means nothing to {name}: left out", flush=True)
    return {key: value for key, value in content.items() if key not in left_out}


def arguments_of_strategies() -> dict[str, set[str]]:
    """The strategies of the house, each with what it may be told in a file."""
    return {
        name: {*inspect.signature(found).parameters} - {"geometry"}
        for name, found in vars(fusion).items()
        if isinstance(found, type) and issubclass(found, fusion.Fusion)
    }


def with_arguments(content: dict[str, Any]) -> dict[str, Any]:
    """A trial in which the arguments of a class that it names stand with the class."""
    content = copy.deepcopy(content)
    for key in [key for key in sorted(content) if ARGUMENTS in key]:
        owner, _, argument = key.partition(ARGUMENTS)
        place, last = place_of(content, owner)
        if place is None or not isinstance(place[last], str | dict):
            continue
        if isinstance(place[last], str):
            place[last] = {"class_path": place[last]}
        place[last]["init_args"] = nested(flat(place[last].get("init_args") or {}) | {argument: content.pop(key)})
    return content


def place_of(content: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping of a trial that holds the value of a dotted name, and its key there; None if it has no such value."""
    if name in content:
        return content, name
    for key, below in content.items():
        rest = name.removeprefix(f"{key}.")
        if rest != name and isinstance(below, dict):
            return place_of(below, rest)
    return None, name


def content_of(config: str) -> dict[str, Any]:
    """What stands in a file or a text of JSON; nothing where that is no JSON, of which the parser will tell."""
    if not is_text(config) and not config.endswith(".json"):
        return read_yaml(Path(config))
    try:
        return json.loads(config if is_text(config) else Path(config).read_text("utf-8"))
    except json.JSONDecodeError:
        return {}
