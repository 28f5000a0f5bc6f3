"""Numbers that are not finite: a training stops, nothing of it is saved, and what has diverged has no score."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from break_run import PARAMETER
from processes import DDP, PROJECT, command, finish, only, start
from program import refusal, tiny

from mbt_lightning.cli.main import main
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.training.checkpoint import load_checkpoint

FAST = ["--model.optimizer.init_args.lr", "1e30"]


def breaking(what: str, value: str = ".nan") -> list[str]:
    """Options of the program that let a run have a `Break`."""
    init = f"{{what: {what}, value: {value}}}"
    return ["--trainer.callbacks", f"[{{class_path: break_run.Break, init_args: {init}}}]"]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the project's folder."""
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few real clips: two steps an epoch."""
    return demo_manifest(DemoSize(16, 8, 12), cache=tmp_path_factory.mktemp("finite-demo"))


def failed(runs: Path, line: str) -> Path:
    """The folder of the run that has failed with this line."""
    run = only(runs.glob("*/*"))
    state = json.loads((run / "state.json").read_text())
    assert (state["state"], state["exit_code"], f"mbt: error: {state['message']}") == ("failed", 2, line)
    return run


def test_a_diverged_training_fails(manifest: Path, tmp_path: Path, capsys) -> None:
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *FAST))
    assert re.search(r"training has diverged: at step 2 the loss is (nan|inf) \(clips of the batch: ", line)
    assert "and 3 more); no checkpoint with finite weights was saved; lower the learning rate" in line
    rows = {row.split(",")[0] for row in manifest.read_text().splitlines()[1:]}
    assert set(re.search(r"batch: (.*) and 3", line)[1].split(", ")) <= rows
    run = failed(tmp_path, line)
    assert not list(run.glob("checkpoints/*"))
    assert json.loads((run / "summary.json").read_text())["fit"]["finished"] is False


def test_checkpoints_from_before_stay_good(manifest: Path, tmp_path: Path, capsys) -> None:
    main(["fit", *tiny(manifest, tmp_path)])
    run = only(tmp_path.glob("*/*"))
    before = {path.name: path.read_bytes() for path in run.glob("checkpoints/*")}
    assert before.keys() == {"last.ckpt", "best.ckpt"}
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "3", *FAST]
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *more))
    assert "at step 4 the loss is" in line and f"the last good checkpoint is {run}/checkpoints/last.ckpt; " in line
    failed(tmp_path, line)
    assert {path.name: path.read_bytes() for path in run.glob("checkpoints/*")} == before


def test_a_validation_without_any_finite_logits_stops_it_before_it_is_saved(manifest, tmp_path: Path, capsys) -> None:
    """One step an epoch: its weights are finite, and useless."""
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *FAST, "--data.batch_size", "16"))
    assert (
        "diverged: the logits of 8 of 8 clips are not finite in the validation after step 1; no checkpoint with" in line
    )
    assert not list(failed(tmp_path, line).glob("checkpoints/*"))


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_gradients_are_looked_at_before_they_are_clipped(value: str, manifest, tmp_path: Path, capsys) -> None:
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *breaking("gradients", value)))
    assert f"at step 2 the gradients of {PARAMETER} are not finite (clips of the batch: " in line
    failed(tmp_path, line)


def test_of_accumulated_batches_the_wrong_one_is_named(manifest: Path, tmp_path: Path, capsys) -> None:
    more = ["--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2"]
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *breaking("inputs"), *more))
    assert "at step 2 the loss is nan" in line and "and 3 more)" in line, "both batches of the step were spoilt"


def test_weights_that_are_not_finite_are_not_saved(manifest: Path, tmp_path: Path, capsys) -> None:
    more = [*breaking("weights"), "--data.val_split", "null"]
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, *more))
    assert f"after step 2 the weights of {PARAMETER} are not finite, and are not saved; no checkpoint with" in line
    assert not list(failed(tmp_path, line).glob("checkpoints/*"))


def test_infinite_scaled_gradients_are_the_scalers_business(manifest: Path, tmp_path: Path, capsys) -> None:
    """On the CPU Lightning takes bf16 for it, where nothing is scaled, so its plugin is named."""
    plugin = "{class_path: lightning.pytorch.plugins.precision.MixedPrecision"
    scaled = ["--trainer.plugins", f"[{plugin}, init_args: {{precision: 16-mixed, device: cpu}}}}]"]
    main(["fit", *tiny(manifest, tmp_path / "a", *scaled, *breaking("gradients", ".inf"))])
    run = only(tmp_path.glob("a/*/*"))
    assert json.loads((run / "state.json").read_text())["state"] == "finished"
    weights = load_checkpoint(run / "checkpoints/last.ckpt").state_dict()
    assert all(x.isfinite().all() for x in weights.values())
    assert "at step 2 the loss is nan" in refusal(
        capsys, "fit", *tiny(manifest, tmp_path, *scaled, *breaking("inputs"))
    )


def test_all_ranks_stop_for_the_loss_of_one(manifest: Path, tmp_path: Path) -> None:
    output = finish(start(command(manifest, tmp_path, *DDP, *breaking("inputs"))), code=2)
    lines = {line for line in output.splitlines() if line.startswith("mbt: error: ")}
    assert len(lines) == 1, "every rank says the same"
    line = lines.pop()
    assert "at step 2 the loss is nan (clips of the batch: " in line and "Traceback" not in output
    assert line.partition("batch: ")[2].partition(")")[0].count(", ") == 3, "the four clips of the one rank"
    failed(tmp_path, line)


def test_a_diverged_checkpoint_has_no_score(manifest: Path, tmp_path: Path, capsys) -> None:
    main(["fit", *tiny(manifest, tmp_path / "a")])
    path = only(tmp_path.glob("a/*/*/checkpoints/best.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    for x in checkpoint["state_dict"].values():
        x.fill_(math.nan)
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    assert "diverged:" not in capsys.readouterr().out
    main(["test", "--ckpt_path", str(tmp_path / "nan.ckpt"), "--runs", str(tmp_path / "b")])
    assert "diverged: the logits of 12 of 12 clips are not finite" in capsys.readouterr().out
    run = only(tmp_path.glob("b/*/*"))
    test = json.loads((run / "summary.json").read_text())["test"]
    assert test.pop("non_finite_clips") == 12 and test.pop("clips") == 12 and test.pop("bad_clips") == 0
    assert {"score", "loss", "rgb/mAP", "fused/mAP/video"} <= test.keys() and set(test.values()) == {None}


def test_one_modality_may_have_a_score(manifest: Path, tmp_path: Path, capsys) -> None:
    """Late fusion: what is wrong with the pictures' encoder does not reach the sound's."""
    main(["fit", *tiny(manifest, tmp_path / "a", "--model.fusion_layer", "3")])
    path = only(tmp_path.glob("a/*/*/checkpoints/best.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    spoilt = [x for name, x in checkpoint["state_dict"].items() if "rgb" in name]
    assert spoilt
    for x in spoilt:
        x.fill_(math.nan)
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    main(["test", "--ckpt_path", str(tmp_path / "nan.ckpt"), "--runs", str(tmp_path / "b")])
    before, after = (json.loads(only(tmp_path.glob(f"{x}/*/*/summary.json")).read_text())["test"] for x in "ab")
    assert after["spectrogram/mAP"] == before["spectrogram/mAP"]
    assert after["rgb/mAP"] is after["fused/mAP"] is after["score"] is None and after["non_finite_clips"] == 12
