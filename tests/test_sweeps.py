"""Every sweep file is one to W&B and to `mbt sweep`, says what it is, and each trial is the settings that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import v0_1
import yaml
from paths import PROJECT
from program import Program
from wandb.sdk.launch.sweeps.utils import load_sweep_config
from wandb_agent import agent_words

from mbt_lightning.cli.main import main
from mbt_lightning.config.settings import flat, identity_settings, nested
from mbt_lightning.config.upgrade import upgrade
from mbt_lightning.config.yaml_files import files_named
from mbt_lightning.sweep.sweep_file import command_words, points, read_sweep

SWEEPS = {path.stem: path for path in sorted((PROJECT / "sweeps").glob("*.yaml"))}
REQUIRED = {
    *("backbone", "bottlenecks", "demo", "fusion_layer", "mixup", "sampling"),
    *("train_size", "update_rule", "weight_sharing", "window"),
}


@pytest.fixture(scope="module")
def program() -> Program:
    return Program()


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def check(settings: dict, values: dict) -> None:
    """Compare resolved settings with what a trial names; a class may be named alone, and its home is the program's."""
    found = flat(settings)
    for name, value in flat(values).items():
        resolved = found.get(name, found.get(f"{name}.class_path"))
        if isinstance(value, str) and name.endswith(("model.fusion", "model.mixup", "class_path")):
            assert resolved.rpartition(".")[2] == value
        else:
            assert resolved == value and isinstance(resolved, bool) == isinstance(value, bool), name


def test_the_sweeps_of_the_paper_are_there() -> None:
    assert SWEEPS.keys() == REQUIRED


@pytest.mark.parametrize("name", SWEEPS)
def test_a_header_says_what_a_sweep_is(name) -> None:
    text = SWEEPS[name].read_text()
    header = text[: text.index("program:")]
    assert all(line.startswith("#") for line in header.splitlines())
    words = " ".join(header.replace("#", " ").split())
    assert re.search(r"Paper: .*\b(Fig\.|Table|section|mini-AudioSet)", words) and "GFLOPs per clip" in words
    for command in (f"wandb sweep sweeps/{name}.yaml, then: wandb agent", f"mbt sweep sweeps/{name}.yaml"):
        assert f"#   {command}" in header
    assert f"#   mbt table runs/{name}\n" in header


WITHOUT_VALIDATION = ("backbone", "sampling", "train_size", "window")
"""Those whose recipe has no list to validate on."""


@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_is_the_settings_that_it_names(name, program: Program, tmp_path: Path) -> None:
    """Each value is resolved once, and the last point as a whole; the rest is put together from what they change."""
    sweep = read_sweep(SWEEPS[name])
    assert load_sweep_config(str(SWEEPS[name])) == yaml.safe_load(SWEEPS[name].read_text())
    assert (sweep.name, sweep.method, sweep.goal) == (name, "grid", "maximize")
    assert sweep.metric == ("test/score" if name in WITHOUT_VALIDATION else "val/score")
    assert sweep.command[:3] == ("${env}", "mbt", "fit") and sweep.command[-2:] == ("--config", "${args_json_file}")
    assert all(path.is_relative_to("experiments") for path in files_named(command_words(sweep)))

    def resolve(number: int, values: dict) -> dict:
        (tmp_path / str(number)).mkdir()
        settings = program.plain(*agent_words(sweep, values, tmp_path / str(number))[1:])
        check(settings, values)
        assert settings["experiment"] == name
        assert settings["trainer"]["logger"]["class_path"].endswith(".WandbRun")
        return flat(settings)

    grid = points(sweep)
    stored = v0_1.points(f"sweeps/{name}.yaml")
    first = resolve(0, grid[0])
    changes: dict[tuple[str, str], dict] = {}
    for number, values in enumerate(grid):
        others = [parameter for parameter in values if values[parameter] != grid[0][parameter]]
        if len(others) == 1:
            settings = resolve(number, values)
            changed = {key: settings.get(key) for key in first | settings if settings.get(key) != first.get(key)}
            changes[others[0], json.dumps(values[others[0]])] = changed

    def put_together(values: dict) -> dict:
        settings = dict(first)
        for parameter, value in values.items():
            settings |= changes.get((parameter, json.dumps(value)), {})
        return settings

    assert meaningful_of(resolve(len(grid), grid[-1])) == meaningful_of(put_together(grid[-1]))
    experiments = {meaningful_of(put_together(values)) for values in grid}
    for values, settings in zip(grid, stored, strict=True):
        assert meaningful_of(flat(upgrade(nested(settings)))) == meaningful_of(put_together(values))
    header = re.search(r"Cost: (\d+) points, (\d+) distinct runs", " ".join(SWEEPS[name].read_text().split()))
    assert header and (len(grid), len(experiments)) == (int(header[1]), int(header[2]))


def meaningful_of(settings: dict) -> str:
    """What is equal for equal experiments, from settings by dotted name of which null stands for none."""
    kept = identity_settings(nested({key: value for key, value in settings.items() if value is not None}))
    return json.dumps({key: value for key, value in kept.items() if value != {}}, sort_keys=True)


