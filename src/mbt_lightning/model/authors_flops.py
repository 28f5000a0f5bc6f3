"""What a model costs in the authors' code (google-research/scenic, projects/mbt/model.py), by counting it here.

That code updates all tokens in every layer, repeats the one channel of a spectrogram to three, and in cross-attention
runs each modality's block over all tokens. The vanilla fusion in the paper's Fig. 3 (arXiv:2107.00135v3) fits the
count with that extra work, not the one that eq. 5-6 need.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbt_lightning.model.flops import Inputs, multiply_adds
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
    fusion, is_shared = network.fusion, network.shares_encoder
    is_symmetric = isinstance(fusion, Bottleneck) and fusion.update == "symmetric"
    is_coded = {Fusion: True, JointSelfAttention: is_shared, CrossAttention: True, Bottleneck: is_symmetric}
    if not is_coded.get(type(fusion), False) or type(network.head) not in HEADS:
        return None
    instead = None
    if type(fusion) is CrossAttention:  # with one encoder that is joint self-attention, and is run so
        instead = (JointSelfAttention if is_shared else CrossAttentionAsCoded)(fusion.geometry)
    three_channels = {m: (network.tokens_of(m).weight.shape[1], *inputs[m][1:]) for m in network.modalities}
    return multiply_adds(network, three_channels, full=True, fusion=instead) / 1e9
