"""The parameters of a sweep: every kind that W&B has, the values of its grid, and how one is drawn.

Names, defaults and formulas are those of W&B's own engine (the package `sweeps`), so that a sweep file means the same
with and without it: quantising rounds to the nearest multiple of q, half to even; the grid of a range with a step
omits its upper end; the limits of `log_uniform` are exponents of e and those of `log_uniform_values` are values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from statistics import NormalDist
from typing import Any

from mbt_lightning.errors import UserError, did_you_mean, one_line

Settings = Mapping[str, Any]
Draw = Callable[[Settings, Random], Any]


@dataclass(frozen=True)
class Distribution:
    """A kind of parameter.

    Args:
        draw: settings and a source of random numbers to a value.
        required: names of the settings that must be given.
        defaults: default values of the other settings.
        grid: settings to the values of a grid; None where a grid is impossible.
    """

    draw: Draw
    required: tuple[str, ...] = ()
    defaults: Settings = field(default_factory=dict)
    grid: Callable[[Settings], list[Any]] | None = None


def uniform_number(random: Random) -> float:
    """A number strictly between 0 and 1, from the one method whose sequence Python promises never to change."""
    return (math.floor(random.random() * 2**53) + 0.5) / 2**53


def uniform(s: Settings, random: Random) -> float:
    """A number between `min` and `max`."""
    return s["min"] + (s["max"] - s["min"]) * uniform_number(random)


def normal(s: Settings, random: Random) -> float:
    """A number of a Gaussian with mean `mu` and standard deviation `sigma`."""
    return s["mu"] + s["sigma"] * NormalDist().inv_cdf(uniform_number(random))


def beta(s: Settings, random: Random) -> float:
    """A number of a beta distribution."""
    return random.betavariate(s["a"], s["b"])


def log_uniform_values(s: Settings, random: Random) -> float:
    """A number between `min` and `max` whose logarithm is uniform; that of its inverse then is too."""
    low, high = math.log(s["min"]), math.log(s["max"])
    return math.exp(low + (high - low) * uniform_number(random))


def integer(s: Settings, random: Random) -> int:
    """A whole number from `min` to `max`."""
    return s["min"] + math.floor(uniform_number(random) * (s["max"] - s["min"] + 1))


def choose(s: Settings, random: Random) -> Any:
    """One of the values, by their probabilities, or all equally likely."""
    weights = s.get("probabilities") or [1 / len(s["values"])] * len(s["values"])
    left = uniform_number(random) * sum(weights)
    for value, weight in zip(s["values"], weights, strict=True):
        left -= weight
        if left < 0:
            return value
    return s["values"][max(i for i, weight in enumerate(weights) if weight > 0)]


def quantise(value: float, q: float) -> float:
    """The nearest multiple of a step, half to even."""
    return round(value / q) * q


def quantised(draw: Draw) -> Draw:
    """Numbers rounded to a multiple of `q`."""
    return lambda s, random: quantise(draw(s, random), s["q"])


def exponential(draw: Draw) -> Draw:
    """Numbers whose logarithm is drawn."""
    return lambda s, random: math.exp(draw(s, random))


def steps(s: Settings) -> list[float]:
    """The range with a step `q`, without its upper end, as by `numpy.arange`."""
    low, high, q = s["min"], s["max"], s["q"]
    stride = (low + q) - low
    return [low + i * stride for i in range(math.ceil((high - low) / q))]


LIMITS = ("min", "max")
Q = {"q": 1.0}
BELL = {"mu": 0.0, "sigma": 1.0}


SHAPE = {"a": 1, "b": 1}

DISTRIBUTIONS = {
    "constant": Distribution(lambda s, random: s["value"], ("value",), grid=lambda s: [s["value"]]),
    "categorical": Distribution(choose, ("values",), grid=lambda s: list(s["values"])),
    "categorical_w_probabilities": Distribution(choose, ("values", "probabilities")),
    "int_uniform": Distribution(integer, LIMITS, grid=lambda s: list(range(s["min"], s["max"] + 1))),
    "uniform": Distribution(uniform, LIMITS),
    "q_uniform": Distribution(quantised(uniform), LIMITS, Q, steps),
    "log_uniform": Distribution(exponential(uniform), LIMITS),
    "log_uniform_values": Distribution(log_uniform_values, LIMITS),
    "q_log_uniform": Distribution(quantised(exponential(uniform)), LIMITS, Q),
    "q_log_uniform_values": Distribution(quantised(log_uniform_values), LIMITS, Q),
    "inv_log_uniform": Distribution(lambda s, random: math.exp(-uniform(s, random)), LIMITS),
    "inv_log_uniform_values": Distribution(log_uniform_values, LIMITS),
    "normal": Distribution(normal, (), BELL),
    "q_normal": Distribution(quantised(normal), (), BELL | Q),
    "log_normal": Distribution(exponential(normal), (), BELL),
    "q_log_normal": Distribution(quantised(exponential(normal)), (), BELL | Q),
    "beta": Distribution(beta, (), SHAPE),
    "q_beta": Distribution(quantised(beta), (), SHAPE | Q),
}
"""Every distribution that W&B has, by its name."""
KEYS = sorted({"distribution", "parameters"} | {k for d in DISTRIBUTIONS.values() for k in (*d.required, *d.defaults)})
"""Keys of a parameter in a sweep file."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep: a distribution, or several parameters below one name.

    Args:
        name: dotted name, as the command line has it.
        distribution: one of `DISTRIBUTIONS`; `nested` for parameters below it.
        settings: of the distribution, complete with defaults.
        parameters: those below it, in the order of their names.
    """

    name: str
    distribution: str
    settings: Settings = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def read_parameter(name: str, given: Any) -> Parameter:
    """A parameter of a sweep file, checked and completed as by W&B.

    Without a `distribution`, `value` is a constant, `values` a choice, and `min` with `max` a uniform range: of whole
    numbers if both are whole.

    Args:
        name: dotted name for errors.
        given: the content below the name.

    Raises:
        UserError: whatever W&B could not read.
    """
    if not isinstance(given, dict):
        raise UserError(
            f"parameter {name} is {given!r}: write `{{value: {given}}}` for a constant, `{{values: [...]}}`"
        )
    for key in given:
        if key not in KEYS:
            raise UserError(
                f"parameter {name}: unknown key {key!r}{did_you_mean(str(key), KEYS)} (known: {', '.join(KEYS)})"
            )
    if "parameters" in given:
        check_keys(name, given, "parameters", ("parameters",))
        below = read_parameters(given["parameters"], f"{name}.")
        return Parameter(name, "nested", parameters=below)

    distribution = given.get("distribution") or inferred(name, given)
    if distribution not in DISTRIBUTIONS:
        known = f"{did_you_mean(str(distribution), DISTRIBUTIONS)} (known: {', '.join(DISTRIBUTIONS)})"
        raise UserError(f"parameter {name}: unknown distribution {distribution!r}{known}")
    kind = DISTRIBUTIONS[distribution]
    check_keys(name, given, distribution, ("distribution", *kind.required, *kind.defaults))
    for key in kind.required:
        if key not in given:
            raise UserError(f"parameter {name}: {distribution} needs {' and '.join(kind.required)}; {key} is missing")
    settings = {**kind.defaults, **{key: value for key, value in given.items() if key != "distribution"}}
    for key, value in settings.items():
        if key == "value":
            check_json(name, value)
        elif key in ("values", "probabilities"):
            check_list(name, key, value)
        else:
            check_number(name, distribution, key, value)
    check_together(name, distribution, settings)
    return Parameter(name, distribution, settings)


def read_parameters(given: Any, prefix: str = "") -> dict[str, Parameter]:
    """All parameters of a sweep, or those below a name, in the order of their names."""
    if not isinstance(given, dict) or not given:
        raise UserError(f"{prefix}parameters: give at least one name with its value, values or range")
    for name in given:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(name)):
            raise UserError(f"parameter {prefix}{name}: a name has letters, digits, '_', '.' and '-', no digit first")
    return {name: read_parameter(f"{prefix}{name}", given[name]) for name in sorted(given)}


def inferred(name: str, given: Settings) -> str:
    """The distribution that W&B infers for a parameter that names none."""
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "value" in given:
        return "constant"
    if "min" in given and "max" in given:
        return "int_uniform" if all(type(given[limit]) is int for limit in LIMITS) else "uniform"
    got = f"has {', '.join(map(str, given))}" if given else "is empty"
    raise UserError(f"parameter {name} {got}: give value, values, min with max, or a distribution")


def check_keys(name: str, given: Settings, what: str, allowed: tuple[str, ...]) -> None:
    """Refuse a key that does not belong to the kind of a parameter."""
    for key in given:
        if key not in allowed:
            hint = "; a choice with probabilities is `categorical_w_probabilities`" if key == "probabilities" else ""
            raise UserError(f"parameter {name}: {key} does not go with {what} (which has {', '.join(allowed)}){hint}")


def check_json(name: str, value: Any) -> None:
    """Refuse a value that JSON cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"parameter {name}: {value!r} cannot be written as JSON: {one_line(error)}; quote it") from None


