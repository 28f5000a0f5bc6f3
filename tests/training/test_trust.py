"""What a weight file may name: classes of this package and optimisers; nothing else in it is imported or called."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from paths import EXPERIMENTS
from safetensors.torch import save_file

from mbt_lightning.cli.main import main
from mbt_lightning.config.trusted import take_trust
from mbt_lightning.errors import UserError
from mbt_lightning.table.wandb_runs import config_of
from mbt_lightning.training.checkpoint import load_checkpoint, read_checkpoint
from mbt_lightning.training.saving import WholeFiles
from mbt_lightning.training.trust import check_config

POINT = str(EXPERIMENTS / "bottleneck_b4_lf8.yaml")
TINY = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "2", "--data.num_workers", "0"]
CPU = ["--trainer.accelerator", "cpu"]

PLUGIN = """
from pathlib import Path
from mbt_lightning.model.fusion import CrossAttention

Path(__file__).with_name("imported").touch()

class Mine(CrossAttention):
    pass

def make(geometry) -> CrossAttention:
    return CrossAttention(geometry)
"""


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory) -> Path:
    """Folder of a tiny run."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["--data.manifest", str(demo), "--runs", str(runs), "--data.batch_size", "8", "--trainer.max_epochs", "1"]
    main(["fit", "--config", POINT, *TINY, *words, *CPU])
    os.environ.pop("MBT_RUN_FOLDER")
    return next((runs / "bottleneck_b4_lf8").iterdir())


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run in an empty folder with a module of the user's own, which tells that it was imported; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{abs(hash(str(tmp_path)))}"
    Path(f"{name}.py").write_text(PLUGIN)
    return name


def harm(name: str = "os.system") -> dict:
    """A configuration that would have a command run."""
    return {"class_path": name, "init_args": {"command": "touch harmed"}}


def changed(run: Path, place: str, value, suffix: str = ".ckpt") -> str:
    """A real checkpoint whose configuration says something else in one place; its path."""
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    about = content["mbt_lightning"]
    *path, last = place.split("/")
    within = about
    for key in path:
        within = within[key]
    within[last] = value
    if suffix == ".ckpt":
        torch.save(content, "x.ckpt")
    else:
        tensors = {k.removeprefix("network."): x.contiguous() for k, x in content["state_dict"].items()}
        save_file(tensors, "x.safetensors", {"mbt_lightning": json.dumps(about)})
    return f"x{suffix}"


def line_of(capsys, *words: str) -> str:
    """The one line with which the program refuses."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def is_unharmed() -> bool:
    """Whether no command was run and the user's module was not imported."""
    return not Path("harmed").exists() and not Path("imported").exists()


HOSTILE = {
    "a class path": ("config/model/fusion", harm()),
    "a bare name": ("config/model/fusion", "os.system"),
    "a task": ("config/model/task", harm("subprocess.getoutput")),
    "what our module has imported": ("config/model/fusion", harm("mbt_lightning.cli.main.os.system")),
    "a foreign class in our module": ("config/model/fusion", harm("mbt_lightning.runs.folder.Path")),
    "a function of ours": ("config/model/fusion", harm("mbt_lightning.cli.main.main")),
    "a class of ours elsewhere": ("config/model/fusion", harm("mbt_lightning.data.mixup.Mixup")),
    "within the settings of a class": ("config/model/fusion/init_args/update", harm()),
    "settings that no class has": ("config/model/fusion", {"init_args": {"update": "x"}}),
    "a dotted name": ("config/model/fusion.class_path", "os.system"),
    "settings in a file": ("config/model/fusion", "evil.yaml"),
    "settings as text": ("config/model/fusion", "{class_path: os.system, init_args: {command: touch harmed}}"),
    "in plain settings": ("config/model/size", harm()),
    "in plain values": ("config/model/patches/rgb", [harm()]),
}
"""Of what every use of a model builds: the place and what stands there."""


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", HOSTILE)
def test_loading_refuses(name: str, suffix: str, run: Path) -> None:
    file = changed(run, *HOSTILE[name], suffix)
    Path("evil.yaml").write_text(yaml.safe_dump(harm()))
    with pytest.raises(UserError, match=rf"^x\{suffix}: its .*: a weight file may name") as caught:
        load_checkpoint(file)
    assert is_unharmed() and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_all_settings_in_a_file_are_refused(suffix: str, run: Path) -> None:
    Path("evil.yaml").write_text(yaml.safe_dump({"fusion": harm()}))
    with pytest.raises(UserError, match=r"not a checkpoint|not written by mbt"):
        load_checkpoint(changed(run, "config/model", "evil.yaml", suffix))
    assert is_unharmed()


