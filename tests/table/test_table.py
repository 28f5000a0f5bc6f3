"""`mbt table` on made-up runs: which of them are compared, their statistics, their notes, and the files written."""

import csv
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import (
    CROSS,
    JOINT,
    bottleneck,
    cells,
    columns_by_title,
    compared,
    configuration,
    made,
    make_plan,
    make_run,
    make_sweep,
    notes,
    paper_run,
    summary_of,
    unscored,
)
from paths import PROJECT

from mbt_lightning.cli import table
from mbt_lightning.cli.main import main
from mbt_lightning.config.settings import nested
from mbt_lightning.errors import UserError, duration
from mbt_lightning.runs.read import Run
from mbt_lightning.table.columns import columns_of, per_cent, short, value_frame
from mbt_lightning.table.compare import compare
from mbt_lightning.table.notes import notes_of
from mbt_lightning.table.run_frame import seed_of
from mbt_lightning.table.write import fitting, latex, latex_text, markdown, markdown_text, parts_of

RGB, SPECTROGRAM = "data__inputs__rgb__init_args__", "data__inputs__spectrogram__init_args__"


# ---------------------------------------------------------------------------------------------------------------------
# Points
# ---------------------------------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation_of_every_score() -> None:
    chance = random.Random(0)
    scores = [chance.random() for _ in range(5)]
    (point,) = compare([made(seed, score) for seed, score in enumerate(scores)]).points
    for name, shift in {"score": 0, "fused/mAP": 0, "rgb/mAP": -0.1, "fused/mAP/relation": -0.08}.items():
        values = [score + shift for score in scores]
        assert point.mean(name) == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert point.std(name) == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert point.mean("none") is None and point.std("none") is None and point.seeds == "5"


def test_one_seed_has_no_deviation() -> None:
    (point,) = compare([made()]).points
    assert point.std("score") is None and per_cent(point.mean("score"), point.std("score")) == "70.00"


def test_a_score_that_is_no_number_is_none() -> None:
    nan = float("nan")
    found = compare(
        [made(0, 0.5), made(1, parts={"test": {"score": nan, "fused/mAP": nan}}), made(0, model__fusion=CROSS)]
    )
    point = next(p for p in found.points if p.strategy.kind == "bottleneck")
    assert point.mean("fused/mAP") == 0.5 and point.seeds == "1 of 2, 1 without a score"
    half = made(0, parts={"test": {"score": 0.5, "fused/mAP": 0.5, "rgb/mAP": None}})
    assert compare([half]).points[0].mean("rgb/mAP") is None


@pytest.mark.parametrize("coverage", [None, {"test": None}])
def test_a_coverage_that_is_not_known_is_empty(coverage) -> None:
    found = compare([made(parts={"data": {"coverage": coverage, "clips": {}, "hash": "ab"}})])
    assert cells(found)["coverage (%)"] == ["– / –"]
    assert value_frame(found, columns_of(found)).get("coverage test", [None])[0] is None


def test_a_score_that_some_seeds_lack_shows_of_how_many_it_is() -> None:
    lacking = {"test": {"score": 0.6, "fused/mAP": 0.6}}
    shown = cells(compare([made(0), made(1, parts=lacking), made(2)]))
    assert shown["relation"] == ["62.00 ± 0.00 (n = 2)"] and "n =" not in shown["mAP"][0]


def test_costs_are_those_of_the_summaries() -> None:
    """An older summary has no cost as coded."""
    (point,) = compare([made(parts={"gflops_per_clip": 0.5, "gflops_as_coded": 0.75})]).points
    assert (point.gflops, point.gflops_as_coded) == (0.5, 0.75)
    old = made()
    del old.summary["gflops_as_coded"]
    assert cells(compare([old]))["as coded"] == cells(compare([made(model__fusion=JOINT)]))["as coded"] == ["–"]


