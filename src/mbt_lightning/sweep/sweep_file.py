"""A W&B sweep file without W&B: read strictly, its points in W&B's order, its command as W&B's agent reads it.

What the client and the engine do is followed to the letter (wandb 0.31, sweeps 0.3), and what they would accept
silently is refused: a misspelt key, a macro inside a word, a value that would arrive as text.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mbt_lightning.config.yaml_files import nearest_file, read_mapping
from mbt_lightning.errors import UserError, did_you_mean
from mbt_lightning.sweep.distributions import DISTRIBUTIONS, Parameter, as_sent, read_parameters

METHODS = ("grid", "random", "bayes")
KEYS = (
    *("apiVersion", "command", "controller", "description", "early_terminate", "entity", "kind", "method", "metric"),
    *("name", "parameters", "program", "project", "run_cap"),
)
"""Keys of a sweep file."""
ELSEWHERE = {
    "image_uri": "W&B Launch",
    "job": "W&B Launch",
    "metrics": "a scheduler of your own",
    "scheduler": "a scheduler of your own",
}
"""Keys that W&B allows and that mean nothing here, with what they belong to."""

VALUES = ("args", "args_no_equals", "args_json", "args_json_file")
"""Macros that pass the values in a form that the program reads."""
UNFIT = {
    "args_no_hyphens": "options without hyphens",
    "args_no_boolean_flags": "booleans as bare flags, and false ones not at all",
    "args_append_hydra": "Hydra's +name=value",
    "args_override_hydra": "Hydra's ++name=value",
}
"""Macros whose form the program cannot read, with that form."""
MACROS = ("env", "interpreter", "program", *VALUES, *UNFIT)
FIX = "write `--config` and `${args_json_file}` as two items"
ENVVAR = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
FORMS = "`mbt fit ...` or `python -m mbt_lightning fit ...`, after ${env} or without it"


@dataclass(frozen=True)
class SweepFile:
    """A sweep: what is varied, how, and the command that runs one trial.

    Args:
        path: the file.
        name: the file's stem, or its `name`.
        method: grid, random or bayes.
        metric: name of what is optimised, or only watched.
        goal: maximize or minimize.
        parameters: by name, in the order of their names.
        command: items as in the file, or W&B's default.
        program: value of ${program}.
        run_cap: most trials; None: no limit.
        early_terminate: whether the file asks W&B to stop poor trials early (hyperband).
    """

    path: Path
    name: str
    method: str
    metric: str
    goal: str
    parameters: Mapping[str, Parameter]
    command: tuple[str, ...]
    program: str = ""
    run_cap: int | None = None
    early_terminate: bool = False


def read_sweep(path: Path | str) -> SweepFile:
    """Read a sweep file, and refuse what W&B or the program could not read.

    Without `metric` it is val/score, the higher the better; a metric without `goal` is minimised, as in W&B.

    Raises:
        UserError: in one line, with the file, what is wrong and the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sweep file{nearest_file(path)}")
    content = read_mapping(path, "a sweep file")
    try:
        return checked(path, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def checked(path: Path, given: Mapping[str, Any]) -> SweepFile:
    """The content of a sweep file, complete with W&B's defaults."""
    for key in given:
        if key in ELSEWHERE:
            raise UserError(f"{key} belongs to {ELSEWHERE[key]}; sweeps here are grid, random or bayes, without it")
        if key not in KEYS:
            raise UserError(f"unknown key {key!r}{did_you_mean(str(key), KEYS)} (known: {', '.join(KEYS)})")
    method = given.get("method")
    if method not in METHODS:
        raise UserError(f"method is {method!r}: choose one of {', '.join(METHODS)}{did_you_mean(str(method), METHODS)}")
    parameters = read_parameters(given.get("parameters"))
    if method == "grid":
        for parameter in leaves(parameters):
            if DISTRIBUTIONS[parameter.distribution].grid is None:
                walked = ", ".join(name for name, kind in DISTRIBUTIONS.items() if kind.grid)
                raise UserError(
                    f"parameter {parameter.name} is {parameter.distribution}, which a grid cannot walk through "
                    f"(it can through {walked}): give values, or `method: random`"
                )
    metric, goal = read_metric(given.get("metric"))
    if method == "bayes" and "metric" not in given:
        raise UserError("bayes optimises a metric: give `metric: {name: val/score, goal: maximize}`")
    if method != "grid" and metric.startswith("test/"):
        raise UserError(
            f"metric is {metric}: a {method} search that chooses by the test split reports a score that is too good; "
            f"give `metric: {{name: val/{metric[5:]}, goal: {goal}}}`"
        )
    check_early_terminate(given.get("early_terminate"))
    run_cap = given.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap is {run_cap!r}: give a whole number of trials, at least 1")
    command = given.get("command", ["${env}", "${interpreter}", "${program}", "${args}"])
    if not isinstance(command, list) or not command:
        raise UserError(f"command is {command!r}: give a list of words, or nothing")
    sweep = SweepFile(
        path,
        name=str(given.get("name") or path.stem),
        method=method,
        metric=metric,
        goal=goal,
        parameters=parameters,
        command=tuple(map(str, command)),
        program=str(given.get("program", "")),
        run_cap=run_cap,
        early_terminate=given.get("early_terminate") is not None,
    )
    check_command(sweep)
    return sweep


def read_metric(given: Any) -> tuple[str, str]:
    """Name and goal of what a sweep optimises."""
    if given is None:
        return "val/score", "maximize"
    known = ("name", "goal", "target", "impute", "impute_while_running")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise UserError(f"metric is {given!r}: give `{{name: val/score, goal: maximize}}`")
    for key in given:
        if key not in known:
            raise UserError(f"metric: unknown key {key!r}{did_you_mean(str(key), known)} (known: {', '.join(known)})")
    goal = given.get("goal", "minimize")
    if goal not in ("maximize", "minimize"):
        raise UserError(f"metric: goal is {goal!r}: choose maximize or minimize")
    return given["name"], goal


def check_early_terminate(given: Any) -> None:
    """Refuse what W&B's engine would not take for hyperband: it needs min_iter, or max_iter and s brackets."""
    if given is None:
        return
    example = "give `early_terminate: {type: hyperband, min_iter: 3}`"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"early_terminate is {given!r}: {example}")
    known = ("type", "min_iter", "max_iter", "s", "eta", "strict")
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UserError(f"early_terminate: unknown key {key!r}{hint} (known: {', '.join(known)})")
        if key in ("min_iter", "max_iter", "s", "eta") and (type(value) is not int or value < 1 + (key == "eta")):
            raise UserError(f"early_terminate: {key} is {value!r}: give a whole number, at least {1 + (key == 'eta')}")
    if ("min_iter" in given) == ("max_iter" in given) or ("max_iter" in given and "s" not in given):
        raise UserError(f"early_terminate needs min_iter, or max_iter and s, and not both: {example}")


