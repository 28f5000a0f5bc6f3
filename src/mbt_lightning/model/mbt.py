"""The heart: one encoder for each modality, fused from `fusion_layer` on, and the head that reads them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn

from mbt_lightning.errors import UserError
from mbt_lightning.model.blocks import Block
from mbt_lightning.model.fusion import Bottleneck, Fusion, Geometry, Present, Tokens, mean_of_present
from mbt_lightning.model.heads import ClsHead, Head
from mbt_lightning.model.size import SIZES, EncoderSize
from mbt_lightning.model.tokens import PatchTokens


class MBT(nn.Module):
    """A transformer for several modalities that exchange information from `fusion_layer` on.

    Layers below `fusion_layer` read their own modality only; the layers from there on are run by the fusion strategy;
    `fusion_layer` = depth is late fusion (only logits are averaged), 0 is early fusion. With a single modality there
    is nothing to fuse, and no parameter for it.

    Args:
        inputs: shape of one example of each modality, (C, *grid), e.g. {"rgb": (3, 8, 224, 224),
            "spectrogram": (1, 800, 128)}. The order of the modalities is the order of the bottleneck's update.
        num_classes: how many logits the head gives.
        fusion: the strategy: `Bottleneck`, `CrossAttention`, `JointSelfAttention`, or your own `Fusion` by class path.
        fusion_layer: L_f, the first fused layer, 0 to depth.
        size: ti, s, b, l, or an `EncoderSize` of your own.
        patches: size of a patch along each axis of a modality's grid: (1, 16, 16) is a patch of one frame,
            (2, 16, 16) a tubelet.
        share_encoder: whether all modalities use the same blocks in every layer (the authors' `share_encoder`).
        head: `ClsHead` (logits for each modality; the mean of them at test), `MeanPoolHead`, `MaxPoolHead` or
            `SumPoolHead` (one pool over all tokens), or your own `Head` by class path.
        drop_path: stochastic depth: probability at the last layer, growing linearly from 0 at the first.
        dropout: probability of leaving out a value after each MLP's GELU and at the end of each branch.
        attention_dropout: probability of leaving out an attention weight.
        position_std: standard deviation of the learned positions at the start. The authors' 0.02 suits pretrained
            weights; a small model trained from scratch learns where and when far sooner with 1.

    Raises:
        UserError: for a value outside these ranges, an unknown name or a modality without patch size.
    """

    def __init__(
        self,
        inputs: Mapping[str, Sequence[int]],
        num_classes: int,
        *,
        fusion: Callable[[Geometry], Fusion] = Bottleneck,
        fusion_layer: int = 8,
        size: str | EncoderSize = "b",
        patches: dict[str, list[int]] = {"rgb": [1, 16, 16], "spectrogram": [16, 16]},  # noqa: B006
        share_encoder: bool = False,
        head: Callable[[Geometry, int], Head] = ClsHead,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        position_std: float = 0.02,
    ):
        super().__init__()
        size = named_size(size)
        chances = {"drop_path": drop_path, "dropout": dropout, "attention_dropout": attention_dropout}
        check(inputs, fusion_layer, size, patches, chances)
        dim, depth = size.dim, size.depth
        self.modalities = tuple(inputs)
        self.fusion_layer = fusion_layer if len(inputs) > 1 else depth

        new_block = partial(Block, dim, size.num_heads, size.mlp_ratio, 0.0, dropout, attention_dropout)
        num_fused_layers = depth - self.fusion_layer
        geometry = Geometry(self.modalities, dim, num_fused_layers, size.num_heads, size.mlp_ratio, new_block)
        self.head = head(geometry, num_classes)
        self.tokens = nn.ModuleDict(
            {
                m: PatchTokens(shape, patches[m], dim, self.head.num_cls, position_std=position_std)
                for m, shape in inputs.items()
            }
        )
        self.unimodal = Fusion(geometry)
        self.fusion = fusion(geometry) if num_fused_layers else self.unimodal
        drops = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
        self.layers = nn.ModuleList()
        for layer, drop in enumerate(drops):
            one_for_all = share_encoder or (layer >= self.fusion_layer and self.fusion.one_block_for_all)
            names = [SHARED] if one_for_all else self.modalities
            settings = (dim, size.num_heads, size.mlp_ratio, drop, dropout, attention_dropout)
            self.layers.append(nn.ModuleDict({name: Block(*settings) for name in names}))
        self.norm = nn.LayerNorm(dim, eps=1e-6)  # one for all modalities, as the authors have it

    def forward(self, inputs: Mapping[str, Tensor], present: Present | None = None) -> dict[str, Tensor]:
        """Turn {modality: (B, C, *grid)} into logits {modality: (B, num_classes)}; `fuse` them for the test.

        Args:
            inputs: of each modality.
            present: for each modality a mask (B,), whether a clip has it; None: all do. What fills the place of an
                absent modality changes nothing in the others' logits; its own are to be ignored.

        Raises:
            UserError: a modality is absent, and the strategy or the head cannot leave it out.
        """
        present = absent_masks(present, self.modalities)
        tokens, shared = self.encode(inputs, None if self.head.reads_shared else self.head.keep, present)
        return self.head(tokens, shared, **absence_for(self.head, present))

    def encode(
        self, inputs: Mapping[str, Tensor], keep: slice | None = None, present: Present | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the final tokens {modality: (B, N_m, D)} and the strategy's shared tokens (B, S, D), normalised.

        With `keep`, only those tokens of each modality, and no shared ones: the last layer then costs less.
        """
        present = absent_masks(present, self.modalities)
        tokens: Tokens = {m: self.tokens[m](inputs[m]) for m in self.modalities}
        if present is not None:
            tokens = {m: x.masked_fill(~present[m][:, None, None], 0) for m, x in tokens.items()}
        absence = absence_for(self.fusion, present)
        shared = None
        for layer in range(len(self.layers)):
            blocks = {m: self.block_of(layer, m)[1] for m in self.modalities}
            wanted = keep if layer == len(self.layers) - 1 else None
            if layer < self.fusion_layer:
                tokens, shared = self.unimodal(tokens, shared, blocks, layer, wanted)
                continue
            if layer == self.fusion_layer:
                tokens, shared = self.fusion.start(tokens)
            tokens, shared = self.fusion(tokens, shared, blocks, layer - self.fusion_layer, wanted, **absence)
        shared = None if keep is not None or shared is None else self.norm(shared)
        return {m: self.norm(x) for m, x in tokens.items()}, shared

    def block_of(self, layer: int, modality: str) -> tuple[str, Block]:
        """The block that a modality goes through in a layer, with its name there."""
        modules = self.layers[layer]
        assert isinstance(modules, nn.ModuleDict)
        name = modality if modality in modules else SHARED
        block = modules[name]
        assert isinstance(block, Block)
        return name, block

    def tokens_of(self, modality: str) -> PatchTokens:
        """The tokeniser of a modality."""
        tokens = self.tokens[modality]
        assert isinstance(tokens, PatchTokens)
        return tokens

    @property
    def shares_encoder(self) -> bool:
        """Whether all modalities use the same blocks in every layer."""
        return all(SHARED in layer for layer in self.layers)  # type: ignore[operator]


SHARED = "shared"
"""Name of a layer's only block when all modalities use the same one."""


def fuse(logits: Mapping[str, Tensor], present: Present | None = None) -> Tensor:
    """The fused logits (B, num_classes): the mean over the modalities' logits, absent ones left out (paper 3.2.3)."""
    return mean_of_present(logits, present)


def absent_masks(present: Present | None, modalities: Sequence[str]) -> Present | None:
    """The masks of all modalities if any clip lacks one, else None."""
    if present is None or all(mask.all() for mask in present.values()):
        return None
    if unknown := present.keys() - set(modalities):
        raise UserError(f"present names {', '.join(sorted(unknown))}, but the model has {', '.join(modalities)}")
    everywhere = torch.ones_like(next(iter(present.values())))
    masks = {m: present.get(m, everywhere) for m in modalities}
    if not torch.stack(list(masks.values())).any(0).all():
        raise UserError(f"a clip has none of the modalities {', '.join(modalities)}: leave it out of the batch")
    return masks


def absence_for(part: Fusion | Head, present: Present | None) -> dict[str, Present]:
    """The extra argument of a strategy or a head where a clip lacks a modality."""
    if present is None or type(part) is Fusion:  # which lets no modality read another
        return {}
    if "present" not in signature(part.forward).parameters:
        raise UserError(
            f"{type(part).__name__} cannot leave out an absent modality, as its forward takes no `present`: "
            "use clips with all modalities, or another class"
        )
    return {"present": present}


def named_size(size: str | EncoderSize) -> EncoderSize:
    """The size with one of the usual names, or the one that is given."""
    if isinstance(size, EncoderSize):
        return size
    if size not in SIZES:
        raise UserError(f"size is {size!r}: choose one of {', '.join(SIZES)}, or give dim, depth and num_heads")
    return SIZES[size]


def check(inputs, fusion_layer, size, patches, chances) -> None:
    """Refuse settings that no model can be built from."""
    if not inputs:
        raise UserError("no modality is given: name at least one of " + ", ".join(patches))
    for m in inputs:
        if m not in patches:
            raise UserError(f"modality {m!r} has no patch size: add it to patches, which has {', '.join(patches)}")
    for taken in {SHARED, "fused"} & set(inputs):
        raise UserError(f"a modality cannot be called {taken!r}: that name has another meaning")
    for name in ("dim", "depth", "num_heads", "mlp_ratio"):
        if not getattr(size, name) > 0:
            raise UserError(f"{name} is {getattr(size, name)}: give more than 0")
    if size.dim % size.num_heads:
        raise UserError(f"dim {size.dim} is not a multiple of num_heads {size.num_heads}")
    if not 0 <= fusion_layer <= size.depth:
        raise UserError(
            f"fusion_layer is {fusion_layer}, but the encoder has {size.depth} layers: "
            f"give 0 (early fusion) to {size.depth} (late fusion)"
        )
    for name, chance in chances.items():
        if not 0 <= chance < 1:
            raise UserError(f"{name} is {chance}: give a probability from 0 to below 1")