def test_same_settings_and_seed_count_once(tmp_path: Path) -> None:
    """The newest finished one; late fusion is the same whatever strategy it was run under."""
    for age, (name, fusion) in enumerate({"b": bottleneck(), "c": CROSS, "j": JOINT}.items()):
        folder = make_run(tmp_path / "s" / name, 0.5 + age / 10, model__fusion=fusion, model__fusion_layer=12)
        os.utime(folder / "summary.json", (1000 + age, 1000 + age))
    failed = make_run(tmp_path / "s/z", None, {"state": "failed", "message": "boom", "pid": 1, "host": ""})
    (failed / "config.yaml").write_text((tmp_path / "s/b/config.yaml").read_text())
    found = compared(tmp_path)
    (point,) = found.points
    assert [run.name for run in point.runs] == ["j"] and point.strategy.name == "late fusion" and point.unscored == []
    assert {run.name for run in point.duplicates} == {"b", "c", "z"}
    lines = notes(found, "Duplicates").splitlines()
    assert len(lines) == 3 and all("counted is" in line and line.endswith("s/j") for line in lines)
    assert any("s/z (failed, boom)" in line for line in lines)


def test_what_cannot_change_a_score_does_not_divide_a_point() -> None:
    runs = [made(0), made(1, trainer__accelerator="gpu", data__num_workers=8, runs="elsewhere", experiment="other")]
    (point,) = compare(runs).points
    assert point.seeds == "2"


def test_the_same_data_has_other_paths_on_other_machines() -> None:
    here, there = made(0), made(1, data__manifest="/data/x.parquet", data__media_root="/data")
    assert len(compare([here, there]).points) == 1
    other = made(1, data__manifest="/data/x.parquet", parts={"data": {"hash": "ffff", "clips": {"train": 9}}})
    found = compare([here, other, made(2)])
    assert len(found.points) == 1 and found.swept == ()
    ((run, gaps),) = found.excluded
    assert run is other and gaps == {"data.manifest": ("ffff", "34c0ae25bf84ffff")}


def test_a_run_without_a_summary_has_the_data_of_its_path() -> None:
    (point,) = compare([made(0), unscored("lost", seed_everything=1)]).points
    assert point.seeds == "1 of 2, 1 failed"


def test_states_are_counted_in_the_row_and_listed_below() -> None:
    states = {1: "failed", 2: "running", 3: "stopped", 4: "killed", 5: "waiting", 6: "failed"}
    others = [unscored(f"r{seed}", state, "why", seed_everything=seed) for seed, state in states.items()]
    found = compare([made(0), *others, made(7, parts={"test": {"score": None}})])
    (point,) = found.points
    assert point.seeds == "1 of 8, 2 failed, 1 running, 1 stopped, 1 killed, 1 waiting, 1 without a score"
    lines = notes(found, "Runs without a score").splitlines()
    assert len(lines) == 7 and "seed 7: without a score" in lines[-2] and "seed 5: waiting" in lines[-1]
    assert "bottleneck B = 4 (sequential), L_f = 8, seed 3: stopped: why (runs/r3)" in lines


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ({"score": None, "loss": None, "clips": 512.0, "non_finite_clips": 7.0}, "the logits of 7 of 512 clips are"),
        (
            {"score": 0.579, "loss": None, "clips": 512.0},
            "the loss of the evaluation is",
        ),  # from before they were counted
    ],
)
def test_a_diverged_run_has_no_score_and_says_why(test: dict, why: str, tmp_path: Path) -> None:
    make_run(tmp_path / "good", 0.5)
    make_run(tmp_path / "bad", 0.9, {"state": "finished"}, {"test": test}, seed_everything=1)
    found = compared(tmp_path)
    (point,) = found.points
    assert point.mean("score") == 0.5 and point.seeds == "1 of 2, 1 without a score"
    line = f"seed 1: without a score: diverged: {why} not finite ({tmp_path}/bad)"
    assert line in notes(found, "Runs without a score")
    assert f"without a score: diverged: {why} not finite" in value_frame(found, columns_of(found))["states"][0]


def test_a_point_without_any_score_is_a_row_all_the_same() -> None:
    found = compare([made(), unscored("f", model__fusion_layer=4)])
    assert [p.seeds for p in found.points] == ["0 of 1, 1 failed", "1"]
    shown = cells(found)
    assert shown["mAP"][0] == shown["GFLOPs"][0] == shown["training"][0] == shown["parameters (M)"][0] == "–"


def test_a_drawn_seed_is_no_seed_1() -> None:
    runs = [made(1), replace(made(True), name="a"), replace(made(True), name="b")]
    (point,) = compare(runs).points
    assert point.seeds == "3" and point.duplicates == []
    assert {str(seed_of(run)) for run in point.runs} == {"1", "drawn (a)", "drawn (b)"}


