"""Bayesian search: it learns, keeps away from what is being tried, and asks for what it needs."""

import math
import sys
from pathlib import Path
from statistics import mean

import pytest

from mbt_lightning.errors import UserError
from mbt_lightning.sweep.bayes import suggest
from mbt_lightning.sweep.sweep_file import checked, draw

SEARCHED = {
    "model.fusion": {"values": ["A", "B", "C"]},
    "lr": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 1.0},
    "model.fusion_layer": {"min": 0, "max": 12},
    "dropout": {"min": 0.0, "max": 1.0},
    "size": {"value": 48},
}


def sweep(parameters: dict, goal: str = "maximize"):
    said = {"method": "bayes", "metric": {"name": "val/score", "goal": goal}, "parameters": parameters}
    return checked(Path("some.yaml"), said | {"command": ["mbt", "fit", "--config", "${args_json_file}"]})


def score(point: dict) -> float:
    """0.5 at B, layer 8, learning rate 1e-3 and dropout 0.3; less everywhere else."""
    assert point["size"] == 48
    layer, dropout = abs(point["model.fusion_layer"] - 8), (point["dropout"] - 0.3) ** 2
    gain = {"A": 0.0, "B": 0.5, "C": 0.2}[point["model.fusion"]]
    return gain - 0.1 * (math.log10(point["lr"]) + 3) ** 2 - 0.05 * layer - dropout


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_it_finds_the_optimum_better_than_chance(goal) -> None:
    searched, sign = sweep(SEARCHED, goal), 1 if goal == "maximize" else -1
    regrets, by_chance = [], []
    for seed in (0, 1):
        history: list = []
        for number in range(22):
            point = suggest(searched, seed, history, [], number)
            history.append((point, sign * score(point)))
        regrets.append(0.5 - max(sign * value for _, value in history))
        by_chance.append(0.5 - max(score(draw(searched, seed, number)) for number in range(22)))
    assert max(regrets) < 0.05 and mean(by_chance) > 3 * mean(regrets)


def test_the_same_arguments_give_the_same_point() -> None:
    searched = sweep(SEARCHED)
    history = [(draw(searched, 0, number), score(draw(searched, 0, number))) for number in range(12)]
    point = suggest(searched, 5, history, [], 12)
    assert point == suggest(searched, 5, history, [], 12) and point != suggest(searched, 6, history[:5], [], 12)


def test_workers_keep_away_from_each_other() -> None:
    searched = sweep({"a": {"values": [1, 2]}, "b": {"values": [1, 2, 3]}})
    pending: list[dict] = []
    for number in range(6):
        pending.append(suggest(searched, 0, [], pending, number))
    assert len({tuple(point.items()) for point in pending}) == 6
    assert suggest(searched, 0, [], pending, 6) in pending  # where there is no other one

    history = [(point, point["a"] * point["b"] + 0.0) for point in pending[:5]]
    assert suggest(searched, 0, history, [], 6) == pending[5]  # what was tried is not tried again


def test_a_running_point_is_believed_to_be_like_its_neighbours() -> None:
    searched = sweep({"x": {"min": 0.0, "max": 1.0}})
    history = [({"x": i / 11}, -((i / 11 - 0.5) ** 2)) for i in range(12) if i not in (5, 6)]
    best = suggest(searched, 0, history, [], 12)
    other = suggest(searched, 0, history, [best], 12)
    assert abs(best["x"] - 0.5) < 0.1 and abs(best["x"] - other["x"]) > 0.01


DISTRIBUTIONS = {
    "a": ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 5}, lambda v: v in (0, 5, 10)),
    "b": ({"distribution": "log_uniform", "min": -3, "max": 0}, lambda v: math.exp(-3) <= v <= 1),
    "c": ({"distribution": "q_log_uniform_values", "min": 1, "max": 64, "q": 8}, lambda v: v in range(0, 65, 8)),
    "d": ({"distribution": "inv_log_uniform", "min": 0, "max": 3}, lambda v: math.exp(-3) <= v <= 1),
    "e": ({"distribution": "normal", "mu": 5, "sigma": 0.1}, lambda v: 4.6 < v < 5.4),
    "f": ({"distribution": "q_log_normal", "q": 2}, lambda v: v >= 0 and v % 2 == 0),
    "g": ({"values": [[1, 2], None, {"x": 1}]}, lambda v: v in ([1, 2], None, {"x": 1})),
    "h": ({"parameters": {"i": {"min": 1, "max": 3}}}, lambda v: v["i"] in (1, 2, 3)),
    "j": ({"values": ["only"]}, lambda v: v == "only"),
    "k": ({"distribution": "normal", "sigma": 0}, lambda v: v == 0),
}


def test_every_kind_of_parameter_has_its_values() -> None:
    searched = sweep({name: said for name, (said, _) in DISTRIBUTIONS.items()})
    history: list = [({"of": "another sweep"}, 9.0)]  # teaches nothing, and does no harm
    for number in range(14):
        point = suggest(searched, 0, history, [], number)
        assert all(fits(point[name]) for name, (_, fits) in DISTRIBUTIONS.items()), point
        history.append((point, float("nan") if number % 3 == 0 else float(number)))


@pytest.mark.parametrize("said", [{"distribution": "beta"}, {"values": [1, 2], "probabilities": [0.5, 0.5]}])
def test_a_distribution_that_it_does_not_have_is_refused(said) -> None:
    with pytest.raises(UserError, match=r"parameter a is (beta|categorical_w_probabilities), which the bayes search"):
        suggest(sweep({"a": said}), 0, [], [], 0)


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'mbt-lightning\[bayes\]'"):
        suggest(sweep(SEARCHED), 0, [], [], 0)