def leaves(parameters: Mapping[str, Parameter]) -> list[Parameter]:
    """All parameters that have values of their own, nested ones included, in W&B's order."""
    return [leaf for p in parameters.values() for leaf in (leaves(p.parameters) if p.distribution == "nested" else [p])]


def points(sweep: SweepFile) -> list[dict[str, Any]]:
    """Every point of a grid, in W&B's order: names sorted on each level, the last varies fastest, none twice.

    A point maps each name of the file's first level to its value; parameters below a name arrive as one mapping.
    """
    assert sweep.method == "grid"
    choices = []
    for parameter in leaves(sweep.parameters):
        kind = DISTRIBUTIONS[parameter.distribution]
        assert kind.grid is not None
        # W&B compares values before it sends them: 1 and 1.0 are the same, [1] and [1.0] are not.
        unique = {same_if(value): as_sent(value) for value in kind.grid(parameter.settings)}
        choices.append(list(unique.values()))
    return [arranged(sweep.parameters, iter(chosen)) for chosen in itertools.product(*choices)]


def same_if(value: Any) -> str:
    """A key that is equal for values that are the same to W&B's grid."""
    return json.dumps(as_sent(value) if isinstance(value, float) else value, sort_keys=True)


def draw(sweep: SweepFile, seed: int, number: int) -> dict[str, Any]:
    """A point of a random search.

    Args:
        sweep: the sweep.
        seed: which search; the same on all machines that share one.
        number: which of its points, from 0.
    """
    drawn = []
    for parameter in leaves(sweep.parameters):
        random = Random(f"{seed}/{number}/{parameter.name}")  # whatever other parameters there are
        drawn.append(as_sent(DISTRIBUTIONS[parameter.distribution].draw(parameter.settings, random)))
    return arranged(sweep.parameters, iter(drawn))


