"""How closely our model agrees with the authors' code: the largest differences on every reference in the repository.

    python benchmarks/parity.py [--save]

References are arrays that the authors' Flax code computed (tests/goldens/README.md). Compared are, in float32 on the
CPU: the fused logits of the fast path (the last layer updates only the tokens that the head reads) and of the slow one;
all tokens; the gradients of all parameters, where the reference has them (relative, of the worst parameter; without the
attention biases of the keys, whose gradient is zero up to rounding); and the logits with bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import measure
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from authors import Reference, differences, references

HEAD = ["reference", "largest logit", "logits, fast", "logits, slow", "tokens", "gradients", "logits, bfloat16"]
LIMITS = ["limit", "", "2e-05", "2e-05", "5e-05", "1e-04", "5e-02"]


def row(reference: Reference) -> list[str]:
    """A line of the table."""
    found = differences(reference)
    small = [f"{found[name]:.1e}" for name in ("logits", "slow", "tokens")]
    gradients = f"{max(reference.gradient_errors().values()):.1e}" if reference.part("grad/") else ""
    largest_logit = np.abs(reference.arrays["out/logits"]).max()
    return [reference.name, f"{largest_logit:.2f}", *small, gradients, f"{reference.bfloat16_difference():.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the table to benchmarks/results/")
    parser.set_defaults(device="cpu", threads=torch.get_num_threads(), note="")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="parameter 'bottleneck' is not used")
    rows = [row(reference) for reference in references().values()]
    worst = [np.max([float(r[i] or 0) for r in rows]) for i in range(2, len(HEAD))]  # nan wins
    limits = [float(limit) for limit in LIMITS[2:]]
    measure.report(
        "parity",
        measure.table(HEAD, [*rows, ["worst", "", *(f"{x:.1e}" for x in worst)], LIMITS]),
        options,
        ["torch", "numpy"],
    )
    if not all(x < limit for x, limit in zip(worst, limits, strict=True)):
        sys.exit("a difference exceeds its limit")


if __name__ == "__main__":
    main()