# ---------------------------------------------------------------------------------------------------------------------
# Which runs are compared
# ---------------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_more_are_excluded_with_both_values() -> None:
    runs = [made(seed, model__fusion_layer=layer) for seed in (0, 1) for layer in (0, 8)]
    long = [made(seed, 0.9, trainer__max_epochs=50) for seed in (0, 1, 2)]
    found = compare([*runs, *long, unscored("f", trainer__max_epochs=50)])
    assert [p.strategy.fusion_layer for p in found.points] == [0, 8] and found.swept == ("model.fusion_layer",)
    assert [gaps for _, gaps in found.excluded] == [{"trainer.max_epochs": ("50", "8")}] * 4
    assert notes(found, "Excluded") == (
        "4 runs: trainer.max_epochs 50 (here 8): runs/made/run-0.9-0, runs/made/run-0.9-1, runs/made/run-0.9-2, "
        "runs/f (failed)"
    )


@pytest.mark.parametrize(
    ("settings", "gaps"),
    [
        ({"model__optimizer__init_args__lr": 0.5}, {"model.optimizer.init_args.lr": ("0.5", "0.0015")}),
        ({f"{RGB}num_frames": 16}, {"data.inputs.rgb.init_args.num_frames": ("16", "8")}),
        (
            {f"{SPECTROGRAM}augment": {"class_path": "mbt_lightning.SpecAugment"}},
            {
                "data.inputs.spectrogram.init_args.augment": ("–", "none"),
                "data.inputs.spectrogram.init_args.augment.class_path": ("mbt_lightning.SpecAugment", "–"),
            },
        ),
        (
            {"model__modalities": ["rgb", "spectrogram", "flow"], "data__inputs__flow": {"class_path": "my.Flow"}},
            None,  # what only one of them has is no difference; the modalities are swept
        ),
    ],
)
def test_the_setting_within_a_class_is_named(settings: dict, gaps: dict | None) -> None:
    found = compare([made(0), made(1), made(2, **settings)])
    assert [own for _, own in found.excluded] == ([gaps] if gaps else [])


def test_axes_are_what_varies() -> None:
    mixups = [None] + [{"class_path": "mbt_lightning.Mixup", "init_args": {"alpha": alpha}} for alpha in (0.3, 0.5)]
    runs = [
        *(made(model__mixup=mixup) for mixup in mixups),
        made(data__window_seconds=3.2),
        made(data__synchronous=False),
        made(model__share_encoder=True),
        made(model__modalities=["rgb"]),
    ]
    found = compare(runs)
    assert found.excluded == [] and len(found.points) == 7
    assert found.axes == ["model.share_encoder", "model.mixup", "data.window_seconds", "data.synchronous"]
    shown = cells(found)
    assert {"none", "Mixup (alpha 0.3)", "Mixup (alpha 0.5)"} == set(shown["mixup"])
    assert set(shown["window (s)"]) == {"1.6", "3.2"} and set(shown["synchronous"]) == {"yes", "no", "–"}
    assert found.points[0].strategy.name == "rgb only"


def test_a_single_modality_joins_the_runs_whose_settings_it_shares() -> None:
    """What it lacks is no difference, but neither does it join runs that differ in it."""
    fused = [made(seed) for seed in range(3)]
    other = [made(seed, **{f"{RGB}frame_size": 64}) for seed in range(2)]
    audio = [made(seed, model__modalities=["spectrogram"], **{f"{RGB}frame_size": 64}) for seed in range(4)]
    found = compare(audio + other + fused)
    assert [(p.strategy.name, p.seeds) for p in found.points] == [
        ("spectrogram only", "4"),
        ("bottleneck B = 4 (sequential)", "3"),
    ]
    assert [gaps for _, gaps in found.excluded] == [{"data.inputs.rgb.init_args.frame_size": ("64", "32")}] * 2


def test_evaluations_and_runs_without_configuration_are_named_not_counted() -> None:
    evaluation = made(0)
    evaluation.config["verbose"] = False
    lost, odd = Run("lost", "runs/lost", "failed", {}, {}, "boom"), Run("odd", "runs/odd", "failed", {"a": 1}, {})
    found = compare([made(1), evaluation, lost, odd])
    assert found.points[0].seeds == "1" and found.evaluations == [evaluation]
    assert [run for run, _ in found.unread] == [lost, odd]
    assert len(notes(found, "Not read").splitlines()) == 3 and "runs/lost (failed: boom)" in notes(found, "Not read")


