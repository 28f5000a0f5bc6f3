"""A callback for tests: something in a training becomes a number that is not finite."""

import math

import lightning as L

PARAMETER = "network.head.linear.weight"


class Break(L.Callback):
    """Spoils something before the second step.

    Args:
        what: `inputs` (of the last rank), `gradients`, or `weights` behind that step.
        value: what is put there.
    """

    def __init__(self, what: str, value: float = math.nan) -> None:
        self.what, self.value = what, value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.what == "inputs" and trainer.global_step == 1 and trainer.global_rank == trainer.world_size - 1:
            batch.inputs["rgb"].fill_(self.value)

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.what == "gradients" and trainer.global_step == 1:
            pl_module.get_parameter(PARAMETER).grad[0, 0] = self.value

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        if self.what == "weights" and trainer.global_step == 2:
            pl_module.get_parameter(PARAMETER).data.fill_(self.value)
