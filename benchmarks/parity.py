"""How near our model comes to the authors' code: the largest differences on every reference in the repository.

    python benchmarks/parity.py [--save]

References are arrays that the authors' Flax code computed (tests/goldens/README.md). Compared are, in float32 on the
CPU: the fused logits by the fast path (in the last layer only what the head reads is updated) and by the slow one, all
tokens, where there are any the gradients of all parameters (relative, the worst parameter; the attention's biases
without those of the keys, whose gradient is zero but for rounding), and the logits under bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import measure
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from authors import Reference, differences, largest, references

from mbt_lightning.model.mbt import fuse

HEAD = ["reference", "largest logit", "logits, fast", "logits, slow", "tokens", "gradients", "logits, bfloat16"]
LIMITS = ["limit", "", "2e-05", "2e-05", "5e-05", "1e-04", "5e-02"]


def gradients(reference: Reference) -> str:
    """The worst relative error of a parameter's gradient."""
    if not reference.part("grad/"):
        return ""
    worst = 0.0
    for name, (theirs, ours) in reference.gradients(reference.model()).items():
        if name.endswith("attn.qkv.bias"):
            ours, theirs = (torch.cat([x[: len(x) // 3], x[2 * len(x) // 3 :]]) for x in (ours, theirs))
        worst = max(worst, float((ours - theirs).norm() / theirs.norm()))
    return f"{worst:.1e}"


def row(reference: Reference) -> list[str]:
    """A line of the table."""
    found = differences(reference)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = fuse({m: x.float() for m, x in reference.model()(reference.inputs()).items()})
    theirs = reference.arrays["out/logits"]
    small = [f"{found[name]:.1e}" for name in ("logits", "slow", "tokens")]
    return [
        reference.name,
        f"{np.abs(theirs).max():.2f}",
        *small,
        gradients(reference),
        f"{largest(rough, theirs):.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append the table to benchmarks/results/")
    parser.set_defaults(device="cpu", threads=torch.get_num_threads(), note="")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="parameter 'bottleneck' is not used")
    rows = [row(reference) for reference in references().values()]
    worst = ["worst", ""] + [f"{max(float(r[i] or 0) for r in rows):.1e}" for i in range(2, len(HEAD))]
    measure.report("parity", measure.table(HEAD, [*rows, worst, LIMITS]), options, ["torch", "numpy"])


if __name__ == "__main__":
    main()
