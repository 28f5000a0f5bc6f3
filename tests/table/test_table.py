"""`mbt table`: folders read, runs put side by side, and what is written; most of it on made-up run folders."""

import csv
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import CROSS, JOINT, bottleneck, configuration, make_plan, make_run, make_sweep, summary_of
from paths import PROJECT
from scipy.stats import ttest_rel
from test_paper import MINI, mixup, paper_setting

from mbt_lightning.cli.main import main, table
from mbt_lightning.config.settings import nested
from mbt_lightning.errors import UserError, duration
from mbt_lightning.runs.read import Run, is_run, read_run
from mbt_lightning.sweep.planned_runs import read_folders, subfolders
from mbt_lightning.table.columns import columns_of, per_cent, short
from mbt_lightning.table.compare import Comparison, compare
from mbt_lightning.table.html_page import page
from mbt_lightning.table.notes import notes_of
from mbt_lightning.table.points import seed_of, settings_of
from mbt_lightning.table.significance import paired_comparisons, pareto
from mbt_lightning.table.write import fitting, latex, latex_text, markdown_text, parts_of, point_rows

REAL_SIZE = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "1"]


def compared(*folders: Path, score: str | None = None) -> Comparison:
    return compare(*read_folders(folders), score)


def said(found: Comparison, title: str) -> str:
    """The lines below the table under a heading."""
    return "\n".join(line for s in notes_of(found) if s.title.startswith(title) for line in s.lines)


def made(seed: int = 0, score: float = 0.7, parts: dict | None = None, state: str = "finished", **settings) -> Run:
    """A run without a folder."""
    config = configuration(seed_everything=seed, **settings)
    name = f"run-{score}-{seed}"
    return Run(name, f"runs/made/{name}", state, config, summary_of(config, score, **(parts or {})))


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------


class TestFolders:
    def test_runs_are_found_at_any_depth_and_nothing_else(self, tmp_path: Path) -> None:
        make_run(tmp_path / "runs/a/1")
        make_run(tmp_path / "runs/deep/er/b/2")
        make_run(tmp_path / "runs/a/1/wandb/run-1/files")  # W&B keeps a config.yaml of its own
        make_run(tmp_path / "runs/wandb/offline-run-2/files")
        for folders, names in (
            (["runs"], ["1", "2"]),
            (["runs/a"], ["1"]),
            (["runs/a/1"], ["1"]),
            (["runs/a", "runs/deep/er/b/2", "runs"], ["1", "2"]),
        ):
            runs, plans = read_folders([tmp_path / folder for folder in folders])
            assert (sorted(run.name for run in runs), plans) == (names, [])

    def test_states(self, tmp_path: Path) -> None:
        host, gone = socket.gethostname(), subprocess.Popen(["true"])
        gone.wait()

        def state(name: str, summary: bool = True, parts: dict | None = None, **content) -> tuple[str, str, bool]:
            folder = make_run(tmp_path / name, 0.5 if summary else None, content or None, parts)
            run = read_run(folder)
            return run.state, run.message, run.is_scored

        assert state("old") == ("finished", "", True)
        assert state("old-stopped", parts={"fit": {"finished": False, "epochs": 3}, "test": {}}) == (
            "stopped",
            "training ended after 3 epochs",
            False,
        )
        assert state("old-untested", parts={"test": {}}) == ("stopped", "no test scores", False)
        assert state("old-none", summary=False) == ("stopped", "no summary.json: it did not come to its end", False)
        assert state("done", state="finished", pid=1, host=host) == ("finished", "", True)
        assert state("oom", False, state="failed", pid=1, host=host, message="boom") == ("failed", "boom", False)
        assert state("here", False, state="running", pid=os.getpid(), host=host) == ("running", "", False)
        assert state("dead", False, state="running", pid=gone.pid, host=host)[0] == "killed"
        assert state("far", False, state="running", pid=gone.pid, host="elsewhere") == ("running", "", False)
        assert state("nan", parts={"test": {"score": None}}, state="finished", pid=1, host=host)[2] is False

    def test_curves_are_read_when_they_are_asked_for(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "1")
        run = read_run(folder)
        (folder / "metrics.csv").write_text("step,epoch,train/loss,val/score\n8,0,2.5,\n16,0,,0.25\n24,1,nan,\n")
        assert run.curves() == {"train/loss": [(8, 2.5)], "val/score": [(16, 0.25)]}
        (folder / "metrics.csv").unlink()
        assert run.curves() == {}

    @pytest.mark.parametrize(
        ("file", "content", "told"),
        [
            ("summary.json", "{", "summary.json: is no JSON"),
            ("summary.json", "[]", "summary.json: holds no JSON object"),
            ("config.yaml", "a: [", "config.yaml: is no YAML"),
            ("config.yaml", "a: \udcff", "config.yaml: is no text in UTF-8 (invalid start byte at byte 3)"),
            ("summary.json", '"\udcff"', "summary.json: is no text in UTF-8"),
            ("state.json", '"\udcff"', "state.json: is no text in UTF-8"),
            ("state.json", "", "state.json: is no JSON"),
        ],
    )
    def test_a_broken_file_is_named(self, file: str, content: str, told: str, tmp_path: Path) -> None:
        (make_run(tmp_path / "1") / file).write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(UserError, match=re.escape(told)) as error:
            read_folders([tmp_path])
        assert "mend it, or move the run out of the way" in str(error.value)

    def test_what_is_no_file_or_breaks_off_is_named(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "1")
        (folder / "metrics.csv").write_text("step,train/loss\n8,2.5\n16,ab\n")
        with pytest.raises(UserError, match=r"metrics\.csv, line 3: could not convert .*; mend it"):
            read_run(folder).curves()
        (folder / "summary.json").unlink()
        (folder / "summary.json").mkdir()
        with pytest.raises(UserError, match=r"summary\.json: cannot be read \(Is a directory\)"):
            read_run(folder)

    def test_a_link_into_its_own_folder_is_followed_once(self, tmp_path: Path) -> None:
        make_run(tmp_path / "a/1")
        (tmp_path / "a/again").symlink_to(tmp_path)
        assert [run.name for run in read_folders([tmp_path])[0]] == ["1"]
        (tmp_path / "b").mkdir()
        (tmp_path / "b/elsewhere").symlink_to(tmp_path / "a")
        assert [run.name for run in read_folders([tmp_path / "b"])[0]] == ["1"], "a link is followed"

    def test_experiments_may_be_called_as_the_sweeps_own_folder(self, tmp_path: Path) -> None:
        for name in ("sweep", "wandb", "checkpoints"):
            make_run(tmp_path / "runs" / name / f"in-{name}")
        make_run(tmp_path / "runs/a/wandb/offline-run-1/files")
        make_run(tmp_path / "runs/b/sweep/no-run")
        (tmp_path / "runs/b/sweep/plan.json").write_text("{}")
        names = sorted(folder.name for folder in subfolders(tmp_path / "runs") if is_run(folder))
        assert names == ["in-checkpoints", "in-sweep", "in-wandb"]

    def test_a_state_without_its_parts(self, tmp_path: Path) -> None:
        assert read_run(make_run(tmp_path / "1", state={"pid": 1})).state == "finished", "as its summary has it"
        assert (
            read_run(make_run(tmp_path / "2", state={"state": "running", "host": socket.gethostname()})).message == ""
        )
        lost = read_run(make_run(tmp_path / "3", None, {"state": "failed", "message": None}))
        assert (lost.state, lost.message) == ("failed", "")