def test_the_refusal_names_place_value_and_fix(run: Path, plugin: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(changed(run, "config/model/fusion/class_path", f"{plugin}.Mine"))
    text = str(caught.value)
    assert f"x.ckpt: its model.fusion is '{plugin}.Mine', which is not ours" in text
    assert f"--trust {plugin}" in text and f"trust=('{plugin}',)" in text
    assert is_unharmed(), "a name that is refused is not imported"


def test_classes_and_shapes_are_checked_too(run: Path) -> None:
    with pytest.raises(UserError, match=r"model\.spec"):
        load_checkpoint(changed(run, "spec", harm()))
    assert is_unharmed()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        HOSTILE["a class path"],
        HOSTILE["what our module has imported"],
        ("config/data/sampler", harm()),
        ("config/data/inputs/rgb/init_args/crop", "os.system"),
        ("config/data/inputs/spectrogram/init_args/transform", harm("mbt_lightning.training.recorder.subprocess.run")),
        ("config/data/inputs/spectrogram/init_args/transform/init_args/mean", harm()),
    ],
)
def test_the_program_refuses(place: str, value, suffix: str, run: Path, capsys) -> None:
    file = changed(run, place, value, suffix)
    message = "its " + ".".join(place.split("/")[1:3])
    for words in (["test"], ["validate"], ["predict", "a.mp4"], ["cost"]):
        assert message in line_of(capsys, *words, "--ckpt_path", file)
    assert message in line_of(capsys, "export", file, "--out", "out")
    Path("overlay.yaml").write_text(f"ckpt_path: {file}\n")
    assert message in line_of(capsys, "fit", "--config", "overlay.yaml")
    assert is_unharmed() and not list(Path(".").glob("runs/*/*")) and not Path("out").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("config/model/optimizer", harm()),
        ("config/model/optimizer", "os.system"),
        ("config/model/optimizer", "mbt_lightning.training.module.warmup_cosine"),
        ("config/model/init", harm()),
        ("config/model/mixup", harm("mbt_lightning.cli.main.os.system")),
        ("config/trainer/plugins", [harm()]),
        ("config/trainer/profiler", harm()),
        ("config/trainer", "evil.yaml"),
    ],
)
def test_going_on_refuses(place: str, value, run: Path, capsys) -> None:
    """What only a training builds."""
    message = line_of(capsys, "fit", "--ckpt_path", changed(run, place, value), *CPU)
    assert "its " + ".".join(place.split("/")[1:3]) in message and is_unharmed()


def test_what_only_a_training_has_is_not_built_for_a_model(run: Path, demo: Path) -> None:
    config = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["mbt_lightning"]["config"]
    config["model"] |= dict.fromkeys(("optimizer", "init", "mixup"), harm())
    config["trainer"] |= {key: [harm()] for key in ("callbacks", "logger", "plugins")}
    file = changed(run, "config", config)
    load_checkpoint(file)
    main(["cost", "--ckpt_path", file])
    main(["export", file, "--out", "out"])
    clip = str(next(demo.parent.rglob("*.mp4")))
    for words in (["test"], ["validate"], ["predict", clip]):
        main([*words, "--ckpt_path", file, *CPU])
        os.environ.pop("MBT_RUN_FOLDER")
    assert is_unharmed() and "os.system" not in Path("out/experiment.yaml").read_text()