@pytest.mark.parametrize("name", [name for name in SWEEPS if "  # - --config" in SWEEPS[name].read_text()])
def test_the_recipe_that_is_commented_out(name, program: Program, tmp_path: Path) -> None:
    """With the signs taken away it is the paper's setting, and the sweep's values still win."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(SWEEPS[name].read_text().replace("  # - ", "  - "))
    sweep = read_sweep(path)
    values = points(sweep)[-1]
    settings = program.plain(*agent_words(sweep, values, tmp_path)[1:])
    check(settings, values)
    assert settings["data"]["manifest"] == "data/audioset_mini.parquet" and settings["model"]["size"] == "b"
    assert settings["model"]["init"]["init_args"]["path"] == "weights/ViT-B_16.npz"
    at_four_seconds = name in ("fusion_layer", "bottlenecks", "weight_sharing")
    assert settings["data"]["window_seconds"] == (4.0 if at_four_seconds else 8.0)


def test_a_misspelt_parameter_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "config-x.json").write_text('{"model.fusion_layr": 3}')
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "experiments/base.yaml", "--config", str(tmp_path / "config-x.json")])
    assert stop.value.code == 2 and "fusion_layr" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Trials that name a class and its arguments
# ---------------------------------------------------------------------------------------------------------------------

NUMBER = "model.fusion.init_args.num_bottlenecks"
LEFT_OUT = f"{NUMBER} has no effect on JointSelfAttention: left out\n"


@pytest.fixture(params=["file", "text"])
def trial(request, program: Program, tmp_path: Path):
    """The model's settings of a trial on a file of experiments/, handed over in both forms that W&B has."""

    def resolve(values: dict, base: str = "base", *options: str) -> dict:
        (tmp_path / "values.json").write_text(json.dumps(values))
        config = str(tmp_path / "values.json") if request.param == "file" else json.dumps(values)
        words = ["--config", f"experiments/{base}.yaml", "--config", config, *options]
        program.parse.cache_clear()  # the file has the same name each time
        return program.plain(*words)["model"]

    return resolve


def test_an_argument_of_another_strategy_is_left_out(trial, capsys) -> None:
    fusion = trial({"model.fusion": "JointSelfAttention", NUMBER: 36}, "bottleneck_b4_lf8")["fusion"]
    assert fusion["class_path"].endswith(".JointSelfAttention") and not fusion["init_args"]
    assert capsys.readouterr().out == LEFT_OUT
    assert trial({NUMBER: 36}, "joint_lf8")["fusion"]["class_path"].endswith(".JointSelfAttention")
    assert capsys.readouterr().out == LEFT_OUT
    assert trial({"model": {"fusion": "JointSelfAttention"}, NUMBER: 36})["fusion"]["init_args"] == {}
    assert capsys.readouterr().out == LEFT_OUT
    assert not trial({NUMBER: 36}, "base", "--model.fusion", "JointSelfAttention")["fusion"].get("init_args")


def test_a_class_keeps_its_arguments(trial, capsys) -> None:
    """The parser alone would take the class from below and keep only the argument."""
    fusion = trial({"model.fusion": "TrainOnlyBottleneck", NUMBER: 36}, "bottleneck_symmetric_b4_lf8")["fusion"]
    assert fusion["class_path"].endswith(".TrainOnlyBottleneck")
    assert fusion["init_args"] == {"num_bottlenecks": 36, "update": "symmetric"}
    model = trial({"model": {"fusion": {"class_path": "Bottleneck", "init_args": {"update": "symmetric"}}}, NUMBER: 9})
    assert model["fusion"]["init_args"] == {"num_bottlenecks": 9, "update": "symmetric"}
    model = trial({"model.mixup": "ModalityMixup", "model.mixup.init_args.alpha": 0.5})
    assert model["mixup"]["class_path"].endswith(".ModalityMixup") and model["mixup"]["init_args"] == {"alpha": 0.5}
    assert trial({"model.optimizer.init_args.lr": 1e-05})["optimizer"]["init_args"]["lr"] == 1e-05
    assert capsys.readouterr().out == ""


def test_only_the_first_process_says_so(trial, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert trial({"model.fusion": "CrossAttention", NUMBER: 36})["fusion"]["class_path"].endswith(".CrossAttention")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("strategy", ["JointSelfAttention", "Bottleneck"])
def test_what_no_strategy_takes_is_an_error(trial, capsys, strategy) -> None:
    with pytest.raises(SystemExit):
        trial({"model.fusion": strategy, "model.fusion.init_args.num_botlenecks": 36})
    assert "num_botlenecks" in capsys.readouterr().err


def test_elsewhere_an_argument_of_another_strategy_stays_an_error(program: Program, capsys, tmp_path: Path) -> None:
    base = ["--config", "experiments/base.yaml"]
    (tmp_path / "x.yaml").write_text(
        "model: {fusion: {class_path: JointSelfAttention, init_args: {num_bottlenecks: 3}}}"
    )
    for words in (["--config", str(tmp_path / "x.yaml")], ["--model.fusion=JointSelfAttention", f"--{NUMBER}=3"]):
        with pytest.raises(SystemExit):
            program.parse(*base, *words)
        assert "num_bottlenecks" in capsys.readouterr().err