def arranged(parameters: Mapping[str, Parameter], values: Iterator[Any]) -> dict[str, Any]:
    """An iterator of the leaves' values as a point."""
    return {
        name: arranged(p.parameters, values) if p.distribution == "nested" else next(values)
        for name, p in parameters.items()
    }


def command_words(sweep: SweepFile) -> list[str]:
    """The words after `mbt` of a sweep's command without the values, the first of them `fit`."""
    words: list[str] = []
    for item in fit_items(sweep):
        if not is_macro(item):
            words.append(item)
        elif item in ("${args_json}", "${args_json_file}"):
            words.pop()  # their --config
    return words


def is_macro(item: str) -> bool:
    """Whether an item is a macro to the agent."""
    return item.startswith("${") and item.endswith("}")


def with_environment(command: Sequence[str]) -> list[str]:
    """A command with ${envvar:X} replaced by the environment's variable; an unset one is its own name."""
    return [ENVVAR.sub(lambda m: os.environ.get(m[1], m[1]), item) for item in command]


def fit_items(sweep: SweepFile) -> list[str]:
    """The command's items from `fit` on.

    Raises:
        UserError: if it is not `mbt fit`.
    """
    fixed = {"${env}": "/usr/bin/env", "${interpreter}": "python", "${program}": sweep.program}
    items = [fixed.get(item, item) for item in with_environment(sweep.command)]
    words = items[1:] if items[0] in ("/usr/bin/env", "env") else items
    if Path(words[0] if words else "").name == "mbt":
        words = words[1:]
    elif words and re.fullmatch(r"python[\d.]*", Path(words[0]).name) and words[1:3] == ["-m", "mbt_lightning"]:
        words = words[3:]
    else:
        raise UserError(f"command runs `{' '.join(words)}`, which does not start a trial: write {FORMS}")
    if words[:1] != ["fit"]:
        raise UserError(f"command runs `mbt {' '.join(words[:1])}`: a sweep trains, write {FORMS}")
    return words


def check_command(sweep: SweepFile) -> None:
    """Refuse a command that W&B's agent would pass on in another way than was meant."""
    passes = None
    for before, item in itertools.pairwise(("", *with_environment(sweep.command))):
        name = item[2:-1] if is_macro(item) else ""
        if name in UNFIT:
            raise UserError(f"command: ${{{name}}} writes {UNFIT[name]}, which the program does not read: {FIX}")
        if name and name not in MACROS:
            hint = did_you_mean(name, MACROS)
            raise UserError(f"command: unknown macro {item}, which W&B's agent would drop silently{hint}")
        inside = next((macro for macro in MACROS if f"${{{macro}}}" in item and not name), None)
        if inside:
            raise UserError(f"command: in {item!r} ${{{inside}}} is only text, a macro is a whole item: {FIX}")
        if name in ("args_json", "args_json_file") and before not in ("--config", "-c"):
            raise UserError(f"command: {item} must follow --config: {FIX}")
        if passes in ("args_json", "args_json_file") and item.split("=")[0] in ("--config", "-c"):
            raise UserError(
                f"command: the --config after ${{{passes}}} would override the sweep's values: put it before"
            )
        if name in VALUES:
            passes = name
    fit_items(sweep)
    if passes is None:
        raise UserError(f"command passes no values, so all trials would be the same: {FIX} at its end")
    if passes in ("args", "args_no_equals"):
        for parameter in leaves(sweep.parameters):
            if has_null(parameter.settings.get("value", 0)) or has_null(parameter.settings.get("values", [])):
                raise UserError(f"parameter {parameter.name} may be null, which ${{{passes}}} writes as 'None': {FIX}")


def has_null(value: Any) -> bool:
    """Whether a value is null or holds one."""
    if isinstance(value, dict):
        return any(map(has_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(has_null, value)))
