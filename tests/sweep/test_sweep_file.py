"""A sweep file means here what it means to W&B: its grid, its distributions, its command; mistakes are refused."""

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from wandb_agent import agent_words

from mbt_lightning.config.yaml_files import files_named
from mbt_lightning.errors import UserError
from mbt_lightning.sweep.distributions import DISTRIBUTIONS
from mbt_lightning.sweep.sweep_file import command_words, draw, points, read_sweep

COMMAND = ["${env}", "mbt", "fit", "--config", "experiments/base.yaml", "--config", "${args_json_file}"]
HYPERBAND = {"type": "hyperband", "min_iter": 3}


def written(folder: Path, **given) -> Path:
    """A sweep file of one parameter, with what a test changes."""
    content = {"program": "mbt", "method": "grid", "parameters": {"a": {"values": [1, 2]}}, "command": COMMAND} | given
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture
def sweep(tmp_path: Path):
    return lambda **given: read_sweep(written(tmp_path, **given))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_sweep(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
    return str(error.value).removeprefix(f"{path}: ")


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def test_what_a_file_holds(sweep) -> None:
    given = sweep(metric={"name": "val/score"}, run_cap=7, method="random", name="mine", early_terminate=HYPERBAND)
    assert (given.name, given.method, given.metric, given.goal) == ("mine", "random", "val/score", "minimize")
    assert given.run_cap == 7 and given.early_terminate and given.command == tuple(COMMAND)
    given = sweep()
    assert (given.name, given.metric, given.goal, given.run_cap) == ("some", "val/score", "maximize", None)
    assert not given.early_terminate


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "gird"}, "method is 'gird': choose one of grid, random, bayes; did you mean 'grid'?"),
        ({"method": None}, "method is None: choose one of grid, random, bayes"),
        ({"metod": "grid"}, "unknown key 'metod'; did you mean 'method'? (known: apiVersion, command"),
        ({"scheduler": {}}, "scheduler belongs to a scheduler of your own"),
        ({"parameters": None}, "parameters: give at least one name"),
        ({"parameters": {"9a": {"value": 1}}}, "parameter 9a: a name has letters"),
        ({"parameters": {"a": {"vales": [1]}}}, "parameter a: unknown key 'vales'; did you mean 'values'?"),
        ({"parameters": {"a": {}}}, "parameter a is empty: give value, values, min with max, or a distribution"),
        ({"parameters": {"a": {"min": 1}}}, "parameter a has min: give value, values, min with max"),
        ({"parameters": {"a": 3}}, "parameter a is 3: write `{value: 3}`"),
        ({"parameters": {"a": {"values": []}}}, "parameter a: values is []: give a list with at least one item"),
        ({"parameters": {"a": {"layer": {"value": 1}}}}, "parameter a: unknown key 'layer'"),
        ({"parameters": {"a": {"parameters": {"b": {"vals": 1}}}}}, "parameter a.b: unknown key 'vals'"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameter a: min 2 is not less than max 1"),
        ({"parameters": {"a": {"min": "low", "max": 1}}}, "min is 'low', not a number"),
        ({"parameters": {"a": {"min": 1, "max": 2, "q": 1}}}, "q does not go with int_uniform (which has"),
        ({"parameters": {"a": {"distribution": "gauss"}}}, "unknown distribution 'gauss' (known: constant, categor"),
        ({"parameters": {"a": {"distribution": "int_uniform", "min": 1.5, "max": 2}}}, "int_uniform has whole limits"),
        ({"parameters": {"a": {"distribution": "q_uniform", "min": 1}}}, "q_uniform needs min and max; max is miss"),
        ({"parameters": {"a": {"distribution": "normal", "sigma": -1}}}, "sigma is -1: give 0 or more"),
        (
            {"parameters": {"a": {"values": [1], "probabilities": [0.5]}}},
            "probabilities sum to 0.5: they must sum to 1",
        ),
        ({"parameters": {"a": {"values": [1], "probabilities": [1, 0]}}}, "1 values and 2 probabilities"),
        (
            {"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            "log_uniform_values has limits above 0",
        ),
        (
            {"parameters": {"a": {"distribution": "normal"}}},
            "parameter a is normal, which a grid cannot walk through (it can through constant, categorical, "
            "int_uniform, q_uniform): give values, or `method: random`",
        ),
        (
            {"method": "random", "metric": {"name": "test/mAP", "goal": "maximize"}},
            "metric is test/mAP: a random search that chooses by the test split reports a score that is too good; give "
            "`metric: {name: val/mAP, goal: maximize}`",
        ),
        ({"early_terminate": "nonsense"}, "early_terminate is 'nonsense': give `early_terminate: {type: hyperband"),
        ({"early_terminate": HYPERBAND | {"etta": 2}}, "early_terminate: unknown key 'etta'; did you mean 'eta'?"),
        ({"early_terminate": HYPERBAND | {"eta": 1}}, "early_terminate: eta is 1: give a whole number, at least 2"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs min_iter, or max_iter and s, and not both"),
        ({"metric": "loss"}, "metric is 'loss': give `{name: val/score, goal: maximize}`"),
        ({"metric": {"name": "x", "goal": "max"}}, "metric: goal is 'max': choose maximize or minimize"),
        ({"method": "bayes"}, "bayes optimises a metric"),
        ({"run_cap": 0}, "run_cap is 0: give a whole number of trials, at least 1"),
    ],
)
def test_a_mistake_is_refused(given, message, tmp_path: Path) -> None:
    assert message in refused(written(tmp_path, **given))


def test_files_that_are_none(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(UserError, match=r"no such sweep file; did you mean '.*some\.yaml'\?"):
        read_sweep(tmp_path / "sone.yaml")
    (tmp_path / "twice.yaml").write_text("method: grid\nmethod: random\n")
    with pytest.raises(UserError, match=r"twice\.yaml:2: key 'method' is there twice"):
        read_sweep(tmp_path / "twice.yaml")


def test_reading_and_drawing_need_no_torch(tmp_path: Path) -> None:
    path = written(tmp_path, method="random", parameters={"a": {"distribution": "beta"}})
    code = (
        "import sys; from mbt_lightning.sweep.sweep_file import *; "
        f"s = read_sweep({str(path)!r}); draw(s, 0, 0); command_words(s); import mbt_lightning.sweep.bayes; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'wandb', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_files_that_a_command_depends_on(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "point.yaml").write_text("base: base.yaml\n")
    base, point = tmp_path / "base.yaml", tmp_path / "point.yaml"
    assert files_named(["fit", f"--config={point}", "-c", '{"a": 1}', "--config", str(base)]) == [base, point, base]
    with pytest.raises(UserError, match="no such file; did you mean"):
        files_named(["fit", "--config", str(tmp_path / "bas.yaml")])


# ---------------------------------------------------------------------------------------------------------------------
# Grids: expected orders are those that W&B's engine (sweeps 0.3) gave
# ---------------------------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_the_last_varies_fastest(sweep) -> None:
    grid = points(sweep(parameters={"b": {"values": [2, 1]}, "Z": {"values": ["x", None]}, "a": {"value": 0}}))
    assert [list(point.items()) for point in grid] == [
        [("Z", z), ("a", 0), ("b", b)] for z, b in itertools.product(["x", None], [2, 1])
    ]


def test_parameters_below_a_name_arrive_as_one_mapping(sweep) -> None:
    below = {"parameters": {"z": {"values": [1, 2]}, "c": {"parameters": {"y": {"values": [True, False]}}}}}
    grid = points(sweep(parameters={"m": below, "a": {"values": [5]}}))
    assert grid == [{"a": 5, "m": {"c": {"y": y}, "z": z}} for y in (True, False) for z in (1, 2)]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"min": 2, "max": 4}, [2, 3, 4]),
        ({"distribution": "q_uniform", "min": 0, "max": 4}, [0, 1, 2, 3]),  # without its upper end, as W&B has it
        (
            {"distribution": "q_uniform", "min": 0.5, "max": 1.1, "q": 0.2},
            [0.5, 0.7, 0.8999999999999999, 1.0999999999999999],
        ),
        ({"values": [3, 1, 3, 1.0, "1", True]}, [3, 1, "1", True]),  # none twice; 1.0 is sent as 1
        ({"values": [{"b": 1.0, "a": [2]}, {"a": [2], "b": 1.0}]}, [{"b": 1, "a": [2]}]),
        ({"value": [1, None]}, [[1, None]]),
    ],
)
def test_values_of_a_grid(given, values, sweep) -> None:
    found = [point["a"] for point in points(sweep(parameters={"a": given}))]
    assert json.dumps(found, sort_keys=True) == json.dumps(values, sort_keys=True)  # types too: True is not 1