# ---------------------------------------------------------------------------------------------------------------------
# Points
# ---------------------------------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation_of_every_score() -> None:
    chance = random.Random(0)
    scores = [chance.random() for _ in range(5)]
    (point,) = compare([made(seed, score) for seed, score in enumerate(scores)]).points
    for name, shift in {"score": 0, "fused/mAP": 0, "rgb/mAP": -0.1, "fused/mAP/relation": -0.08}.items():
        values = [score + shift for score in scores]
        assert point.mean(name) == pytest.approx(statistics.mean(values), abs=1e-12)
        assert point.std(name) == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert point.std("fused/mAP") != pytest.approx(statistics.pstdev(scores), abs=1e-4)
    assert point.mean("none") is None and point.std("none") is None and point.count == "5"


def test_one_seed_has_no_deviation() -> None:
    (point,) = compare([made()]).points
    assert point.std("score") is None and per_cent(point.mean("score"), point.std("score")) == "70.00"


def test_a_score_that_is_no_number_is_none() -> None:
    nan = float("nan")
    found = compare(
        [made(0, 0.5), made(1, parts={"test": {"score": nan, "fused/mAP": nan}}), made(0, model__fusion=CROSS)]
    )
    point = next(p for p in found.points if p.kind == "bottleneck")
    assert point.mean("fused/mAP") == 0.5 and point.count == "1 of 2, 1 without a score"
    half = made(0, parts={"test": {"score": 0.5, "fused/mAP": 0.5, "rgb/mAP": None}})
    assert compare([half]).points[0].mean("rgb/mAP") is None


@pytest.mark.parametrize("coverage", [None, {"test": None}])
def test_a_coverage_that_is_not_known_is_empty(coverage) -> None:
    found = compare([made(parts={"data": {"coverage": coverage, "clips": {}, "hash": "ab"}})])
    assert point_rows(found)[0].get("coverage test") is None
    assert {c.title: c.cells for c in columns_of(found)}["coverage (%)"] == ["– / –"]


def test_same_settings_and_seed_count_once(tmp_path: Path) -> None:
    """The newest finished one; late fusion is the same whatever strategy it was run under."""
    for age, (name, fusion) in enumerate({"b": bottleneck(), "c": CROSS, "j": JOINT}.items()):
        folder = make_run(tmp_path / "s" / name, 0.5 + age / 10, model__fusion=fusion, model__fusion_layer=12)
        os.utime(folder / "summary.json", (1000 + age, 1000 + age))
    failed = make_run(tmp_path / "s/z", None, {"state": "failed", "message": "boom", "pid": 1, "host": ""})
    config = (tmp_path / "s/b/config.yaml").read_text()
    (failed / "config.yaml").write_text(config)
    found = compared(tmp_path)
    (point,) = found.points
    assert [run.name for run in point.runs] == ["j"] and point.strategy == "late fusion" and point.unscored == []
    told = said(found, "Counted once")
    assert {run.name for run in point.doubles} == {"b", "c", "z"}
    assert "s/b (finished); counted is" in told and "s/z (failed, boom); counted is" in told


def test_what_cannot_change_a_score_does_not_divide_a_point() -> None:
    runs = [made(0), made(1, trainer__accelerator="gpu", data__num_workers=8, runs="elsewhere", experiment="other")]
    (point,) = compare(runs).points
    assert point.count == "2"