class TestSweep:
    def test_every_point_of_the_grid_is_in_the_table(self, tmp_path: Path) -> None:
        make_sweep(tmp_path / "fusion")
        found = compared(tmp_path)
        assert len(found.points) == 3 * 6 + 1 and found.excluded == []
        (plan,) = found.plans
        places = [json.dumps(place) for point in found.points for place in point.places]
        wanted = {json.dumps({k: v for k, v in p["values"].items() if k != "seed_everything"}) for p in plan.points}
        assert len(places) == len(set(places)) and set(places) == wanted
        assert notes(found, "Rows that stand for several points").endswith(
            "model.fusion Bottleneck or CrossAttention or JointSelfAttention; model.fusion_layer 12."
        )

    def test_places_that_are_no_product_are_listed(self, tmp_path: Path) -> None:
        values = [{"model.fusion_layer": 12, "model.share_encoder": s} for s in (True, False)]
        values.append({"model.fusion_layer": 24, "model.share_encoder": True})
        make_plan(tmp_path / "s", [(v | {"seed_everything": 0}, "t") for v in values], {"t": configuration()})
        make_run(tmp_path / "s/t")
        assert notes(compared(tmp_path), "Rows that stand for several points").endswith(
            "model.fusion_layer 12; model.share_encoder yes | model.fusion_layer 12; model.share_encoder no | "
            "model.fusion_layer 24; model.share_encoder yes."
        )

    def test_what_has_not_started_waits(self, tmp_path: Path) -> None:
        make_sweep(tmp_path / "fusion", layers=(0, 8), seeds=(0, 1))
        for name in ("bottleneck-0-1", "crossattention-8-0", "crossattention-8-1"):
            shutil.rmtree(tmp_path / "fusion" / name)
        found = compared(tmp_path)
        counts = {(p.strategy.kind, p.strategy.fusion_layer): p.seeds for p in found.points}
        assert counts["bottleneck", 0] == "1 of 2, 1 waiting"
        assert counts["cross-attention", 8] == "0 of 2, 2 waiting"
        assert counts["cross-attention", 0] == "2"
        assert "cross-attention, L_f = 8, seeds 0, 1: waiting" in notes(found, "Runs without a score")

    def test_its_parameters_are_what_may_vary(self, tmp_path: Path) -> None:
        points, trials = [], {}
        for lr in (0.1, 0.2):
            optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}
            trials[f"lr{lr}"] = configuration(model__optimizer=optimizer)
            points.append(({"model.optimizer.init_args.lr": lr}, f"lr{lr}"))
            make_run(tmp_path / f"s/lr{lr}", model__optimizer=optimizer)
        by_hand = {"model__optimizer": trials["lr0.1"]["model"]["optimizer"], "data__window_seconds": 3.2}
        make_run(tmp_path / "s/by-hand", **by_hand)
        make_plan(tmp_path / "s", points, trials)
        found = compared(tmp_path)
        assert found.axes == ["model.optimizer"] and len(found.points) == 2
        assert [p.labels["model.optimizer"] for p in found.points] == ["SGD (lr 0.1)", "SGD (lr 0.2)"]
        assert [gaps for _, gaps in found.excluded] == [{"data.window_seconds": ("3.2", "1.6")}]

    def test_a_modalitys_settings_are_axes_of_their_own(self, tmp_path: Path) -> None:
        """By today's name or by that of version 0.1."""
        key = "data.inputs.rgb.init_args.num_frames"
        trials = {f"n{n}": configuration(**{f"{RGB}num_frames": n}) for n in (4, 16)}
        for n in (4, 16):
            make_run(tmp_path / f"s/n{n}", **{f"{RGB}num_frames": n})
        make_plan(tmp_path / "s", [({key: 4}, "n4"), ({"data.num_frames": 16}, "n16")], trials)
        found = compared(tmp_path)
        assert found.axes == [key] and cells(found)["num frames"] == ["4", "16"]
        assert columns_by_title(found)["num frames"].is_number(found.points)

    def test_other_data_are_in_one_table_where_a_sweep_varies_them(self, tmp_path: Path) -> None:
        points, trials = [], {}
        for name, clips, gain in (("small", 9, 0.0), ("large", 1024, 0.2)):
            for fusion, score in ((bottleneck(), 0.5), (CROSS, 0.4)):
                settings = {"data__manifest": f"{name}.csv", "model__fusion": fusion}
                trial = f"{name}-{score}"
                parts = {"data": {"manifest": f"{name}.csv", "hash": f"{clips:04}ffff", "clips": {"train": clips}}}
                make_run(tmp_path / "s" / trial, score + gain, parts=parts, **settings)
                trials[trial] = configuration(**settings)
                points.append(({"data.manifest": f"{name}.csv", "model.fusion": fusion["class_path"]}, trial))
        make_plan(tmp_path / "s", points, trials)
        found = compared(tmp_path)
        assert found.swept == ("model.fusion", "data.manifest") and len(found.points) == 4
        labels = {"small, 9 clips, 0009ff", "large, 1024 clips, 1024ff"}
        assert {point.labels["data.manifest"] for point in found.points} == labels
        lines = notes(found, "How to read").splitlines()
        assert [line.partition(",")[0] for line in lines[:2]] == ["Data: small.csv", "Data: large.csv"]


