"""Runs with equal settings that are no equal trainings: none is averaged with the others in silence."""

import pytest
from made_runs import made, notes

from mbt_lightning.runs.read import Run
from mbt_lightning.table.compare import Comparison, compare
from mbt_lightning.table.run_frame import key_of


def reasons(found: Comparison) -> dict[str, dict[str, tuple[str, str]]]:
    return {run.name: gaps for run, gaps in found.excluded}


def trained(seed: int, score: float, **fit) -> Run:
    """A run whose summary has other facts about its training."""
    parts = {"fit": {"epochs": 8, "steps": 256, "finished": True, "training_seconds": 60.0 + seed} | fit}
    return made(seed, score, parts=parts)


def test_other_numbers_of_steps_are_excluded_and_named() -> None:
    """As `trainer.max_time` makes them."""
    found = compare([trained(0, 0.7), trained(1, 0.71), trained(2, 0.5, steps=96)])
    assert reasons(found) == {"run-0.5-2": {"optimiser steps": ("96", "256")}}
    assert found.points[0].mean("mAP") is None or len(found.points[0].runs) == 2
    assert "optimiser steps 96 (here 256)" in notes(found, "Excluded")


def test_of_two_the_longer_training_is_kept() -> None:
    found = compare([trained(0, 0.7, steps=19), trained(1, 0.71, steps=23)])
    assert reasons(found) == {"run-0.7-0": {"optimiser steps": ("19", "23")}}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("parameters", {"parameters": 9}),
        ("processes", {"processes": 2}),
        ("training clips", {"data": {"clips": {"train": 9, "test": 512}}}),
        ("tested clips", {"test": {"score": 0.5, "fused/mAP": 0.5, "clips": 64.0}}),
    ],
)
def test_every_other_fact(name: str, parts: dict) -> None:
    same = {"processes": 1, "test": {"score": 0.7, "fused/mAP": 0.7, "clips": 512.0}}
    found = compare([made(0, parts=dict(same)), made(1, parts=dict(same)), made(2, parts=same | parts)])
    assert {key for gaps in reasons(found).values() for key in gaps} == {name}
    assert len(found.points[0].runs) == 2


def test_early_stopping_chooses_the_steps_itself() -> None:
    runs = [trained(0, 0.7), trained(1, 0.71, steps=96)]
    for run in runs:
        run.config["trainer"]["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]
    assert not compare(runs).excluded


def test_a_copied_folder_with_another_seed_is_no_seed() -> None:
    fit = {"epochs": 8, "steps": 256, "finished": True, "training_seconds": 61.2345, "clips_per_second": 12.345}
    original = made(0, 0.7, parts={"fit": fit})
    copy = Run("copy", "runs/copy", "finished", original.config | {"seed_everything": 5}, original.summary, ended=9.0)
    found = compare([original, made(1, 0.71), copy])
    assert "those of runs/made/run-0.7-0" in str(reasons(found)["copy"])
    assert [run.name for run in found.points[0].runs] == ["run-0.7-0", "run-0.71-1"]


def test_a_changed_or_continued_training_is_a_point_apart() -> None:
    history = [{"steps": 64, "settings": {"trainer.max_epochs": 2}}]
    found = compare([trained(0, 0.7), trained(1, 0.71), trained(2, 0.72, history=history)])
    assert reasons(found) == {"run-0.72-2": {"trained before": ("64 steps with trainer.max_epochs 2", "–")}}
    elsewhere = [{"steps": 64, "continued_from": "x.ckpt"}]
    found = compare([trained(0, 0.7), trained(1, 0.71), trained(2, 0.72, history=elsewhere)])
    assert reasons(found)["run-0.72-2"]["trained before"][0] == "64 steps in another run"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"test": {"score": 1.3}}, "its score is 1.3, not from 0 to 1"),
        ({"test": {"score": 0.7, "fused/AUC": 1.7}}, "its fused/AUC is 1.7, not from 0 to 1"),
        ({"fit": {}}, "its summary has no training"),
    ],
)
def test_an_impossible_score_is_none(parts: dict, why: str) -> None:
    run = made(0, parts=parts)
    assert not run.is_scored and run.why == why


def test_clips_lost_in_training_and_test_are_listed() -> None:
    run = trained(0, 0.7, bad_clips=3.0)
    run.summary["test"]["bad_clips"] = 2.0
    lines = notes(compare([run]), "How to read")
    assert "Test clips that could not be read: runs/made/run-0.7-0 (2)" in lines
    assert "Training clips that could not be read: runs/made/run-0.7-0 (3)" in lines


def test_commits_of_every_part_are_listed() -> None:
    run = made(0, parts={"provenance": {"fit": [{"git_commit": "a" * 40}], "test": [{"git_commit": "b" * 40}]}})
    lines = notes(compare([run, made(1)]), "How to read")
    assert f"{'a' * 10} and {'b' * 10} (1 run)" in lines


def test_coverage_is_of_what_was_tested() -> None:
    assert compare([made(0, parts={"test_coverage": 96 / 512})]).points[0].test_coverage == 96 / 512


def test_processes_are_those_of_all_parts_of_a_training() -> None:
    resumed = made(2, 0.72, parts={"provenance": {"fit": [{"processes": 1}, {"processes": 2}]}})
    found = compare([made(0, 0.7, parts={"processes": 1}), made(1, 0.71, parts={"processes": 1}), resumed])
    assert reasons(found) == {"run-0.72-2": {"processes": ("1 then 2", "1")}}


def test_of_a_run_and_its_copy_the_one_with_the_runs_own_name_counts() -> None:
    fit = {"epochs": 8, "steps": 256, "finished": True, "training_seconds": 61.2345, "clips_per_second": 12.345}
    original = made(0, 0.7, parts={"fit": fit, "run": "run-0.7-0"})
    copy = Run("a_copy", "runs/a_copy", "finished", original.config | {"seed_everything": 5}, original.summary)
    assert list(reasons(compare([copy, original]))) == ["a_copy"]


def test_a_modalitys_setting_is_the_same_in_its_short_form() -> None:
    assert key_of("data.inputs.rgb.num_frames") == key_of("data.inputs.rgb.init_args.num_frames")
    assert key_of("data.inputs.rgb.class_path") == "data.inputs.rgb.class_path"
