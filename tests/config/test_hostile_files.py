"""Files of strangers that are small and mean harm: they are refused in one line, fast, and nothing in them runs."""

import re
from pathlib import Path

import pytest
from program import POINT, refusal

from mbt_lightning.config.yaml_files import parsed
from mbt_lightning.disk import csv_text
from mbt_lightning.errors import UserError
from mbt_lightning.runs.read import read_run
from mbt_lightning.table.compare import compare

LISTS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MAPPINGS = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(10))}}}\n" for i in range(1, 10)
)
BOMBS = {
    "lists": (LISTS + "model: *a9\n", "repeated anchors make more than"),
    "mappings": (MAPPINGS + "model: *a9\n", "repeated anchors make more than"),
    "itself": ("model: &a [*a]\n", "repeated anchors make more than"),
    "depth": ("model: " + "[" * 20_000 + "]" * 20_000, "nest"),
    "tag": ("model: !!python/object/apply:os.system ['touch pwned']\n", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_experiment_file(name: str, tmp_path: Path, capsys) -> None:
    text, reason = BOMBS[name]
    with pytest.raises(UserError, match=reason):
        parsed(text, "x.yaml")
    (tmp_path / "x.yaml").write_text(text)
    line = refusal(capsys, "fit", "--config", POINT, "--config", str(tmp_path / "x.yaml"), "--runs", str(tmp_path))
    assert str(tmp_path / "x.yaml") in line and reason in line and not Path("pwned").exists()


@pytest.mark.parametrize("name", BOMBS)
def test_a_runs_configuration(name: str, tmp_path: Path) -> None:
    text, reason = BOMBS[name]
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / 'config.yaml'))}: is not YAML .*{reason}"):
        read_run(tmp_path)


def test_a_configuration_of_other_types_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: [1]\ndata: x\n")
    ((run, why),) = compare([read_run(tmp_path)]).unread
    assert run.name == tmp_path.name and why


def test_repeated_anchors_are_no_bomb() -> None:
    content = parsed("a: &a {x: 1}\n" + "".join(f"b{i}: *a\n" for i in range(100)), "x.yaml")
    assert content["b99"] == {"x": 1}


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../../x"])
def test_an_experiment_stays_in_its_folder(name: str, tmp_path: Path, capsys) -> None:
    line = refusal(capsys, "fit", "--config", POINT, "--experiment", name, "--runs", str(tmp_path / "runs"))
    assert f"experiment is {name!r}" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3", "-1e-5", "a=b", "late fusion", "", "–"])
def test_numbers_and_words_stay(text: str) -> None:
    assert csv_text(text) == text
