"""Writes `loss_trace.json`: the training losses of a small network under each fusion strategy, to the last bit.

The tests compare what the code gives now with that file (`tests/test_loss_trace.py`), by the functions of this one.
Made again, by `make loss-trace`, only where a change of the numbers is meant.
"""

from __future__ import annotations

import json
import logging
import platform
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from mbt_lightning import (
    AudioVisualClassifier,
    Batch,
    Bottleneck,
    CrossAttention,
    DataSpec,
    EncoderSize,
    JointSelfAttention,
)

FILE = Path(__file__).parent.parent / "loss_trace.json"

STRATEGIES = {
    "JointSelfAttention": JointSelfAttention,
    "CrossAttention": CrossAttention,
    "Bottleneck, sequential": partial(Bottleneck, num_bottlenecks=4, update="sequential"),
    "Bottleneck, symmetric": partial(Bottleneck, num_bottlenecks=4, update="symmetric"),
}

SPEC = DataSpec({"rgb": (3, 2, 16, 16), "spectrogram": (1, 24, 16)}, ("dog", "cat", "owl", "bee", "cow"))
NETWORK = {
    "size": EncoderSize(dim=32, depth=4, num_heads=2),
    "patches": {"rgb": [1, 8, 8], "spectrogram": [8, 8]},
    "fusion_layer": 2,
    "drop_path": 0.2,
    "position_std": 1.0,
}
BATCHES, CLIPS, EPOCHS = 10, 6, 2
"""20 steps, over two epochs: the random numbers of a step depend on the epoch too."""


class Losses(L.Callback):
    """Notes the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))


def batches() -> list[Batch]:
    """Batches of noise with labels of noise, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(BATCHES):
        inputs = {m: torch.randn(CLIPS, *shape, generator=generator) for m, shape in SPEC.inputs.items()}
        targets = (torch.rand(CLIPS, len(SPEC.classes), generator=generator) < 0.3).float()
        made.append(
            Batch(
                targets=targets,
                index=torch.arange(CLIPS) + number * CLIPS,
                view=torch.zeros(CLIPS, dtype=torch.long),
                inputs=inputs,
            )
        )
    return made


def trace(strategy: str) -> list[float]:
    """The losses of all steps of a training with a strategy, on the CPU in float32 and in one thread.

    Args:
        strategy: a name in `STRATEGIES`.
    """
    threads, losses = torch.get_num_threads(), Losses()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = AudioVisualClassifier(  # the default task is Multilabel
                SPEC,
                fusion=STRATEGIES[strategy],
                optimizer=partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.05),
                warmup_fraction=0.1,
                label_smoothing=0.1,
                **NETWORK,
            )
            trainer = L.Trainer(
                accelerator="cpu",
                devices=1,
                precision="32-true",
                max_epochs=EPOCHS,
                gradient_clip_val=1.0,
                callbacks=[losses],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model, DataLoader(batches(), batch_size=None))
    finally:
        torch.set_num_threads(threads)
    return losses.losses


def machine() -> dict[str, str | int]:
    """What must be the same for the same bits: the processor, torch and the number of threads."""
    return {
        "cpu": cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": 1,
    }


def cpu() -> str:
    """The processor's model by name; on Linux also by its numbers, since a virtual machine's names are vague."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    if "model name" not in found:
        return platform.processor() or platform.machine()
    numbers = [f"{name} {found[name]}" for name in ("cpu family", "model", "stepping") if name in found]
    return ", ".join([found["model name"], *numbers])


def main() -> None:
    """Write the file."""
    losses = {name: [loss.hex() for loss in trace(name)] for name in STRATEGIES}
    FILE.write_text(json.dumps({"machine": machine(), "losses": losses}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