def test_callbacks_of_a_file_are_not_built(run: Path) -> None:
    file = changed(run, "config/trainer/callbacks", [harm()])
    main(["fit", "--ckpt_path", file, "--trainer.max_epochs", "2", *CPU])
    assert is_unharmed()


def test_starting_weights_are_checked(run: Path, capsys, demo) -> None:
    file = changed(run, "config/model/fusion", harm())
    words = ["--data.manifest", str(demo), "--model.init", "Checkpoint", "--model.init.path", file, *TINY, *CPU]
    assert "its model.fusion" in line_of(capsys, "fit", "--config", POINT, *words) and is_unharmed()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_old_names_import_nothing(suffix: str, run: Path, plugin: str) -> None:
    """Settings of version 0.1 are moved to the class that a file names, before its names are checked."""
    content = read_checkpoint(run / "checkpoints/last.ckpt")["mbt_lightning"]["config"]["model"]
    model = content | {"head": {"class_path": f"{plugin}.Mine"}, "representation_size": 3}
    with pytest.raises(UserError, match=r"its model\.head is .* which is not ours"):
        load_checkpoint(changed(run, "config/model", model, suffix))
    assert is_unharmed()
    config_of({"model.head.class_path": f"{plugin}.Mine", "model.representation_size": 3})
    assert is_unharmed(), "nor does what W&B answers"


OVERLAYS = {
    "the optimiser": {"model": {"optimizer": harm()}},
    "a part of a class": {"model": {"fusion": {"init_args": {"update": harm()}}}},
    "settings of a class elsewhere": {"data": {"inputs": {"rgb": {"crop": "os.system"}}}},
    "a logger": {"trainer": {"logger": harm()}},
    "a callback of Lightning": {"trainer": {"callbacks": {"class_path": "lightning.pytorch.callbacks.Timer"}}},
    "a dotted name": {"model.optimizer": "os.system"},
    "another folder": {"runs": "../outside"},
    "a folder of the trainer": {"trainer": {"logger": True, "default_root_dir": "../outside"}},
    "its base": {"base": "base.yaml"},
}
"""What an experiment file may not say that came with weights."""


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_experiment_file_beside_its_weights(name: str, run: Path, capsys) -> None:
    Path("in").mkdir()
    Path(changed(run, "config/experiment", "x")).rename("in/x.ckpt")
    Path("in/base.yaml").write_text(yaml.safe_dump({"model": {"optimizer": harm()}}))
    overlay = {"ckpt_path": "x.ckpt"} | OVERLAYS[name]
    Path("in/experiment.yaml").write_text(yaml.safe_dump(overlay))
    for words in (["test"], ["predict", "a.mp4"], ["fit"], ["cost"]):
        message = line_of(capsys, *words, "--config", "in/experiment.yaml")
        assert ("in/base.yaml: its " if name == "its base" else "in/experiment.yaml: its ") in message
        assert "an experiment file beside its weights may name" in message
    assert is_unharmed() and not Path("runs").exists()


def test_an_own_class_in_an_experiment_file_beside_its_weights(run: Path, plugin: str, capsys) -> None:
    changed(run, "config/experiment", "x")
    overlay = {
        "ckpt_path": "x.ckpt",
        "model": {"fusion": f"{plugin}.Mine"},
        "data": {"inputs": {"rgb": {"frame_size": 32}}},
    }
    Path("experiment.yaml").write_text(yaml.safe_dump(overlay))
    assert f"--trust {plugin}" in line_of(capsys, "cost", "--config", "experiment.yaml") and is_unharmed()
    Path("own.yaml").write_text(yaml.safe_dump(overlay | {"ckpt_path": str(Path("x.ckpt").absolute())}))
    main(["cost", "--config", "own.yaml"])
    assert Path("imported").exists(), "a file that names weights elsewhere is the user's own"


