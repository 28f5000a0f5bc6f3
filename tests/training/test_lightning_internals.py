"""The doors into Lightning that no documentation promises are where `training/lightning_internals.py` looks for them.

When a new version moves one, the test named after it fails, and that file is the only one to change.
"""

import ast
import re
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

import mbt_lightning
from mbt_lightning.training import lightning_internals as internals

PACKAGE = Path(mbt_lightning.__file__).parent
PUBLIC_ANYWAY = ("os._exit", "._fields", "._replace", "._asdict")


class Model(L.LightningModule):
    """Two weights that learn nothing; stops its trainer on request."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.stop_at, self.accumulating = stop_at, []

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.accumulating.append(internals.is_accumulating(self.trainer))
        if batch_idx == self.stop_at:
            internals.request_stop(self.trainer)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(tmp_path: Path, **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**quiet, default_root_dir=tmp_path, enable_checkpointing=False, max_epochs=2, **settings)


def batches() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=1)


def test_a_stop_ends_the_training_after_the_step(tmp_path) -> None:
    ours, model = trainer(tmp_path), Model(stop_at=1)
    internals.silence_sigterm_handler(ours)
    try:
        ours.fit(model, batches())
        raise AssertionError("the training was not stopped")
    except SIGTERMException:
        assert ours.global_step == 2


def test_accumulated_batches_are_recognised(tmp_path) -> None:
    model = Model()
    trainer(tmp_path, accumulate_grad_batches=2).fit(model, batches())
    assert model.accumulating == [True, False] * 4


def test_a_process_alone_has_no_other_ranks(tmp_path) -> None:
    assert list(internals.rank_processes(trainer(tmp_path))) == []


def test_progress_is_restored_and_a_validation_marked(tmp_path) -> None:
    first = trainer(tmp_path)
    first.fit(Model(), batches())
    first.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert internals.VALIDATION_PROGRESS in content["loops"]["fit_loop"]
    internals.mark_validation_started(content)
    assert content["loops"]["fit_loop"][internals.VALIDATION_PROGRESS]["current"]["ready"] == 1
    second = trainer(tmp_path)
    internals.restore_fit_progress(second, content)
    assert (second.global_step, second.current_epoch) == (first.global_step, 2)


def test_no_other_file_opens_a_private_door() -> None:
    """Names that start with an underscore belong to whoever defined them: a file may use those of its own classes."""
    strangers = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "lightning_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
                name = ast.unparse(node)
                if not re.match(r"(self|cls)\._\w+$", name) and not name.endswith(PUBLIC_ANYWAY):
                    strangers.append(f"{path.name}:{node.lineno} {name}")
            elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("mbt_lightning"):
                names = [alias.name for alias in node.names if re.match("_[a-zA-Z]", alias.name)]
                strangers += [f"{path.name}:{node.lineno} {name}" for name in names]
    assert strangers == []
