"""A run that is asked to stop: all processes do so at the same step, and leave a checkpoint to go on from."""

from __future__ import annotations

import os
import threading
import time
from subprocess import Popen

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mbt_lightning.process import SIGNALS
from mbt_lightning.runs.state import RunState
from mbt_lightning.training.lightning_internals import (
    is_accumulating,
    rank_processes,
    request_stop,
    silence_sigterm_handler,
)

ASK_SECONDS = 1.0
"""So often the processes ask each other, where a step is faster than that."""

ASK_STEPS = 20
"""And at least every so many steps: their pace may fall."""


class Stop(L.Callback):
    """Ends a run for SIGTERM and Ctrl-C, whichever process was told, by Lightning's own `SIGTERMException`.

    Lightning's handler starts a collective operation from inside of the signal, which waits for ever where the ranks
    are at different places. Here the signal is noted only (see `process.Signals`), and the ranks ask each other at the
    end of a batch, at steps that they have agreed upon.

    Args:
        state: of the run; it is told when another rank fails, which may be the last thing that this process does.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.every = self.left = 1
        self.since = time.monotonic()
        self.watched = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the signals over from Lightning, which calls our handler behind its own; watch the other ranks."""
        SIGNALS.deferred = True
        silence_sigterm_handler(trainer)
        if not self.watched:
            self.watched = True
            for number, child in enumerate(rank_processes(trainer), start=1):
                threading.Thread(target=self.watch, args=(child, number), daemon=True).start()

    def watch(self, child: Popen, rank: int) -> None:
        """Wait for the end of another rank's process: if it failed, Lightning may kill this one within seconds."""
        if not hasattr(os, "waitid"):
            return
        try:
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # somebody else was told first
            return
        if ended and ended.si_status:
            how = "code" if ended.si_code == os.CLD_EXITED else "signal"
            self.state.end("failed", 1, f"process {rank} of the run ended with {how} {ended.si_status}", is_over=False)

    def is_asked(self, trainer: L.Trainer) -> bool:
        """Whether any process was asked to stop; every process must call this at the same steps."""
        self.left -= 1
        if self.left > 0:
            return False
        now = time.monotonic()
        mine = torch.tensor([SIGNALS.received, (now - self.since) / self.every], device=trainer.strategy.root_device)
        number, pace = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self.every = self.left = max(1, min(ASK_STEPS, int(ASK_SECONDS / max(pace, 1e-6))))
        self.since = now
        SIGNALS.agreed = int(number)
        return bool(number)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Let Lightning stop as soon as the step is logged; never between accumulated batches."""
        if not is_accumulating(trainer) and self.is_asked(trainer):
            request_stop(trainer)

    def on_validation_start(self, trainer, pl_module) -> None:
        """Begin no validation behind a step that was to be the last."""
        if SIGNALS.agreed:
            raise SIGTERMException
        self.left = 1

    def on_test_start(self, trainer, pl_module) -> None:
        """Ask behind the first batch."""
        self.left = 1

    def stop_now(self, trainer: L.Trainer) -> None:
        """Stop at the end of a batch of evaluation."""
        if self.is_asked(trainer):
            raise SIGTERMException

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)
