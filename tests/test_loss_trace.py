"""The losses of 20 training steps under each fusion strategy are those on record, `goldens/loss_trace.json`.

To the last bit on the kind of machine that the record was made on; elsewhere to what another order of sums makes.
"""

import json

import pytest
from goldens.make.loss_trace import BATCHES, EPOCHS, FILE, STRATEGIES, machine, trace

RECORD = json.loads(FILE.read_text(encoding="utf-8"))
LOSSES = {name: [float.fromhex(loss) for loss in losses] for name, losses in RECORD["losses"].items()}
IS_SAME_MACHINE = machine() == RECORD["machine"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_are_those_on_record(strategy: str) -> None:
    limit = 0.0 if IS_SAME_MACHINE else 1e-5
    assert trace(strategy) == pytest.approx(LOSSES[strategy], rel=limit, abs=0.0)


def test_the_record_tells_the_strategies_apart() -> None:
    """What no strategy changes would guard none of them."""
    assert LOSSES.keys() == STRATEGIES.keys()
    assert all(len(losses) == BATCHES * EPOCHS for losses in LOSSES.values())
    assert len({losses[-1] for losses in LOSSES.values()}) == len(STRATEGIES)