def test_the_same_data_has_other_paths_on_other_machines() -> None:
    here, there = made(0), made(1, data__manifest="/data/x.parquet", data__media_root="/data")
    assert len(compare([here, there]).points) == 1
    other = made(1, data__manifest="/data/x.parquet", parts={"data": {"hash": "ffff", "clips": {"train": 9}}})
    found = compare([here, other, made(2)])
    assert len(found.points) == 1 and found.swept == ()
    assert "1 run: data.manifest ffff (here 34c0ae25bf84ffff)" in said(found, "Apart")


def test_other_data_stand_in_one_table_where_a_sweep_says_so(tmp_path: Path) -> None:
    """Strategies are compared on the same data only."""
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
    assert [one.difference for one in paired_comparisons(found)] == pytest.approx([0.1, 0.1])
    assert all(one.one.labels == one.other.labels for one in paired_comparisons(found))
    told = said(found, "How to read it")
    assert "Data: small.csv, 9 train clips, hash 0009ffff." in told and "Data: large.csv, 1024 train clips" in told
    assert "Their test sets may differ" in told


def test_a_run_without_a_summary_has_the_data_of_its_path() -> None:
    lost = Run("lost", "runs/lost", "failed", configuration(seed_everything=1), {}, "boom")
    (point,) = compare([made(0), lost]).points
    assert point.count == "1 of 2, 1 failed"


def test_states_are_told_in_the_row_and_below() -> None:
    states = {1: "failed", 2: "running", 3: "stopped", 4: "killed", 5: "waiting", 6: "failed"}
    others = [
        Run(f"r{s}", f"runs/r{s}", state, configuration(seed_everything=s), {}, "why") for s, state in states.items()
    ]
    blank = made(7, parts={"test": {"score": None}})
    found = compare([made(0), *others, blank])
    (point,) = found.points
    assert point.count == "1 of 8, 2 failed, 1 running, 1 stopped, 1 killed, 1 waiting, 1 without a score"
    assert "bottleneck B = 4 (sequential), L_f = 8, seed 3: stopped: why (runs/r3)" in said(found, "Without a score")
    assert "seed 7: without a score (" in said(found, "Without a score")


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
    assert point.mean("score") == 0.5 and point.count == "1 of 2, 1 without a score"
    assert f"seed 1: without a score: diverged: {why} not finite ({tmp_path}/bad)" in said(found, "Without a score")
    assert f"without a score: diverged: {why} not finite" in point_rows(found)[0]["states"]


def test_a_point_without_any_score_is_a_row_all_the_same() -> None:
    failed = Run("f", "runs/f", "failed", configuration(model__fusion_layer=4), {}, "boom")
    found = compare([made(), failed])
    assert [p.count for p in found.points] == ["0 of 1, 1 failed", "1"]
    cells = {column.title: column.cells[0] for column in columns_of(found)}
    assert cells["mAP"] == cells["GFLOPs"] == cells["training"] == cells["parameters (M)"] == "–"


# ---------------------------------------------------------------------------------------------------------------------
# Families
# ---------------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_more_are_listed_apart_with_both_values() -> None:
    runs = [made(seed, model__fusion_layer=layer) for seed in (0, 1) for layer in (0, 8)]
    long = [made(seed, 0.9, trainer__max_epochs=50) for seed in (0, 1, 2)]
    found = compare(runs + long)
    assert [p.fusion_layer for p in found.points] == [0, 8] and found.swept == ("model.fusion_layer",)
    assert said(found, "Apart").startswith("3 runs: trainer.max_epochs 50 (here 8): runs/made/run-0.9-0, ")


def test_the_setting_within_a_class_is_named() -> None:
    adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5, "weight_decay": 0.05}}
    found = compare([made(0), made(1), made(2, model__optimizer=adam)])
    assert said(found, "Apart").startswith("1 run: model.optimizer.init_args.lr 0.5 (here 0.0015): ")
    none = compare([made(0), made(1), made(2, data__spec_augment={"class_path": "SpecAugment"})])
    assert "data.spec_augment.class_path SpecAugment (here –)" in said(none, "Apart")


def test_axes_are_what_varies() -> None:
    runs = [
        made(model__mixup=None),
        made(model__mixup=mixup("Mixup")),
        made(model__mixup=mixup("Mixup", 0.5)),
        made(data__window_seconds=3.2),
        made(data__synchronous=False),
        made(model__share_encoder=True),
        made(model__modalities=["rgb"]),
    ]
    found = compare(runs)
    assert found.apart == [] and len(found.points) == 7
    assert found.axes == ["model.share_encoder", "model.mixup", "data.window_seconds", "data.synchronous"]
    titles = {column.title: column.cells for column in columns_of(found)}
    assert {"none", "Mixup (alpha 0.3)", "Mixup (alpha 0.5)"} == set(titles["mixup"])
    assert set(titles["window (s)"]) == {"1.6", "3.2"} and set(titles["synchronous"]) == {"yes", "no", "–"}
    assert found.points[0].strategy == "rgb only"


def test_a_single_modality_joins_the_runs_whose_settings_it_shares() -> None:
    """What it lacks is no difference, but neither does it bind together runs that differ in it."""
    fused = [made(seed, data__frame_size=32) for seed in range(3)]
    other = [made(seed, data__frame_size=64) for seed in range(2)]
    sound = [made(seed, model__modalities=["spectrogram"], data__frame_size=64) for seed in range(4)]
    found = compare(sound + other + fused)
    assert [(p.strategy, p.count) for p in found.points] == [
        ("spectrogram only", "4"),
        ("bottleneck B = 4 (sequential)", "3"),
    ]
    assert "2 runs: data.frame_size 64 (here 32)" in said(found, "Apart")