def check_list(name: str, key: str, value: Any) -> None:
    """Refuse what is no list, or an empty one."""
    if not isinstance(value, list) or not value:
        raise UserError(f"parameter {name}: {key} is {value!r}: give a list with at least one item")
    check_json(name, value)


def check_number(name: str, distribution: str, key: str, value: Any) -> None:
    """Refuse a setting that is no number, or out of its range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        text = "; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) and "e" in value.lower() else ""
        raise UserError(f"parameter {name}: {key} is {value!r}, not a number{text}")
    if distribution == "int_uniform" and not isinstance(value, int):
        raise UserError(f"parameter {name}: {key} is {value}: int_uniform has whole limits; uniform has any")
    if key in ("q", "a", "b") and value <= 0:
        raise UserError(f"parameter {name}: {key} is {value}: give more than 0")
    if key == "sigma" and value < 0:
        raise UserError(f"parameter {name}: sigma is {value}: give 0 or more")
    if key == "min" and distribution.endswith("log_uniform_values") and value <= 0:
        raise UserError(f"parameter {name}: min is {value}: {distribution} has limits above 0")


def check_together(name: str, distribution: str, settings: Settings) -> None:
    """Refuse settings that contradict one another."""
    if "min" in settings and settings["min"] >= settings["max"]:
        raise UserError(f"parameter {name}: min {settings['min']} is not less than max {settings['max']}")
    if "probabilities" in settings:
        values, weights = settings["values"], settings["probabilities"]
        if len(values) != len(weights):
            raise UserError(f"parameter {name}: {len(values)} values and {len(weights)} probabilities: give one each")
        for weight in weights:
            check_number(name, distribution, "probabilities", weight)
        if min(weights) < 0 or not math.isclose(sum(weights), 1, rel_tol=1e-5, abs_tol=1e-8):
            raise UserError(
                f"parameter {name}: probabilities sum to {sum(weights):g}: they must sum to 1, none below 0"
            )


def as_sent(value: Any) -> Any:
    """A value as W&B's server sends it: a whole number has no decimal point (3.0 arrives as 3)."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, list):
        return [as_sent(item) for item in value]
    if isinstance(value, dict):
        return {key: as_sent(item) for key, item in value.items()}
    return value