# ---------------------------------------------------------------------------------------------------------------------
# Random points
# ---------------------------------------------------------------------------------------------------------------------

STATS = scipy.stats
CONTINUOUS = {
    "uniform": ({"min": -1.5, "max": 2.0}, STATS.uniform(-1.5, 3.5)),
    "log_uniform": ({"min": -5, "max": 1}, STATS.loguniform(math.exp(-5), math.exp(1))),
    "log_uniform_values": ({"min": 1.0e-5, "max": 0.1}, STATS.loguniform(1e-5, 0.1)),
    "inv_log_uniform": ({"min": -2, "max": 3}, STATS.loguniform(math.exp(-3), math.exp(2))),
    "inv_log_uniform_values": ({"min": 0.01, "max": 3}, STATS.loguniform(0.01, 3)),
    "normal": ({"mu": 2, "sigma": 0.1}, STATS.norm(2, 0.1)),
    "log_normal": ({"mu": -1, "sigma": 0.7}, STATS.lognorm(0.7, scale=math.exp(-1))),
    "beta": ({"a": 2, "b": 5}, STATS.beta(2, 5)),
}
DEFAULTS = {"normal": STATS.norm(), "log_normal": STATS.lognorm(1), "beta": STATS.uniform()}
QUANTISED = {
    "q_uniform": ({"min": 0, "max": 10, "q": 3}, STATS.uniform(0, 10)),
    "q_log_uniform": ({"min": 0, "max": 3, "q": 2}, STATS.loguniform(1, math.exp(3))),
    "q_log_uniform_values": ({"min": 0.5, "max": 9}, STATS.loguniform(0.5, 9)),
    "q_normal": ({"mu": 1, "sigma": 2, "q": 0.5}, STATS.norm(1, 2)),
    "q_log_normal": ({"mu": 1, "sigma": 0.5}, STATS.lognorm(0.5, scale=math.e)),
    "q_beta": ({"a": 2, "b": 3, "q": 0.1}, STATS.beta(2, 3)),
}