def test_strategies_in_the_fields_words() -> None:
    own = {"class_path": "my.strategies.Gate", "init_args": {"width": 3}}
    runs = [
        made(model__modalities=["rgb"]),
        made(model__modalities=["spectrogram"]),
        made(model__fusion_layer=12),
        made(model__fusion=JOINT),
        made(model__fusion=CROSS),
        made(model__fusion=bottleneck(4)),
        made(model__fusion=bottleneck(16, "symmetric")),
        made(model__modalities=["spectrogram", "rgb"]),
        made(model__fusion=own),
    ]
    random.Random(1).shuffle(runs)
    assert [p.strategy for p in compare(runs).points] == [
        "rgb only",
        "spectrogram only",
        "late fusion",
        "joint self-attention",
        "cross-attention",
        "bottleneck B = 4 (sequential)",
        "bottleneck B = 4 (sequential, spectrogram first)",
        "bottleneck B = 16 (symmetric)",
        "Gate (width 3)",
    ]


def test_evaluations_and_runs_without_configuration_are_named_not_counted() -> None:
    test = made(0)
    test.config["verbose"] = False
    found = compare(
        [
            made(1),
            test,
            Run("lost", "runs/lost", "failed", {}, {}, "boom"),
            Run("odd", "runs/odd", "failed", {"a": 1}, {}),
        ]
    )
    assert found.points[0].count == "1"
    told = said(found, "Not read")
    assert (
        "runs/lost (failed: boom): it has no configuration" in told and "runs/odd (failed): its configuration" in told
    )
    assert "1 of `mbt test`, `validate` or `predict`, which trained nothing: runs/made/run-0.7-0" in told


def test_points_that_would_be_called_the_same_are_told_apart() -> None:
    """By the order of their modalities, or by the whole paths of their classes."""
    order = ["spectrogram", "rgb"]
    runs = [made(model__fusion=f, model__modalities=m) for f in (CROSS, JOINT) for m in (["rgb", "spectrogram"], order)]
    runs = [run for run in runs if (run.config["model"]["modalities"], run.config["model"]["fusion"]) != (order, JOINT)]
    runs += [made(model__fusion={"class_path": f"my.{name}.Gate"}) for name in "ab"]
    found = compare([*runs, made(model__fusion={"class_path": "my.Other"})])
    names = {point.strategy for point in found.points}
    assert names == {
        "cross-attention, of rgb, spectrogram",
        "cross-attention, of spectrogram, rgb",
        "joint self-attention",
        "my.a.Gate",
        "my.b.Gate",
        "Other",
    }
    assert {"my.a.Gate", "my.b.Gate"} <= {point.kind for point in found.points}


def test_the_split_that_is_reported_is_named() -> None:
    def texts(**settings) -> list[str]:
        found = compare([made(**settings)])
        columns, sections = columns_of(found), notes_of(found)
        lead = page(found, columns, sections, Path(), [])
        return [said(found, "How to read it"), latex(found, columns), lead]

    assert all("mAP on the test split, per cent" in text for text in texts())
    assert all("mAP on the val split, per cent" in text for text in texts(data__test_split="val", data__val_split=None))
    chosen = "The epoch was chosen on the split that is reported"
    assert chosen in texts(data__test_split="val")[0] and chosen not in texts()[0]
    assert chosen not in texts(data__test_split="val", data__val_split=None)[0]


def test_machines_and_unreadable_clips_are_told() -> None:
    big = {"machine": {"host": "a", "device": "H100", "num_gpus": 2}}
    small = {"machine": {"host": "b", "device": "EPYC", "num_gpus": 0}, "test": {"score": 0.5, "bad_clips": 3.0}}
    told = said(compare([made(0, parts=big), made(1, parts=small)]), "How to read it")
    assert "several machines, so training times are not comparable: 2 x H100 (1 run), EPYC (1 run)." in told
    assert "Clips of the test could not be read: runs/made/run-0.7-1 (3)." in told
    other = {"machine": big["machine"] | {"host": "c"}}
    told = said(compare([made(0, parts=big), made(1, parts=other)]), "How to read it")
    assert "several machines" not in told and "could not be read" not in told


def test_a_score_that_some_seeds_lack_says_of_how_many_it_is() -> None:
    lacking = {"test": {"score": 0.6, "fused/mAP": 0.6}}
    cells = {c.title: c.cells for c in columns_of(compare([made(0), made(1, parts=lacking), made(2)]))}
    assert cells["relation"] == ["62.00 ± 0.00 (n = 2)"] and "n =" not in cells["mAP"][0]


def test_runs_apart_tell_their_state() -> None:
    failed = Run("f", "runs/f", "failed", configuration(trainer__max_epochs=50), {}, "boom")
    told = said(compare([made(0), made(1), made(2, trainer__max_epochs=50), failed]), "Apart")
    assert told == "2 runs: trainer.max_epochs 50 (here 8): runs/made/run-0.7-2, runs/f (failed)"


def test_a_drawn_seed_is_no_seed_1() -> None:
    runs = [made(1), replace(made(True), name="a"), replace(made(True), name="b")]
    (point,) = compare(runs).points
    assert point.count == "3" and point.doubles == []
    assert {str(seed_of(run)) for run in point.runs} == {"1", "drawn (a)", "drawn (b)"}


