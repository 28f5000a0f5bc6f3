"""A callback for tests: each process of a run writes down the settings that really reached it."""

import json
import os
from pathlib import Path

from lightning.pytorch import Callback


class ReportRank(Callback):
    def on_train_start(self, trainer, pl_module) -> None:
        group = trainer.optimizers[0].param_groups[0]
        network = pl_module.network
        reached = {
            "rank": trainer.global_rank,
            "clip": trainer.gradient_clip_val,
            "betas": list(group["betas"]),
            "decay": group["weight_decay"],
            "fusion": type(network.fusion).__name__,
            "fusion_layer": network.fusion_layer,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "is_main": "WANDB_RUN_ID" in os.environ,
        }
        folder = Path(os.environ["REPORTS"])
        (folder / f"{os.environ['WANDB_RUN_ID']}-{trainer.global_rank}.json").write_text(json.dumps(reached))
