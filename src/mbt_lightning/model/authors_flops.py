"""What a model costs in the authors' code (google-research/scenic, projects/mbt/model.py), by counting it here.

That code updates all tokens in every layer, repeats the one channel of a spectrogram to three, and in cross-attention
runs each modality's block over all tokens. The vanilla fusion in the paper's Fig. 3 (arXiv:2107.00135v3) fits the
count with that extra work, not the one that eq. 5-6 need.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbt_lightning.model.flops import Inputs, multiply_adds, on_meta
from mbt_lightning.model.fusion import Blocks, Bottleneck, CrossAttention, Fusion, JointSelfAttention, Tokens
from mbt_lightning.model.heads import ClsHead, MaxPoolHead, MeanPoolHead, SumPoolHead
from mbt_lightning.model.mbt import MBT

HEADS = (ClsHead, MeanPoolHead, MaxPoolHead, SumPoolHead)


class CrossAttentionAsCoded(Fusion):
    """Cross-attention as in the authors' code: each block updates all modalities' tokens, and its own are kept."""

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, layer: int, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        everything = torch.cat(list(tokens.values()), dim=1)
        lengths = [x.shape[1] for x in tokens.values()]
        updated = {m: blocks[m](everything).split(lengths, dim=1)[i] for i, m in enumerate(tokens)}
        return {m: x if keep is None else x[:, keep] for m, x in updated.items()}, shared


def gflops_as_coded(network: MBT, inputs: Inputs) -> float | None:
    """Billions of multiply-adds of one clip's forward pass in the authors' code; None if it has no such model.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    strategy = coded_strategy(network)
    if strategy is None or type(network.head) not in HEADS:
        return None
    as_coded = on_meta(network)
    as_coded.fusion = strategy
    three_channels = {m: (network.tokens_of(m).weight.shape[1], *grid) for m, (_, *grid) in inputs.items()}
    return multiply_adds(as_coded, three_channels, full=True) / 1e9


def coded_strategy(network: MBT) -> Fusion | None:
    """The strategy that the authors' code runs in the place of a network's; None: it has none."""
    fusion = network.fusion
    if type(fusion) is CrossAttention:  # with one encoder that is joint self-attention, and is run so
        return (JointSelfAttention if network.shares_encoder else CrossAttentionAsCoded)(fusion.geometry)
    if type(fusion) is JointSelfAttention:
        return fusion if network.shares_encoder else None
    if type(fusion) is Bottleneck:
        return fusion if fusion.update == "symmetric" else None
    return fusion if type(fusion) is Fusion else None