def test_several_commits_and_versions_are_told_once() -> None:
    runs = [made(0), made(1, parts={"git_commit": "ffff", "versions": {"torch": "2.11.0"}})]
    told = said(compare(runs), "How to read it")
    assert "The runs are of several commits: abc (1 runs), ffff (1 runs)." in told
    assert "several versions: torch 2.11.0, 2.12.1" in told
    assert "several" not in said(compare(runs[:1]), "How to read it")


# ---------------------------------------------------------------------------------------------------------------------
# Sweeps
# ---------------------------------------------------------------------------------------------------------------------


class TestSweep:
    def test_every_point_of_the_grid_is_in_the_table(self, tmp_path: Path) -> None:
        make_sweep(tmp_path / "fusion")
        found = compared(tmp_path)
        assert len(found.points) == 3 * 6 + 1 and found.apart == []
        (plan,) = found.plans
        places = [json.dumps(place) for point in found.points for place in point.places]
        wanted = {json.dumps({k: v for k, v in p["values"].items() if k != "seed_everything"}) for p in plan.points}
        assert len(places) == len(set(places)) and set(places) == wanted
        told = said(found, "The same point")
        assert told == (
            "late fusion is 3 points of the sweep: model.fusion Bottleneck or CrossAttention or JointSelfAttention; "
            "model.fusion_layer 12."
        )

    def test_places_that_are_no_product_are_listed(self, tmp_path: Path) -> None:
        values = [{"model.fusion_layer": 12, "model.share_encoder": s} for s in (True, False)]
        values.append({"model.fusion_layer": 24, "model.share_encoder": True})
        make_plan(tmp_path / "s", [(v | {"seed_everything": 0}, "t") for v in values], {"t": configuration()})
        make_run(tmp_path / "s/t")
        told = said(compared(tmp_path), "The same point")
        assert told.endswith(
            "is 3 points of the sweep: model.fusion_layer 12; model.share_encoder yes | model.fusion_layer 12; "
            "model.share_encoder no | model.fusion_layer 24; model.share_encoder yes."
        )

    def test_what_has_not_begun_waits(self, tmp_path: Path) -> None:
        make_sweep(tmp_path / "fusion", layers=(0, 8), seeds=(0, 1))
        for name in ("bottleneck-0-1", "crossattention-8-0", "crossattention-8-1"):
            for path in (tmp_path / "fusion" / name).iterdir():
                path.unlink()
            (tmp_path / "fusion" / name).rmdir()
        counts = {(p.kind, p.fusion_layer): p.count for p in compared(tmp_path).points}
        assert "cross-attention, L_f = 8, seeds 0, 1: waiting" in said(compared(tmp_path), "Without a score")
        assert counts["bottleneck", 0] == "1 of 2, 1 waiting"
        assert counts["cross-attention", 8] == "0 of 2, 2 waiting"
        assert counts["cross-attention", 0] == "2"

    def test_a_waiting_run_has_the_measured_scale_of_the_others(self, tmp_path: Path) -> None:
        """`null` in the plan, numbers in the resolved configuration of what has run."""
        unmeasured = {"data__spectrogram__init_args__mean": None, "data__spectrogram__init_args__std": None}
        trials = {f"t{seed}": configuration(seed_everything=seed, **unmeasured) for seed in (0, 1)}
        make_plan(tmp_path / "s", [({"seed_everything": s}, f"t{s}") for s in (0, 1)], trials)
        make_run(tmp_path / "s/t0", seed_everything=0)
        (point,) = compared(tmp_path).points
        assert point.count == "1 of 2, 1 waiting"

    def test_its_parameters_are_what_may_vary(self, tmp_path: Path) -> None:
        points, trials = [], {}
        for lr in (0.1, 0.2):
            optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}
            trials[f"lr{lr}"] = configuration(model__optimizer=optimizer)
            points.append(({"model.optimizer.init_args.lr": lr}, f"lr{lr}"))
            make_run(tmp_path / f"s/lr{lr}", model__optimizer=optimizer)
        make_run(
            tmp_path / "s/by-hand", model__optimizer=trials["lr0.1"]["model"]["optimizer"], data__window_seconds=3.2
        )
        make_plan(tmp_path / "s", points, trials)
        found = compared(tmp_path)
        assert found.axes == ["model.optimizer"] and len(found.points) == 2
        assert [p.labels["model.optimizer"] for p in found.points] == ["SGD (lr 0.1)", "SGD (lr 0.2)"]
        assert "data.window_seconds 3.2 (here 1.6)" in said(found, "Apart"), "the sweep does not vary it"


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
    assert found.unplaced == found.apart == []
    assert [(p.strategy, p.fusion_layer, p.count) for p in found.points] == [
        ("rgb only", None, "0 of 1, 1 waiting"),
        ("late fusion", 12, "0 of 1, 1 waiting"),
        ("joint self-attention", 4, "0 of 1, 1 waiting"),
        ("cross-attention", 8, "1 of 2, 1 waiting"),
        ("bottleneck B = 4 (sequential)", 8, "1 of 2, 1 waiting"),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What the scores say
# ---------------------------------------------------------------------------------------------------------------------


def test_pareto_by_brute_force() -> None:
    chance = random.Random(3)
    for _ in range(50):
        points = [(chance.randrange(6), chance.randrange(6)) for _ in range(12)]
        for place, (cost, score) in enumerate(points):
            beaten = False
            for other_cost, other_score in points:
                as_good = other_cost <= cost and other_score >= score
                beaten = beaten or (as_good and (other_cost, other_score) != (cost, score))
            assert pareto(points)[place] is not beaten


class TestBestAgainstBest:
    def runs(self, ours: list[float], theirs: list[float]) -> list[Run]:
        return [made(s, x) for s, x in enumerate(ours)] + [
            made(s, x, model__fusion=CROSS) for s, x in enumerate(theirs)
        ]

    def test_p_by_hand(self) -> None:
        """Differences 1, 2, 3 per cent: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom, p = 0.0742."""
        (one,) = paired_comparisons(compare(self.runs([0.71, 0.72, 0.73], [0.70, 0.70, 0.70])))
        assert (one.one.kind, one.other.kind, one.seeds) == ("bottleneck", "cross-attention", 3)
        assert one.difference == pytest.approx(0.02) and one.std == pytest.approx(0.01)
        assert one.p == pytest.approx(0.0742, abs=5e-5) and not one.is_chosen

    def test_p_is_that_of_scipys_paired_test(self) -> None:
        chance = random.Random(5)
        for n in (2, 3, 10):
            ours, theirs = ([chance.random() for _ in range(n)] for _ in range(2))
            (one,) = paired_comparisons(compare(self.runs(ours, theirs)))
            assert one.p == pytest.approx(float(ttest_rel(ours, theirs).pvalue), rel=1e-9)

    def test_only_common_seeds_are_paired(self) -> None:
        runs = self.runs([0.71, 0.72, 0.73], [0.70])
        told = said(compare(runs), "Best against best")
        assert "+1.00 points, paired over n = 1 seed; no test: that takes two seeds or more." in told
        strangers = [made(5, 0.9), made(0, 0.7, model__fusion=CROSS)]
        assert "no seed in common" in said(compare(strangers), "Best against best")

    def test_equal_differences_have_no_test(self) -> None:
        told = said(compare(self.runs([0.75, 0.5], [0.5, 0.25])), "Best against best")
        assert "no test: the difference is the same for every seed" in told
        told = said(compare(self.runs([0.8, 0.7, 0.6], [0.7, 0.6, 0.5])), "Best against best")
        assert "the same for every seed" in told, "but for rounding"

    def test_equal_means_are_a_tie(self) -> None:
        runs = self.runs([0.7, 0.6], [0.6, 0.7]) + [made(s, 0.7 - s / 10, model__fusion_layer=4) for s in (0, 1)]
        told = said(compare(runs), "Best against best")
        assert "cross-attention, L_f = 8: " in told or "L_f = 8 against" in told
        assert ": a tie, " in told and "stand here: bottleneck B = 4 (sequential), L_f = 8." in told
        assert "tie" not in said(compare(self.runs([0.71, 0.73], [0.70, 0.69])), "Best against best")
        assert "As good" not in said(compare(self.runs([0.71, 0.73], [0.70, 0.69])), "Best against best")

    def test_the_best_layer_of_each_is_compared_and_that_is_called_optimistic(self) -> None:
        runs = self.runs([0.71, 0.73], [0.70, 0.69]) + [made(s, 0.8 + s / 50, model__fusion_layer=4) for s in (0, 1)]
        (one,) = paired_comparisons(compare(runs))
        assert one.one.fusion_layer == 4 and one.is_chosen
        told = said(compare(runs), "Best against best")
        assert "bottleneck B = 4 (sequential), L_f = 4 against cross-attention, L_f = 8: +11.50 points" in told
        assert "these differences are optimistic" in told
        assert "optimistic" not in said(compare(self.runs([0.71, 0.73], [0.70, 0.69])), "Best against best")


def test_the_papers_number_stands_where_the_setting_is_the_papers() -> None:
    runs = []
    for layer, score in ((8, 0.43), (6, 0.42)):
        config = paper_setting(model__fusion_layer=layer)
        runs.append(Run(str(layer), f"runs/{layer}", "finished", config, summary_of(config, score, data=MINI)))
    found = compare(runs)
    columns = {column.title: column.cells for column in columns_of(found)}
    assert columns["paper"] == ["–", "43.9 [Table 1]"] and columns["difference"] == ["–", "-0.90"]
    assert "L_f = 6: the paper has no number for this setting" in said(found, "The paper")
    row = point_rows(found)[1]
    assert (row["paper"], row["paper source"]) == (0.439, "Table 1") and row["difference"] == pytest.approx(-0.009)
    short = compare(
        [Run("1", "runs/1", "finished", c := paper_setting(trainer__max_epochs=5), summary_of(c, 0.3, data=MINI))]
    )
    assert "trainer.max_epochs 5, not 50" in said(short, "The paper")
    assert "paper" not in [column.title for column in columns_of(short)]


def test_a_difference_on_a_part_of_the_test_set_is_marked() -> None:
    config, part = paper_setting(), {**MINI, "coverage": {"train": 1.0, "test": 0.873}}
    found = compare([Run("1", "runs/1", "finished", config, summary_of(config, 0.43, data=part))])
    assert {c.title: c.cells for c in columns_of(found)}["difference"] == ["-0.90*"]
    assert "* Of the official test set 87.3 % was left" in said(found, "The paper")
    found = compare([Run("1", "runs/1", "finished", config, summary_of(config, 0.43, data=MINI))])
    assert "*" not in said(found, "The paper")


def test_no_number_of_the_paper_stands_beside_the_embedded_clips() -> None:
    found = compare([made()])
    assert said(found, "The paper") == "" and "paper" not in [column.title for column in columns_of(found)]


# ---------------------------------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep with all that can be, and its table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    make_sweep(Path("runs/fusion"), layers=(0, 8, 12))
    for seed in range(3):
        make_run(Path(f"runs/alone/v{seed}"), 0.6 + seed / 100, model__modalities=["rgb"], seed_everything=seed)
    failed = {"state": "failed", "message": "CUDA | out of [memory] & 5 % of it", "pid": 1, "host": ""}
    make_run(Path("runs/fusion/x_y"), None, failed, seed_everything=9)
    make_run(Path("runs/alone/long"), 0.9, trainer__max_epochs=50)
    table.main(["--no-figures"])
    (tmp_path / "printed").write_text(capsys.readouterr().out)
    return tmp_path


def test_printed(written: Path) -> None:
    text = (written / "printed").read_text()
    assert "│ bottleneck B = 4 (sequential) │   8 │ 3 of 4, 1 failed │" in text
    assert "CUDA | out of [memory] & 5 % of it" in text
    assert "written to ablation/: table.md, table.tex, table.csv, runs.csv" in text
    assert sorted(path.name for path in (written / "ablation").iterdir()) == [
        "runs.csv",
        "table.csv",
        "table.md",
        "table.tex",
    ]


def test_narrow_terminals_get_the_main_columns() -> None:
    columns = columns_of(compare([made(0), made(1)]))
    names = [column.title for column in fitting(columns, 79)]
    assert names[:4] == ["strategy", "L_f", "seeds", "mAP"] and 5 <= len(names) < len(columns)
    assert fitting(columns, 400) == columns
    assert parts_of(columns, 400) == [columns]
    parts = parts_of(columns, 79)
    assert len(parts) > 1 and all(part[0].title == "strategy" for part in parts)
    shown = [column.title for part in parts for column in part if column.rank <= 1 and column.is_number]
    wanted = [column.title for column in columns if column.rank <= 1 and column.is_number]
    assert set(shown) == set(wanted) and max(map(shown.count, set(wanted) - {"L_f"})) == 1


def test_markdown(written: Path) -> None:
    text = (written / "ablation/table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 * 2 + 1 + 1
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert rows[0].startswith("| strategy | L\\_f | seeds | mAP | rgb | spectrogram | video | relation |")
    assert "CUDA \\| out of \\[memory\\] & 5 % of it" in text and "**" in text
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
    assert len(rows) == 9
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1
        assert not re.search(r"(?<!\\)[%#_]", row.replace("$L_f$", ""))
    assert "$L_f$" in rows[0] and r"\textbf{" in text and r"$\pm$" in text


def test_latex_escapes() -> None:
    nasty = "a_b & 5 % $x$ #1 {y} ~ ^ \\ –0 ±1 < >"
    assert latex_text(nasty) == (
        r"a\_b \& 5 \% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} --0 $\pm$1 "
        r"\textless{} \textgreater{}"
    )
    assert latex_text("L_f") == "$L_f$" and latex_text("-0.90") == "$-$0.90" and latex_text("a-b 3-4") == "a-b 3-4"


def test_csv_keeps_every_digit(written: Path) -> None:
    with open(written / "ablation/table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = compared(Path("runs"))
    assert len(rows) == len(found.points) == 8
    for row, point in zip(rows, found.points, strict=True):
        assert float(row["fused/mAP mean"]) == point.mean("fused/mAP")
        assert float(row["fused/mAP/relation std"]) == point.std("fused/mAP/relation")
        assert float(row["gflops"]) == point.gflops and row["paper"] == ""
        assert row["fusion_layer"] == ("" if point.fusion_layer is None else str(point.fusion_layer))
        assert row["gflops_as_coded"] == ("" if point.kind == "joint self-attention" else str(point.gflops_as_coded))
    late = next(row for row in rows if row["strategy"] == "late fusion")
    assert len(json.loads(late["sweep"])) == 3 and late["runs"] == "late-0 late-1 late-2"


def test_csv_of_runs_has_every_run(written: Path) -> None:
    with open(written / "ablation/runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["source"] for row in rows}) == 3 * 2 * 3 + 3 + 3 + 2
    roles = {row["run"]: row["role"] for row in rows}
    assert (roles["x_y"], roles["long"], roles["late-1"]) == ("without a score", "apart", "counted")
    assert {row["trainer.max_epochs"] for row in rows} == {"8", "50"}
    assert "data.batch_size" not in rows[0], "only what differs"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "runs: no such folder; give folders of runs"),
        (["nope"], "nope: no such folder"),
        (
            ["empty"],
            "empty: no runs there; make one by `mbt fit --config experiments/base.yaml`, or many by `mbt sweep",
        ),
        (["full", "--score", "top5"], "--score top5: no run has it; there are mAP, mAP/relation, mAP/video"),
        (["full", "--score", "classes_with_positives"], "--score classes_with_positives: is a count, not a score"),
        (["full", "--out", "full/1/config.yaml"], "--out full/1/config.yaml: cannot make this folder"),
        (["--nope"], "mbt table: unrecognized arguments: --nope"),
    ],
)
def test_what_is_wrong_is_told(arguments, told, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    counted = summary_of(configuration(), 0.7)["test"] | {"fused/classes_with_positives": 1.0}
    make_run(Path("full/1"), parts={"test": counted})
    with pytest.raises(SystemExit) as stop:
        main(["table", *arguments])
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.err.startswith("mbt: error: ") and output.err.count("\n") == 1
    assert told in output.err


def test_what_an_earlier_call_has_written_goes_when_it_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """And a page that is somebody else's never."""
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


def test_another_score(tmp_path: Path) -> None:
    make_run(tmp_path / "1", parts={"test": {"score": 0.7, "fused/top1": 0.7, "fused/top5": 0.9, "rgb/top5": 0.8}})
    assert compared(tmp_path).score == "top1"
    columns = {column.title: column.cells for column in columns_of(compared(tmp_path, score="top5"))}
    assert columns["top5"] == ["90.00"] and columns["rgb"] == ["80.00"] and columns["spectrogram"] == ["–"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.6, "1.6 s"), (95, "1 min 35 s"), (9000, "2 h 30 min"), (4e5, "4 d 15 h")],
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


def test_four_figures() -> None:
    assert [short(x) for x in (None, 0.0284791, 0.75, 173.2144, 1062.4)] == ["–", "0.02848", "0.7500", "173.2", "1062"]


# ---------------------------------------------------------------------------------------------------------------------
# As a program
# ---------------------------------------------------------------------------------------------------------------------


def test_it_waits_for_nothing_heavy(tmp_path: Path) -> None:
    """Neither torch nor matplotlib nor scipy is imported with it; torch is not when it has run either."""
    code = (
        "import sys, mbt_lightning.cli.table; print([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    make_run(tmp_path / "runs/a/1")
    make_run(tmp_path / "runs/a/2", 0.8, model__fusion_layer=4, seed_everything=1)
    code = (
        "import sys; sys.argv = ['mbt', 'table', '--html']\n"
        "from mbt_lightning.__main__ import main; main(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("index.html\nFalse\n") and (tmp_path / "ablation/score_over_fusion_layer.png").is_file()


def test_without_matplotlib_and_scipy_the_rest_is_written(tmp_path: Path) -> None:
    for name in ("matplotlib", "scipy"):
        (tmp_path / "none" / name).mkdir(parents=True)
        line = f"raise ModuleNotFoundError('No module', name={name!r})"
        (tmp_path / "none" / name / "__init__.py").write_text(line)
    for seed in (0, 1):
        make_run(tmp_path / f"runs/a/{seed}", 0.7 + seed / 10, seed_everything=seed)
        make_run(tmp_path / f"runs/a/c{seed}", 0.6 + seed / 20, seed_everything=seed, model__fusion=CROSS)
    path = os.pathsep.join([str(tmp_path / "none"), str(Path(table.__file__).parents[2])])
    command = [sys.executable, "-m", "mbt_lightning", "table", "--html"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "figures need matplotlib: pip install 'mbt-lightning[table]'" in done.stdout
    assert "The paired t-test needs scipy: pip install 'mbt-lightning[table]'" in done.stdout
    assert {p.name for p in (tmp_path / "ablation").iterdir()} == {
        "index.html",
        "runs.csv",
        "table.csv",
        "table.md",
        "table.tex",
    }


def test_what_a_person_can_mend_is_one_line_without_torch_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mbt_lightning", "table"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "mbt: error: runs: no such folder; give folders of runs, by default `runs`\n"


def test_real_runs(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What the program itself has written down is read, and the arithmetic is what it has counted."""
    monkeypatch.chdir(PROJECT)
    common = [
        "--data.manifest",
        str(demo),
        "--data.num_workers",
        "0",
        "--data.batch_size",
        "4",
        "--trainer.max_epochs",
        "1",
    ]
    common += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--runs",
        str(tmp_path / "runs"),
    ]
    common += ["--data.max_bad_fraction", "1"]
    for name, seed in (("bottleneck_b4_lf8", 0), ("bottleneck_b4_lf8", 1), ("cross_lf8", 0), ("audio_only", 0)):
        main(["fit", "--config", f"experiments/{name}.yaml", *REAL_SIZE, *common, "--seed_everything", str(seed)])
    found = compared(tmp_path / "runs")
    assert [(p.strategy, p.fusion_layer, p.count) for p in found.points] == [
        ("spectrogram only", None, "1"),
        ("cross-attention", 1, "1"),
        ("bottleneck B = 4 (sequential)", 1, "2"),
    ]
    assert found.apart == found.unplaced == [] and found.groups == ["video", "audio", "relation"]
    for point in found.points:
        assert point.runs[0].summary["data"]["classes"] == 12
        assert point.gflops_as_coded and point.gflops and point.gflops_as_coded > point.gflops
        assert set(point.runs[0].curves()) >= {"val/score", "val/loss"}
        del point.runs[0].summary["data"]["classes"]  # as before it was noted down
    again = compare([run for point in found.points for run in point.runs])
    assert [p.gflops_as_coded for p in again.points] == [p.gflops_as_coded for p in found.points]
    capsys.readouterr()
    main(["table", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--no-figures"])
    assert "bottleneck B = 4 (sequential)" in capsys.readouterr().out


def test_a_strategy_of_ones_own_has_no_count_as_coded() -> None:
    own = {"class_path": "my.strategies.Bottleneck", "init_args": {"num_bottlenecks": 4}}
    wrong = made(parts={"gflops_per_clip": 0.0301})
    for run in (made(model__fusion=own), wrong, made(model__fusion=JOINT)):
        assert compare([run]).points[0].gflops_as_coded is None
    assert settings_of(made())["model.fusion"]["class_path"] == "mbt_lightning.Bottleneck"
    assert latex(compare([wrong]), columns_of(compare([wrong]))).count("--") >= 1
