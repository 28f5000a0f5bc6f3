"""Stopping a run: all processes stop at the same step, and save a checkpoint to resume from."""

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

SYNC_SECONDS = 1.0
"""Interval at which the processes synchronise, if steps are faster."""

SYNC_STEPS = 20
"""Most steps between synchronisations: the pace may drop."""


class Stop(L.Callback):
    """Ends a run after SIGTERM or Ctrl-C to any process, by Lightning's own `SIGTERMException`.

    Lightning starts a collective operation inside its signal handler, which waits forever if the ranks are at different
    places. Here the signal is only recorded (see `process.Signals`), and the ranks synchronise at the end of a batch,
    at steps that they have agreed on.

    Args:
        state: of the run; it records the failure of another rank, which may be the last action of this process.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.every = self.left = 1
        self.since = time.monotonic()
        self.watched = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Replace Lightning's signal handling, and watch the other ranks."""
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
        except ChildProcessError:  # already collected elsewhere
            return
        if ended and ended.si_status:
            how = "code" if ended.si_code == os.CLD_EXITED else "signal"
            self.state.end("failed", 1, f"process {rank} of the run ended with {how} {ended.si_status}", is_over=False)

    def must_stop(self, trainer: L.Trainer) -> bool:
        """Whether any process received a signal; every process must call this at the same steps."""
        self.left -= 1
        if self.left > 0:
            return False
        now = time.monotonic()
        mine = torch.tensor([SIGNALS.received, (now - self.since) / self.every], device=trainer.strategy.root_device)
        number, pace = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self.every = self.left = max(1, min(SYNC_STEPS, int(SYNC_SECONDS / max(pace, 1e-6))))
        self.since = now
        SIGNALS.agreed = int(number)
        return bool(number)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Let Lightning stop as soon as the step is logged; never between accumulated batches."""
        if not is_accumulating(trainer) and self.must_stop(trainer):
            request_stop(trainer)

    def on_validation_start(self, trainer, pl_module) -> None:
        """Start no validation after what should be the last step."""
        if SIGNALS.agreed:
            raise SIGTERMException
        self.left = 1

    def on_test_start(self, trainer, pl_module) -> None:
        self.left = 1

    def stop_now(self, trainer: L.Trainer) -> None:
        if self.must_stop(trainer):
            raise SIGTERMException

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.stop_now(trainer)