def test_of_what_waits_in_wandb_only_the_swept_values_are_known() -> None:
    def waiting(name: str, **values) -> Run:
        return Run(name, "https://wandb.ai/a/b/sweeps/c", "waiting", nested(values), {})

    values = [
        {"model.fusion": "Bottleneck", "model.fusion_layer": 8, "seed_everything": 1},
        {"model.fusion": "CrossAttention", "model.fusion_layer": 8, "seed_everything": 0},
        {"model.fusion": "JointSelfAttention", "model.fusion_layer": 4, "seed_everything": 1},
        {"model.fusion": "JointSelfAttention", "model.fusion_layer": 12, "seed_everything": 1},
        {"model.fusion_layer": 8, "model.modalities": ["rgb"], "seed_everything": 0},
    ]
    runs = [made(0), made(1, model__fusion=CROSS), *(waiting(f"w{i}", **v) for i, v in enumerate(values))]
    found = compare(runs)
    assert found.unread == found.excluded == []
    assert [(p.strategy.name, p.strategy.fusion_layer, p.seeds) for p in found.points] == [
        ("rgb only", None, "0 of 1, 1 waiting"),
        ("late fusion", 12, "0 of 1, 1 waiting"),
        ("joint self-attention", 4, "0 of 1, 1 waiting"),
        ("cross-attention", 8, "1 of 2, 1 waiting"),
        ("bottleneck B = 4 (sequential)", 8, "1 of 2, 1 waiting"),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Notes
# ---------------------------------------------------------------------------------------------------------------------


def test_the_split_that_is_reported_is_named() -> None:
    def texts(**settings) -> list[str]:
        found = compare([made(**settings)])
        return [notes(found, "How to read"), latex(found, columns_of(found))]

    assert all("mAP on the test split, per cent" in text for text in texts())
    assert all("mAP on the val split, per cent" in text for text in texts(data__test_split="val", data__val_split=None))
    assert "optimistic" in texts(data__test_split="val")[0] and "optimistic" not in texts()[0]
    assert "optimistic" not in texts(data__test_split="val", data__val_split=None)[0]


def test_what_differs_between_runs_beside_settings_is_noted() -> None:
    def reading(*parts: dict) -> str:
        return notes(compare([made(seed, parts=own) for seed, own in enumerate(parts)]), "How to read")

    big = {"machine": {"host": "a", "device": "H100", "num_gpus": 2}}
    small = {"machine": {"host": "b", "device": "EPYC", "num_gpus": 0}, "test": {"score": 0.5, "bad_clips": 3.0}}
    lines = reading(big, small)
    assert "several machines" in lines and "2 x H100 (1 run), EPYC (1 run)" in lines
    assert "could not be read: runs/made/run-0.7-1 (3)" in lines
    lines = reading(big, {"machine": big["machine"] | {"host": "c"}})
    assert "several machines" not in lines and "could not be read" not in lines
    lines = reading({}, {"git_commit": "ffff", "versions": {"torch": "2.11.0"}})
    assert "several commits: abc (1 run), ffff (1 run)" in lines and "torch 2.11.0, 2.12.1" in lines
    assert "several" not in reading({})


class TestPaper:
    def test_its_number_is_shown_where_the_setting_is_its_own(self) -> None:
        found = compare([paper_run("8", 0.43), paper_run("6", 0.42, model__fusion_layer=6)])
        shown = cells(found)
        assert shown["paper"] == ["–", "43.9 [Table 1]"] and shown["difference"] == ["–", "-0.90"]
        assert "L_f = 6: the paper has no number for this setting" in notes(found, "The paper")
        row = value_frame(found, columns_of(found)).iloc[1]
        assert (row["paper"], row["paper source"]) == (0.439, "Table 1")
        assert row["difference"] == pytest.approx(-0.009)
        short = compare([paper_run("1", 0.3, trainer__max_epochs=5)])
        assert "trainer.max_epochs 5, not 50" in notes(short, "The paper") and "paper" not in cells(short)

    def test_a_difference_on_a_part_of_the_test_set_is_marked(self) -> None:
        found = compare([paper_run("1", 0.43, {"coverage": {"train": 1.0, "test": 0.873}})])
        assert cells(found)["difference"] == ["-0.90*"] and "87.3 %" in notes(found, "The paper")
        assert "*" not in notes(compare([paper_run("1", 0.43)]), "The paper")

    def test_the_embedded_clips_have_no_number_of_the_paper(self) -> None:
        assert notes(compare([made()]), "The paper") == "" and "paper" not in cells(compare([made()]))


# ---------------------------------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with all that can be, and its table."""
    folder = tmp_path_factory.mktemp("written")
    runs = folder / "runs"
    make_sweep(runs / "fusion", layers=(0, 8, 12))
    for seed in range(3):
        make_run(runs / f"alone/v{seed}", 0.6 + seed / 100, model__modalities=["rgb"], seed_everything=seed)
    failed = {"state": "failed", "message": "CUDA | out of [memory] & 5 % of it", "pid": 1, "host": ""}
    make_run(runs / "fusion/x_y", None, failed, seed_everything=9)
    make_run(runs / "alone/long", 0.9, trainer__max_epochs=50)
    command = [sys.executable, "-m", "mbt_lightning", "table", "--no-figures"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def test_printed(written: Path) -> None:
    text = (written / "printed").read_text()
    assert "│ bottleneck B = 4 (sequential) │   8 │ 3 of 4, 1 failed │" in text
    assert "CUDA | out of [memory] & 5 % of it" in text
    names = ["table.md", "table.tex", "table.csv", "runs.csv"]
    assert text.endswith(f"written to ablation/: {', '.join(names)}\n")
    assert sorted(path.name for path in (written / "ablation").iterdir()) == sorted(names)


def test_narrow_terminals_get_the_main_columns() -> None:
    found = compare([made(0), made(1)])
    columns = list(columns_by_title(found).values())
    names = [column.title for column in fitting(columns, found.points, 79)]
    assert names[:4] == ["strategy", "L_f", "seeds", "mAP"] and 5 <= len(names) < len(columns)
    assert fitting(columns, found.points, 400) == columns
    assert parts_of(columns, found.points, 400) == [columns]
    parts = parts_of(columns, found.points, 79)
    assert len(parts) > 1 and all(part[0].title == "strategy" for part in parts)
    shown = [column.title for part in parts for column in part if column.rank <= 1 and column.title != "strategy"]
    wanted = [column.title for column in columns if column.rank <= 1 and column.title != "strategy"]
    assert set(shown) == set(wanted) and max(map(shown.count, set(wanted) - {"L_f"})) == 1


def test_markdown(written: Path) -> None:
    text = (written / "ablation/table.md").read_text()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 * 2 + 1 + 1 and len({len(row) for row in rows}) == 1
    assert [cell.strip() for cell in rows[0][:6]] == ["strategy", "L\\_f", "seeds", "mAP", "rgb", "spectrogram"]
    assert rows[1][0].startswith(":--") and rows[1][1].endswith("--:")
    assert "CUDA \\| out of \\[memory\\] & 5 % of it" in text and re.search(r"\*\*7[\d.]+ ± [\d.]+\*\*", text)
    assert "trainer.max\\_epochs 50 (here 8)" in text
    assert markdown_text("a|b <i> *c*\n`d`") == "a\\|b \\<i\\> \\*c\\* \\`d\\`"


def test_latex(written: Path) -> None:
    text = (written / "ablation/table.tex").read_text()
    assert text.isascii()
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    assert text.count("{") == text.count("}") and text.count("\\begin{") == text.count("\\end{") == 2
    (spec,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 9 and text.count("\\addlinespace") == 4
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1
        assert not re.search(r"(?<!\\)[%#_]", row.replace("$L_f$", ""))
    assert "$L_f$" in rows[0] and re.search(r"\\textbf\{7[\d.]+ \$\\pm\$ [\d.]+\}", text)


def test_latex_escapes() -> None:
    nasty = "a_b & 5 % $x$ #1 {y} ~ ^ \\ –0 ±1 < >"
    assert latex_text(nasty) == (
        r"a\_b \& 5 \% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} --0 $\pm$1 "
        r"\textless{} \textgreater{}"
    )
    assert latex_text("L_f") == "$L_f$" and latex_text("-0.90") == "$-$0.90" and latex_text("a-b 3-4") == "a-b 3-4"


def test_names_are_no_markup() -> None:
    own = {"class_path": "my.A_b|$x", "init_args": {"price": "\\5 %"}}
    found = compare([made(0, 0.7, model__fusion=own), made(0, 0.6, model__fusion=CROSS)])
    columns = columns_of(found)
    assert "| A\\_b\\|$x (price \\\\5 %) |" in markdown(found, columns, notes_of(found), [])
    assert r"A\_b|\$x (price \textbackslash{}5 \%) & 8 & " in latex(found, columns)


def test_csv_keeps_every_digit(written: Path) -> None:
    with open(written / "ablation/table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = compared(written / "runs")
    assert len(rows) == len(found.points) == 8
    for row, point in zip(rows, found.points, strict=True):
        assert float(row["fused/mAP mean"]) == point.mean("fused/mAP")
        assert float(row["fused/mAP/relation std"]) == point.std("fused/mAP/relation")
        assert float(row["gflops"]) == point.gflops
        layer = point.strategy.fusion_layer
        assert row["fusion_layer"] == ("" if layer is None else str(layer))
        assert row["gflops_as_coded"] == ("" if "joint" in point.strategy.kind else str(point.gflops_as_coded))
    late = next(row for row in rows if row["strategy"] == "late fusion")
    assert len(json.loads(late["sweep"])) == 3 and late["runs"] == "late-0 late-1 late-2"


def test_csv_of_runs_has_every_run(written: Path) -> None:
    with open(written / "ablation/runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["source"] for row in rows}) == 3 * 2 * 3 + 3 + 3 + 2
    roles = {row["run"]: (row["role"], row["strategy"]) for row in rows}
    assert roles["x_y"] == ("without a score", "bottleneck B = 4 (sequential)")
    assert roles["long"] == ("excluded", "") and roles["late-1"] == ("counted", "late fusion")
    assert {row["trainer.max_epochs"] for row in rows} == {"8", "50"}
    assert {row["model.fusion_layer"] for row in rows if row["strategy"] == "rgb only"} == {""}
    settings = {name for name in rows[0] if name.startswith(("data.", "model.", "trainer."))}
    assert settings == {
        "trainer.max_epochs",
        "model.modalities",
        "model.fusion.class_path",
        "model.fusion.init_args.num_bottlenecks",
        "model.fusion.init_args.update",
        "model.fusion_layer",
    }, "only what differs"


def test_another_score(tmp_path: Path) -> None:
    make_run(tmp_path / "1", parts={"test": {"score": 0.7, "fused/top1": 0.7, "fused/top5": 0.9, "rgb/top5": 0.8}})
    assert compared(tmp_path).score == "top1"
    shown = cells(compared(tmp_path, score="top5"))
    assert shown["top5"] == ["90.00"] and shown["rgb"] == ["80.00"] and shown["spectrogram"] == ["–"]


def test_numbers_as_they_are_shown() -> None:
    assert [short(x) for x in (None, 0.0284791, 0.75, 173.2144, 1062.4)] == ["–", "0.02848", "0.7500", "173.2", "1062"]
    assert [duration(x) for x in (1.6, 95, 9000, 4e5)] == ["1.6 s", "1 min 35 s", "2 h 30 min", "4 d 15 h"]


# ---------------------------------------------------------------------------------------------------------------------
# As a program
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "runs: no such folder"),
        (["nope"], "nope: no such folder"),
        (["empty"], "empty: no runs there"),
        (["full", "--score", "top5"], "--score top5: no run has it; there are mAP, mAP/relation, mAP/video"),
        (["full", "--score", "classes_with_positives"], "--score classes_with_positives: is a count"),
        (["full", "--out", "full/1/config.yaml"], "--out full/1/config.yaml: cannot make this folder"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_mistakes_are_named(arguments, problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    counted = summary_of(configuration(), 0.7)["test"] | {"fused/classes_with_positives": 1.0}
    make_run(Path("full/1"), parts={"test": counted})
    with pytest.raises(UserError, match=re.escape(problem)):
        table.main(arguments)


def test_files_of_an_earlier_call_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But never a page that somebody else has written."""
    monkeypatch.chdir(tmp_path)
    for seed, layer in enumerate((4, 8)):
        make_run(Path(f"runs/{seed}"), model__fusion_layer=layer)
    table.main(["--html"])
    page, figures = Path("ablation/index.html"), set(Path("ablation").glob("*_over_*"))
    assert page.is_file() and len(figures) > 2
    shutil.rmtree("runs/1")
    table.main(["--no-figures"])
    assert not page.exists() and set(Path("ablation").glob("*_over_*")) == figures
    page.write_text("<p>mine</p>")
    table.main([])
    assert page.is_file() and not set(Path("ablation").glob("*_over_*"))


def test_nothing_heavy_is_imported_for_nothing(tmp_path: Path) -> None:
    """No package of the extra `table` with the command's module; torch neither, nor when a table is made."""
    heavy = ("torch", *table.PACKAGES)
    code = f"import sys, mbt_lightning.cli.table; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    make_run(tmp_path / "runs/a/1")
    make_run(tmp_path / "runs/a/2", 0.8, model__fusion_layer=4, seed_everything=1)
    code = (
        "import sys; sys.argv = ['mbt', 'table', '--html']\n"
        "from mbt_lightning.__main__ import main; main(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("index.html\nFalse\n") and (tmp_path / "ablation/score_over_fusion_layer.pdf").is_file()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PACKAGES", (*table.PACKAGES, "no_such_package"))
    with pytest.raises(UserError, match=r"no_such_package: pip install 'mbt-lightning\[table\]'"):
        table.main([])


def test_errors_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mbt_lightning", "table"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("mbt: error: runs: ")


def test_real_runs(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What the program itself has written is read."""
    monkeypatch.chdir(PROJECT)
    options = {
        "--model.size": "{dim: 16, depth: 3, num_heads: 2}",
        "--model.fusion_layer": "1",
        "--data.manifest": str(demo),
        "--data.num_workers": "0",
        "--data.batch_size": "4",
        "--data.max_bad_fraction": "1",
        "--trainer.max_epochs": "1",
        "--trainer.accelerator": "cpu",
        "--trainer.enable_progress_bar": "false",
        "--runs": str(tmp_path / "runs"),
    }
    words = [word for pair in options.items() for word in pair]
    for name, seed in (("bottleneck_b4_lf8", 0), ("bottleneck_b4_lf8", 1), ("cross_lf8", 0), ("audio_only", 0)):
        main(["fit", "--config", f"experiments/{name}.yaml", *words, "--seed_everything", str(seed)])
    found = compared(tmp_path / "runs")
    assert [(p.strategy.name, p.strategy.fusion_layer, p.seeds) for p in found.points] == [
        ("spectrogram only", None, "1"),
        ("cross-attention", 1, "1"),
        ("bottleneck B = 4 (sequential)", 1, "2"),
    ]
    assert found.excluded == found.unread == [] and found.groups == ["video", "audio", "relation"]
    for point in found.points:
        assert point.runs[0].summary["data"]["classes"] == 12 and point.gflops
        assert set(point.runs[0].curves()) >= {"val/score", "val/loss"}
    capsys.readouterr()
    table.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--no-figures"])
    assert "bottleneck B = 4 (sequential)" in capsys.readouterr().out