class TestTrust:
    def test_by_argument(self, run: Path, plugin: str) -> None:
        """The weights do not fit another strategy: it is built, and this is reported."""
        file = changed(run, "config/model/fusion", {"class_path": f"{plugin}.Mine"})
        with pytest.raises(UserError, match="cannot be built again"):
            load_checkpoint(file, trust=(plugin,))
        assert Path("imported").exists()

    def test_by_option_and_environment(self, run: Path, plugin: str, capsys, monkeypatch) -> None:
        file = changed(run, "config/model/fusion", {"class_path": f"{plugin}.Mine"})
        main(["cost", "--trust", f"another,{plugin}", f"--ckpt_path={file}"])
        assert "Mine" in capsys.readouterr().out and os.environ["MBT_TRUST"] == f"another,{plugin}"
        assert "does not fit this model" in line_of(capsys, "test", "--ckpt_path", file, *CPU)
        monkeypatch.delenv("MBT_TRUST")
        assert "which is not ours" in line_of(capsys, "test", "--ckpt_path", file, *CPU)

    @pytest.mark.parametrize("trust", [("os",), ("mbt_lightning.cli.main",), ("posix",)])
    def test_functions_need_their_own_name(self, trust, run: Path) -> None:
        for name in ("os.system", "mbt_lightning.cli.main.os.system"):
            with pytest.raises(UserError, match=r"its model\.fusion"):
                load_checkpoint(changed(run, "config/model/fusion", harm(name)), trust=trust)
        assert is_unharmed()

    def test_a_function_by_its_own_name(self, plugin: str) -> None:
        config = {"model": {"fusion": f"{plugin}.make"}}
        with pytest.raises(UserError, match="not a class"):
            check_config(config, "x", [plugin])
        check_config(config, "x", [f"{plugin}.make"])

    def test_ones_own_runs_are_trusted(self, run: Path, plugin: str) -> None:
        """By `last` and `best` of an experiment, which the user has trained."""
        folder = Path("runs/mine/1/checkpoints")
        folder.mkdir(parents=True)
        Path(changed(run, "config/model/fusion", {"class_path": f"{plugin}.Mine"})).rename(folder / "best.ckpt")
        main(["cost", "--experiment", "mine", "--ckpt_path", "best"])
        assert Path("imported").exists()

    def test_the_option(self) -> None:
        assert take_trust(["test", "--trust", "a.b", "--x=1=2", "--trust=c,d"]) == ["test", "--x=1=2"]
        assert os.environ["MBT_TRUST"] == "a.b,c,d"
        for words in (["--trust"], ["--trust="], ["--trust", "a,"], ["--trust", "a b"], ["--trust", "[a]"]):
            with pytest.raises(UserError, match="is not the name of a Python module"):
                take_trust(words)


@pytest.mark.parametrize(
    "part",
    [
        {"optimizer": "mbt_lightning.training.module.sgd"},
        {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}}},
        {"optimizer": {"class_path": "torch.optim.adamw.AdamW"}},
        {"optimizer": "SGD"},
        {"fusion": "Bottleneck", "task": "mbt_lightning.training.tasks.Multihead", "size": "b"},
        {"fusion": {"class_path": "mbt_lightning.Bottleneck", "init_args": {"num_bottlenecks": 4}}},
        {"mixup": {"class_path": "ModalityMixup", "init_args": {"alpha": 0.3}}},
        {
            "init": {
                "class_path": "mbt_lightning.model.pretrained.init.PerModality",
                "init_args": {"sources": {"rgb": {"class_path": "GoogleViT", "init_args": {"path": "a/b.c.npz"}}}},
            }
        },
    ],
)
def test_what_runs_write_passes(part: dict) -> None:
    check_config({"experiment": "x", "seed_everything": 0, "model": part}, "x")


def test_a_runs_own_file_passes(run: Path) -> None:
    path = run / "checkpoints/last.ckpt"
    check_config(read_checkpoint(path)["mbt_lightning"]["config"], path)


def test_whatever_lightning_reads_runs_no_code() -> None:
    """The best checkpoint is named by the state in another one, and may be anywhere."""

    class Harm:
        def __reduce__(self):
            return (Path.touch, (Path("harmed"),))

    torch.save(Harm(), "x.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        WholeFiles().load_checkpoint("x.ckpt", weights_only=False)
    assert is_unharmed()
