"""Attention weights of a model, for maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mbt_lightning.errors import UserError
from mbt_lightning.model.mbt import MBT


@dataclass(frozen=True)
class AttentionScores:
    """The attention weights of one call of one block.

    Args:
        layer: its layer, from 0.
        block: its name in the layer: a modality, or `shared`.
        scores: (B, H, N, M): how much each of N tokens reads from each of M, for each head; rows sum to 1.
    """

    layer: int
    block: str
    scores: Tensor


@contextmanager
def attention_scores(network: MBT) -> Iterator[list[AttentionScores]]:
    """Record the attention weights of every block while the network runs, in the order of the calls.

    They are computed beside the pass, from the same queries and keys; outside of this context nothing is computed or
    slower. Memory grows by B x H x N x M values a block. A compiled network runs uncompiled inside.

    Which tokens are read: a modality's own (CLS first, then its grid in row-major order); with a bottleneck its own,
    then the bottleneck's; with cross- and joint attention those of all modalities in their order. `network(inputs)`
    gives the last layer's queries only for the tokens that the head reads, `network.encode(inputs)` for all.

        with attention_scores(model.network) as calls:
            model.network.encode(inputs)
        calls[-1].scores  # (B, H, N, M)

    Args:
        network: the model.

    Yields:
        The list that grows while the network runs.

    Raises:
        UserError: the network is not an `MBT`.
    """
    if not isinstance(network, MBT):
        raise UserError(f"attention_scores needs an MBT, e.g. model.network, not {type(network).__name__}")
    calls: list[AttentionScores] = []
    hooks = []
    for layer in range(len(network.layers)):
        for name, block in dict(network.block_of(layer, m) for m in network.modalities).items():

            def record(attention, args, kwargs, layer=layer, name=name):
                calls.append(AttentionScores(layer, name, attention.scores(*args, **kwargs)))

            hooks.append(block.attn.register_forward_pre_hook(record, with_kwargs=True))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield calls
    finally:
        for hook in hooks:
            hook.remove()
