"""The import map of the house, held by reading the source: who may know whom, and where the heavy packages are."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from paths import PROJECT

import mbt_lightning

PACKAGE = Path(mbt_lightning.__file__).parent
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str, top_level: bool = False) -> set[str]:
    """Full names of what a file imports, anywhere or (`top_level`) as soon as it is imported itself."""
    found: set[str] = set()
    nodes = [TREES[name]]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            # `from package import module` names a module too, where there is one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not (top_level and waits(node)):
            nodes += ast.iter_child_nodes(node)
    return found


def waits(node: ast.AST) -> bool:
    """Whether what stands in a node is not run when its file is imported: functions, and what is for checkers only."""
    is_for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return is_for_checkers or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def ours(name: str) -> set[str]:
    """Files of this package that a file imports, without the package's name."""
    found = set()
    for full in imports(name):
        if full.startswith("mbt_lightning."):
            path = full.removeprefix("mbt_lightning.")
            known = next((p for p in (path, path.rpartition(".")[0]) if p in FILES or f"{p}.__init__" in FILES), None)
            assert known, f"{name} imports {full}, which is no file"
            found.add(known)
    return found


def theirs(name: str, top_level: bool = False) -> set[str]:
    """Other packages that a file imports."""
    return {full.split(".")[0] for full in imports(name, top_level)} - {"mbt_lightning", "__future__"}


def inside(*places: str) -> list[str]:
    return [name for name in FILES if name in places or name.startswith(tuple(f"{p}." for p in places))]


def is_in(name: str, *places: str) -> bool:
    return name in inside(*places)


def test_the_map_is_of_real_files() -> None:
    assert {"model.mbt", "model.fusion", "data.decode", "data.datamodule", "module", "tasks", "cli"} <= FILES.keys()
    assert "model.blocks" in ours("model.mbt") and "torch" in theirs("model.mbt", top_level=True)


@pytest.mark.parametrize(
    ("place", "may_know"),
    [
        ("model", ("model", "errors")),
        ("data", ("data", "errors", "process")),
        ("process", ()),
        ("state", ("errors",)),
        ("tasks", ("data.records", "errors")),
        ("module", ("model", "data.records", "data.mixup", "data.sampling", "tasks", "errors")),
        ("wandb_end", ("errors",)),
        ("wandb_logger", ("wandb_end", "settings", "errors")),
        ("lab.from_wandb", ("lab.results", "wandb_end", "settings", "errors")),
        ("errors", ()),
        ("yaml_files", ("errors",)),
        ("lab.distributions", ("errors",)),
        ("lab.sweepfile", ("lab.distributions", "yaml_files", "errors")),
        ("lab.bayes", ("lab.distributions", "lab.sweepfile", "errors")),
        ("settings", ("model.size", "errors")),
        ("lab.arithmetic", ("model.size", "errors")),
        ("lab.results", ("settings", "lab.ledger", "errors")),
        ("lab.paper", ("settings", "model.size", "lab.arithmetic", "errors")),
        ("lab.points", ("settings", "lab.arithmetic", "lab.paper", "lab.results", "errors")),
        ("lab.compare", ("settings", "lab.points", "lab.paper", "lab.results", "errors")),
        ("model.fusion", ("errors",)),  # blocks are handed to it
        ("model.blocks", ("errors",)),
        ("model.tokens", ("errors",)),
        ("data.records", ("errors",)),
        ("data.sampling", ("errors",)),
    ],
)
def test_imports_point_one_way(place, may_know) -> None:
    strangers = {f"{name} -> {other}" for name in inside(place) for other in ours(name) if not is_in(other, *may_know)}
    assert strangers == set()


def test_training_does_not_know_the_lab_nor_the_program() -> None:
    """Only the program may know the lab, and only when one of its tools is called."""
    for name in FILES:
        if not is_in(name, "__main__", "cli", "lab"):
            assert not [other for other in ours(name) if is_in(other, "__main__", "cli", "lab")], name
    assert not [full for full in imports("cli", top_level=True) if full.startswith("mbt_lightning.lab")]


def test_codecs_are_known_where_they_are_used() -> None:
    for package in ("decord", "torchcodec"):
        assert {name for name in FILES if package in theirs(name)} == {"data.frames"}
    assert {name for name in FILES if "av" in theirs(name)} == {
        "data.probe",
        "data.frames",
        "data.sound",
        "data.shards",
        "data.demo",
        "data.prepare.probe",
        "lab.reencode",
    }
    assert "av" not in theirs("data.demo", top_level=True)


@pytest.mark.parametrize(
    "package",
    [
        *("wandb", "matplotlib", "timm", "decord", "torchcodec", "tensorboard", "sklearn", "litdata", "simplejpeg"),
        *("optuna", "scipy", "submitit"),
    ],
)
def test_heavy_packages_wait_until_they_are_needed(package) -> None:
    assert [name for name in FILES if package in theirs(name, top_level=True)] == []


@pytest.mark.parametrize("name", ["wandb_end", "lab.from_wandb"])
def test_some_imports_need_no_torch(name) -> None:
    code = f"import sys, mbt_lightning.{name}; print([m for m in ('torch', 'lightning', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "mbt_lightning",
        "mbt_lightning.model.mbt",
        "mbt_lightning.data.demo",
        "mbt_lightning.process",
        "mbt_lightning.runs.state",
    ],
)
def test_importing_is_light(name) -> None:
    heavy = ("decord", "av", "wandb", "matplotlib", "lightning", "torchmetrics")
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    assert 10 <= len(mbt_lightning.__all__) <= 20
    for name in mbt_lightning.__all__:
        assert getattr(mbt_lightning, name).__name__ == name


def test_what_is_imported_is_declared() -> None:
    """A package that comes only with another one may be gone with its next version."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[\s\[<>=!~;@]", line, maxsplit=1)[0].lower() for line in lines}

    def undeclared(top_level: bool, declared: set[str]) -> set[str]:
        spelled = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
        used = {other for name in FILES for other in theirs(name, top_level)} - set(sys.stdlib_module_names)
        return {other for other in used if spelled.get(other, other).lower() not in declared}

    assert undeclared(top_level=True, declared=names(needed)) == set()
    assert undeclared(top_level=False, declared=names(needed + extras)) == set()


def test_what_is_public_has_a_docstring() -> None:
    """The public names, among them every class that YAML may name, and every file."""
    assert [name for name in mbt_lightning.__all__ if not getattr(mbt_lightning, name).__doc__] == []
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []
