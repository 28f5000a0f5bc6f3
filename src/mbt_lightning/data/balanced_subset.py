"""Which clips of a large training split make a smaller one with less skew: AudioSet's half million, for instance.

The paper trains on half a million of AudioSet's two million clips with less skew, and neither the list nor its rule was
published. This is a rule of our own, and gives an AS-500K-like set: a function of the clips, a seed and a number of
clips, and of nothing else, so the order of the rows does not matter.

1. Clips are put in a seeded order: that of a hash of seed and clip_id. A clip that is missing moves no other.
2. n = 1, 2, 3, ...: the classes are visited from the rarest to the commonest in the whole split (of equally rare ones
   the first in the class list first). A class that has fewer than n positives among the clips that are chosen already,
   for whatever class they were chosen, gets its next clip in the seeded order; a class whose clips are all chosen gets
   none.
3. It ends with the wanted number of clips, in the middle of a round: the classes that come later in this last round may
   have a positive less. So the number is met exactly, and a smaller subset is a part of a larger one of the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbt_lightning.errors import UserError


class Balanced(NamedTuple):
    """A subset and how it came about.

    Args:
        clips: int64 (N,) places of the chosen clips in the order of being chosen.
        per_class: n of the last round: every class has n - 1 positives or more, or all of its clips.
    """

    clips: NDArray[np.int64]
    per_class: int


def choose_balanced(
    order: NDArray[np.int64], clips: NDArray[np.int64], classes: NDArray[np.int64], num_classes: int, num_clips: int
) -> Balanced:
    """Choose clips by the rule above.

    Args:
        order: int64 (C,) the places of all clips of the split in the seeded order.
        clips: int64 (L,) the place of the clip of each label, rising (as `Clips.labelled` gives them).
        classes: int64 (L,) the class of each label.
        num_classes: how many classes there are.
        num_clips: how many clips are wanted.

    Raises:
        UserError: more clips are wanted than have a label.
    """
    labels_of = np.searchsorted(clips, np.arange(len(order) + 1))  # where the labels of each clip start
    labelled = int((np.diff(labels_of) > 0).sum())
    if not 0 < num_clips <= labelled:
        raise UserError(f"num_clips is {num_clips}: give a number from 1 to {labelled}, the usable clips with a label")
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
    """The places of clips, int64 (C,), in an order that is drawn from the seed and each clip's own name.

    Args:
        clip_ids: their names.
        seed: any whole number.
    """
    start = hashlib.blake2b(f"{seed} ".encode(), digest_size=8)

    def key(clip_id: str) -> bytes:
        own = start.copy()
        own.update(clip_id.encode())
        return own.digest()

    return np.argsort(np.frombuffer(b"".join(map(key, clip_ids)), ">u8"), kind="stable")


def list_hash(clip_ids: Iterable[str]) -> str:
    """Hash of a set of clips by their names (first 16 hex digits of SHA-256), whatever their order."""
    return hashlib.sha256("\n".join(sorted(clip_ids)).encode()).hexdigest()[:16]
