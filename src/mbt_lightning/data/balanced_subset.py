"""Which clips of a large training split form a smaller one with less skew, e.g. half a million of AudioSet.

The paper trains on half a million of AudioSet's two million clips with less skew, but neither the list nor its rule was
published. This rule is our own and gives an AS-500K-like set, which depends only on the clips, a seed and a number of
clips, not on the order of the rows.

1. Clips are put into a seeded order: that of a hash of seed and clip_id. A missing clip moves no other.
2. n = 1, 2, 3, ...: the classes are visited from the rarest to the commonest in the whole split (equally rare ones in
   the order of the class list). A class with fewer than n positives among the clips chosen so far, for whatever class
   they were chosen, gets its next clip in the seeded order; a class whose clips are all chosen gets none.
3. It ends at the requested number of clips, in the middle of a round: classes that come later in this last round may
   have one positive less. So the number is exact, and a smaller subset is part of a larger one of the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbt_lightning.errors import UserError


class Balanced(NamedTuple):
    """Indices of the chosen clips, int64 (N,), in order of choice, and n of the last round."""

    clips: NDArray[np.int64]
    per_class: int


def choose_balanced(
    order: NDArray[np.int64], clips: NDArray[np.int64], classes: NDArray[np.int64], num_classes: int, num_clips: int
) -> Balanced:
    """Choose clips by the rule above.

    Args:
        order: int64 (C,) indices of all clips of the split in the seeded order.
        clips: int64 (L,) index of the clip of each label, ascending.
        classes: int64 (L,) class of each label.
        num_classes: number of classes.
        num_clips: number of clips to choose.
    """
    labels_of = np.searchsorted(clips, np.arange(len(order) + 1))  # where the labels of each clip start
    labelled = int((np.diff(labels_of) > 0).sum())
    if not 0 < num_clips <= labelled:
        raise UserError(f"num_clips is {num_clips}: give 1 to {labelled}, the number of usable clips with a label")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    by_class = np.lexsort((rank[clips], classes))
    queue = clips[by_class].data  # the clips of each class in the seeded order
    bounds = np.searchsorted(classes[by_class], np.arange(num_classes + 1)).tolist()
    sizes = np.diff(bounds)
    at, ends = bounds[:-1], bounds[1:]
    waiting = [c for c in np.argsort(sizes, kind="stable").tolist() if sizes[c]]

    starts, label, taken = labels_of.data, classes.data, bytearray(len(order))
    counts, chosen, n = [0] * num_classes, list[int](), 0
    while True:
        n = max(n, min(counts[c] for c in waiting)) + 1  # rounds in which every class has enough change nothing
        for c in waiting:
            if counts[c] >= n:
                continue
            while at[c] < ends[c] and taken[queue[at[c]]]:
                at[c] += 1
            if at[c] < ends[c]:
                clip = queue[at[c]]
                taken[clip] = True
                chosen.append(clip)
                for i in range(starts[clip], starts[clip + 1]):
                    counts[label[i]] += 1
                if len(chosen) == num_clips:
                    return Balanced(np.array(chosen, np.int64), n)
        waiting = [c for c in waiting if at[c] < ends[c]]


def seeded_order(clip_ids: Iterable[str], seed: int) -> NDArray[np.int64]:
    """Indices of clips, int64 (C,), in an order that depends on the seed and each clip's own name."""
    start = hashlib.blake2b(f"{seed} ".encode(), digest_size=8)

    def key(clip_id: str) -> bytes:
        own = start.copy()
        own.update(clip_id.encode())
        return own.digest()

    return np.argsort(np.frombuffer(b"".join(map(key, clip_ids)), ">u8"), kind="stable")


def list_hash(clip_ids: Iterable[str]) -> str:
    """Hash of a set of clips by their names (first 16 hex digits of SHA-256), in any order."""
    return hashlib.sha256("\n".join(sorted(clip_ids)).encode()).hexdigest()[:16]
