"""The import map of the house, held by reading the source: who may know whom, and where the heavy packages are."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
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


LEVELS = (
    {"cli"},
    {"table"},
    {"sweep", "training"},
    {"runs"},
    {"config", "datasets"},
    {"data", "model"},
    {"disk", "process"},
    {"errors"},
)
"""Folders and root files from the program down: each may know itself and what is on the levels below it."""

MAY_ALSO = {"sweep": {"runs", "config"}, "table": {"sweep", "runs", "config"}, "runs": {"config"}, "process": set()}
"""Where the map is stricter than the levels: all that these may know of the other folders."""

LONE_FILES = {
    "model.fusion": {"errors"},  # blocks are handed to it
    "model.blocks": {"errors"},
    "model.tokens": {"errors"},
    "data.sampling": {"errors"},
    "training.tasks": {"data.records", "errors"},
}
"""Files that know less than their folder may."""

PUBLIC_ANYWAY = {"__init__", "__main__"}


def place_of(name: str) -> str:
    """The folder of a file, or the file itself where it is at the root."""
    return name.split(".")[0]


def known_by(place: str) -> set[str]:
    """The folders and root files that a folder may import."""
    level = next(i for i, places in enumerate(LEVELS) if place in places)
    below = {other for places in LEVELS[level + 1 :] for other in places}
    folders = {"cli", "table", "sweep", "training", "runs", "config", "datasets", "data", "model"}
    return {place} | (below - folders | MAY_ALSO[place] if place in MAY_ALSO else below)


def test_every_file_is_on_a_level() -> None:
    places = {place_of(name) for name in FILES} - PUBLIC_ANYWAY
    assert places == set().union(*LEVELS)


@pytest.mark.parametrize("place", sorted(set().union(*LEVELS)))
def test_imports_point_one_way(place) -> None:
    may_know = known_by(place)
    strangers = {
        f"{name} -> {other}"
        for name in FILES
        if place_of(name) == place
        for other in ours(name)
        if place_of(other) not in may_know
    }
    assert strangers == set()


@pytest.mark.parametrize(("name", "may_know"), LONE_FILES.items())
def test_some_files_know_less_than_their_folder(name, may_know) -> None:
    assert ours(name) <= may_know


def test_no_two_files_import_each_other() -> None:
    graph = {name: {other for other in ours(name) if other != name} for name in FILES}
    while free := {name for name, known in graph.items() if not known & graph.keys()}:
        graph = {name: known for name, known in graph.items() if name not in free}
    assert sorted(graph) == [], "these files import each other in a circle"


def test_file_names_are_unique_and_folders_small() -> None:
    names = Counter(name.split(".")[-1] for name in FILES if not name.endswith("__init__"))
    assert [name for name, count in names.items() if count > 1] == []
    folders = Counter(name.rpartition(".")[0] for name in FILES if not name.endswith("__init__"))
    assert {folder: count for folder, count in folders.items() if count > 16} == {}
    assert {name for name in FILES if "." not in name} == {"__init__", "__main__", "disk", "errors", "process"}


def test_shared_helpers_exist_once() -> None:
    """Files that replace others, hints at similar names and the liveness of processes each have one home."""
    calls = {
        name: {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)} for name, tree in TREES.items()
    }
    assert {name for name in FILES if "difflib" in theirs(name)} == {"errors"}
    assert {name for name, used in calls.items() if "os.fsync" in used} == {"disk"}
    assert {name for name, used in calls.items() if "os.kill" in used and "signal" not in theirs(name)} <= {"process"}


def test_codecs_are_known_where_they_are_used() -> None:
    for package in ("decord", "torchcodec"):
        assert {name for name in FILES if package in theirs(name)} == {"data.media.frames"}
    assert {name for name in FILES if "av" in theirs(name)} == {
        "data.media.probe",
        "data.media.frames",
        "data.media.sound",
        "data.media.shard_records",
        "data.demo",
        "datasets.examine",
        "data.sharding.reencode",
    }
    assert "av" not in theirs("data.demo", top_level=True)


@pytest.mark.parametrize(
    "package",
    [
        *("wandb", "matplotlib", "timm", "decord", "torchcodec", "tensorboard", "sklearn", "litdata", "simplejpeg"),
        *("optuna", "scipy", "submitit", "pandas", "jinja2", "bokeh", "tabulate"),
    ],
)
def test_heavy_packages_wait_until_they_are_needed(package) -> None:
    assert [name for name in FILES if package in theirs(name, top_level=True)] == []


@pytest.mark.parametrize(
    "name", ["training.wandb_exit", "table.wandb_runs", "cli.main", "cli.sweep", "cli.table", "cli.doctor", "__main__"]
)
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
    assert len(mbt_lightning.__all__) > 40
    for name in mbt_lightning.__all__:
        assert getattr(mbt_lightning, name).__name__ == name


def test_what_is_imported_is_declared() -> None:
    """A package that comes only with another one may be gone with its next version."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[\s\[<>=!~;@]", line, maxsplit=1)[0].lower() for line in lines}

    def undeclared(files: Iterable[str], top_level: bool, declared: set[str]) -> set[str]:
        spelled = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
        used = {other for name in files for other in theirs(name, top_level)} - set(sys.stdlib_module_names)
        return {other for other in used if spelled.get(other, other).lower() not in declared}

    # `mbt table` names its extra before it imports the folder.
    core = [name for name in FILES if place_of(name) != "table"]
    assert undeclared(core, top_level=True, declared=names(needed)) == set()
    assert undeclared(FILES, top_level=False, declared=names(needed + extras)) == set()


def test_what_is_public_has_a_docstring() -> None:
    """The public names, among them every class that YAML may name, and every file."""
    assert [name for name in mbt_lightning.__all__ if not getattr(mbt_lightning, name).__doc__] == []
    assert [name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []
