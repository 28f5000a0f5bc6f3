"""Every sweep file is a valid W&B sweep, and every trial of it resolves to the settings that it names."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

from mbt_lightning.cli import MbtCLI, main
from mbt_lightning.expand import expand

PROJECT = Path(__file__).parent.parent
SWEEPS = sorted((PROJECT / "sweeps").glob("*.yaml"))


class Parsed(Exception):
    """Carries the resolved settings out of the program before it builds anything."""


def resolved(words: list[str]) -> dict:
    """What a command line comes to, as plain data."""

    class OnlyParse(MbtCLI):
        def before_instantiate_classes(self) -> None:
            raise Parsed(yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_none=False)))

    with pytest.raises(Parsed) as parsed:
        OnlyParse(expand(words))
    return parsed.value.args[0]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_corners_of_a_sweep(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid" and sweep["program"] == "mbt" and sweep["metric"]["name"] == "test/score"
    assert path.read_text().startswith("# ") and f"wandb sweep sweeps/{path.name}" in path.read_text()
    ends = {name: {p["values"][0]: 0, p["values"][-1]: 0} for name, p in sweep["parameters"].items()}
    for values in itertools.product(*ends.values()):
        trial = dict(zip(ends, values, strict=True))
        (tmp_path / "config-x.json").write_text(json.dumps(trial))
        words = [str(tmp_path / "config-x.json") if w == "${args_json_file}" else w for w in sweep["command"]]
        assert words[:2] == ["${env}", "mbt"]
        settings = resolved(words[2:])
        assert settings["experiment"] == path.stem
        for name, value in trial.items():
            found = settings
            for key in name.split("."):
                found = found[key]
            if name == "model.fusion":
                assert found["class_path"].endswith(f".{value}")
            else:
                assert found == value


def test_a_misspelt_parameter_is_refused(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    (tmp_path / "config-x.json").write_text('{"model.fusion_layr": 3}')
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "experiments/base.yaml", "--config", str(tmp_path / "config-x.json")])
    assert stop.value.code == 2 and "model.fusion_layr" in capsys.readouterr().err
