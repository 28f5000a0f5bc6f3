"""Which clips an epoch reads and in which order, and how processes share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mbt_lightning.data.dataset import ClipDataset
from mbt_lightning.data.records import Batch, Draw
from mbt_lightning.data.sampling import chance
from mbt_lightning.errors import UserError


class ClipSampler:
    """Which clips an epoch reads, and in which order.

    Calling it: `(dataset, seed, epoch)` -> the clips' places in the split and their views, int64 (N,) each, N being the
    number of clips times views. Every process calls it alike and takes its own part of the result, see `DrawSampler`.
    """

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw an epoch of all processes together.

        Args:
            dataset: what is drawn from.
            seed: of the run.
            epoch: its number.
        """
        raise NotImplementedError


class InOrder(ClipSampler):
    """Every view of every clip, one after the other; for validation and test."""

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same in each epoch; draws nothing."""
        views = max(1, dataset.num_views)
        return np.divmod(np.arange(len(dataset) * views), views)


class Shuffled(ClipSampler):
    """Every clip once an epoch, in random order."""

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A new order each epoch."""
        views = max(1, dataset.num_views)
        generator = torch.Generator().manual_seed(chance("order", seed).getrandbits(62) + epoch)
        return np.divmod(torch.randperm(len(dataset) * views, generator=generator).numpy(), views)


class ClassBalanced(ClipSampler):
    """As many clips an epoch as there are, drawn with replacement, so that every class is drawn about equally often.

    The custom of AST, PSLA and CAV-MAE on AudioSet and VGGSound: a class with n clips weighs 1000 / (n + 0.01), and a
    clip as much as its classes together. A clip without labels is never drawn.

    Raises:
        UserError: no clip has a label.
    """

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A new draw each epoch; of a clip that is drawn several times the views count up."""
        clips, classes = dataset.labelled()
        if not len(clips):
            raise UserError("ClassBalanced draws clips by their labels, and no clip of the split has one: use Shuffled")
        weights = 1000 / (np.bincount(classes) + 0.01)
        ends = np.cumsum(np.bincount(clips, weights[classes], minlength=len(dataset)))
        numbers = np.random.default_rng(chance("balanced", seed, epoch).getrandbits(63)).random(len(dataset))
        drawn = np.searchsorted(ends, numbers * ends[-1], side="right")
        drawn = np.minimum(drawn, clips.max())  # where rounding has reached the very end
        return drawn, times_before(drawn)


def times_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value (N,) occurs before its own place: `[5, 2, 5, 5]` -> `[0, 0, 1, 2]`."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.searchsorted(ranked, ranked)
    result = np.empty_like(values)
    result[order] = np.arange(len(values)) - first
    return result


class DrawSampler(DistributedSampler):
    """Gives every rank its part of what a sampler draws, as `Draw`s.

    A DistributedSampler, so that Lightning leaves it alone and sets its epoch. All ranks draw the same and take every
    `num_replicas`-th; the last round is filled from the start, and the scores count such repeated clips once.

    Args:
        dataset: what is drawn from.
        num_replicas: number of ranks.
        rank: this rank.
        sampler: which clips, in which order.
        seed: of the draws; the same on every rank.
        done: how many draws of the epoch this rank has read already, if an epoch is resumed.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        num_replicas: int,
        rank: int,
        sampler: ClipSampler,
        seed: int,
        done: Callable[[], int] = lambda: 0,
    ):
        draws = cast(Dataset, range(len(dataset) * max(1, dataset.num_views)))  # only its length is asked for
        super().__init__(draws, num_replicas, rank, shuffle=False)
        self.clips, self.sampler, self.seed, self.done = dataset, sampler, seed, done

    def __iter__(self) -> Iterator[Draw]:
        """The draws of the epoch that was set last, without those that are done."""
        mine = slice(self.rank, None, self.num_replicas)
        drawn = self.sampler(self.clips, self.seed, self.epoch)
        index, view = (np.resize(x, self.total_size)[mine][self.done() :] for x in drawn)
        return (Draw(self.epoch, int(i), int(v)) for i, v in zip(index, view, strict=True))


class LazyLoader(DataLoader):
    """A DataLoader that starts to read when the first batch is asked for.

    Lightning makes the iterator of a training before it knows the epoch and the place in it where a run resumes; worker
    processes would have read from the start of the first epoch by then.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches that are left of the epoch."""
        yield from super().__iter__()