def drawn(sweep, given: dict, count: int) -> list:
    searched = sweep(method="random", parameters={"a": given})
    return [draw(searched, 1, number)["a"] for number in range(count)]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_distribution(name, sweep) -> None:
    given, truth = CONTINUOUS[name]
    assert STATS.kstest(drawn(sweep, {"distribution": name, **given}, 2000), truth.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_distribution_is_by_default(name, sweep) -> None:
    assert STATS.kstest(drawn(sweep, {"distribution": name}, 2000), DEFAULTS[name].cdf).pvalue > 0.01


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_distribution_has_the_mass_around_each_step(name, sweep) -> None:
    given, truth = QUANTISED[name]
    q = given.get("q", 1.0)
    steps = Counter(round(value / q) for value in drawn(sweep, {"distribution": name, **given}, 2000))
    cells = range(min(steps), max(steps) + 1)
    edges = np.array([-np.inf, *((cell + 0.5) * q for cell in cells[:-1]), np.inf])
    expected = 2000 * np.diff(truth.cdf(edges))
    observed = np.array([steps[cell] for cell in cells])
    common = expected > 5  # where chi-squared means something; the rest as one cell
    if not common.all():
        observed = np.append(observed[common], observed[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
    assert STATS.chisquare(observed, expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({"values": ["x", None, [1, 2]]}, {"x": 1 / 3, None: 1 / 3, "[1, 2]": 1 / 3}),
        ({"values": ["x", "y", "z"], "probabilities": [0.2, 0.8, 0]}, {"x": 0.2, "y": 0.8}),
        ({"min": -1, "max": 2}, {-1: 0.25, 0: 0.25, 1: 0.25, 2: 0.25}),
    ],
)
def test_a_choice(given, shares, sweep) -> None:
    found = Counter(str(v) if isinstance(v, list) else v for v in drawn(sweep, given, 2000))
    assert found.keys() == shares.keys()
    assert STATS.chisquare([found[k] for k in shares], [2000 * share for share in shares.values()]).pvalue > 0.01


def test_every_distribution_is_tested() -> None:
    assert {*CONTINUOUS, *QUANTISED} | {"constant", "categorical", "categorical_w_probabilities", "int_uniform"} == {
        *DISTRIBUTIONS
    }


def test_whole_numbers_are_sent_as_such_and_limits_decide_the_kind(sweep) -> None:
    assert all(type(v) is int for v in drawn(sweep, {"distribution": "q_uniform", "min": 0, "max": 9}, 50))
    assert all(type(v) is int for v in drawn(sweep, {"min": 0, "max": 9}, 50))
    assert drawn(sweep, {"value": 7.0}, 3) == [7, 7, 7]
    assert any(type(v) is float for v in drawn(sweep, {"min": 0.0, "max": 9}, 50))


def test_a_point_depends_on_seed_and_number_alone(sweep, tmp_path: Path) -> None:
    search = {"a": {"distribution": "normal"}, "m": {"parameters": {"b": {"min": 0, "max": 99}}}}
    first = sweep(method="random", parameters=search)
    assert draw(first, 3, 14) == draw(sweep(method="random", parameters=search), 3, 14)
    assert draw(first, 3, 14) == {"a": pytest.approx(0.7144733, abs=1e-6), "m": {"b": 5}}  # on every machine
    assert draw(first, 3, 15) != draw(first, 3, 14) != draw(first, 4, 14)
    more = sweep(method="random", parameters=search | {"c": {"value": 1}})
    assert draw(more, 3, 14) == draw(first, 3, 14) | {"c": 1}


# ---------------------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------------------

VALUES = {"model.fusion": "Bottleneck", "model.fusion_layer": 4, "data.synchronous": False, "x": [1, 2.5], "t": "a b=c"}
HEADS = [
    ["mbt"],
    ["${env}", "mbt"],
    ["${env}", "/opt/bin/mbt"],
    ["${interpreter}", "-m", "mbt_lightning"],
    ["${env}", "python3.11", "-m", "mbt_lightning"],
    ["${program}"],
]
TAILS = [
    ["${args}"],
    ["--runs=${envvar:A_PLACE}/runs", "--experiment=${envvar:NOT_SET}", "${args_no_equals}"],
    ["--config", "base.yaml", "--config", "${args_json_file}"],
    ["--trainer.max_epochs", 3, "-c", "${args_json}"],
]


@pytest.mark.parametrize("head", HEADS, ids=" ".join)
@pytest.mark.parametrize("tail", TAILS, ids=lambda tail: str(tail[-1]))
def test_the_words_are_those_of_the_agent(head, tail, sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the values, which the agent puts last here."""
    monkeypatch.setenv("A_PLACE", "/somewhere")
    content = sweep(command=[*head, "fit", *tail])
    expected = agent_words(content, VALUES, tmp_path)
    num_values = {"${args}": len(VALUES), "${args_no_equals}": 2 * len(VALUES)}.get(tail[-1], 2)
    assert command_words(content) == expected[:-num_values]
    assert "--experiment=NOT_SET" in expected or "NOT_SET" not in str(tail)


JSON_FIX = "write `--config` and `${args_json_file}` as two items"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["mbt", "fit", "${args_no_hyphens}"], f"without hyphens, which the program does not read: {JSON_FIX}"),
        (["mbt", "fit", "${args_no_boolean_flags}"], "writes booleans as bare flags"),
        (["mbt", "fit", "${args_append_hydra}"], "writes Hydra's +name=value"),
        (["mbt", "fit", "${args_override_hydra}"], "writes Hydra's ++name=value"),
        (["mbt", "fit", "${arg}"], "which W&B's agent would drop silently; did you mean 'args'?"),
        (["mbt", "fit", "--config=${args_json_file}"], f"is only text, a macro is a whole item: {JSON_FIX}"),
        (["mbt", "fit", "${args_json_file}"], f"${{args_json_file}} must follow --config: {JSON_FIX}"),
        (["mbt", "fit", "--config", "${args_json_file}", "--config=x"], "would override the sweep's values: put"),
        (["mbt", "fit", "--config", "x.yaml"], f"so all trials would be the same: {JSON_FIX} at its end"),
        (["mbt", "test", "${args}"], "command runs `mbt test`: a sweep trains, write `mbt fit ...`"),
        (["mbt", "${args}"], "command runs `mbt ${args}`: a sweep trains"),
        (["bash", "-c", "mbt fit", "${args}"], "runs `bash -c mbt fit ${args}`, which does not start a trial"),
        (["${env}", "A=1", "mbt", "fit", "${args}"], "command runs `A=1 mbt fit ${args}`"),
        (["python", "train.py", "${args}"], "write `mbt fit ...` or `python -m mbt_lightning fit ...`"),
        (None, "command runs `python mbt ${args}`, which does not start a trial"),
        ([], "command is []: give a list of words, or nothing"),
        ("mbt fit", "command is 'mbt fit': give a list of words"),
    ],
)  # fmt: skip
def test_a_command_that_would_go_wrong_is_refused(command, message, tmp_path: Path) -> None:
    assert message in refused(written(tmp_path, command=command))


@pytest.mark.parametrize("given", [{"values": [1, None]}, {"value": None}, {"values": [[1, None]]}])
def test_null_needs_the_json_file(given, tmp_path: Path, sweep) -> None:
    parameters = {"m": {"parameters": {"a": given}}}
    message = refused(written(tmp_path, parameters=parameters, command=["mbt", "fit", "${args}"]))
    assert message == f"parameter m.a may be null, which ${{args}} writes as 'None': {JSON_FIX}"
    assert sweep(parameters=parameters)
