"""The heart: one encoder a modality, fused from `fusion_layer` on, and the head that reads them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mbt_lightning.errors import UserError
from mbt_lightning.model.blocks import Block
from mbt_lightning.model.fusion import Bottleneck, Fusion, Geometry, Tokens
from mbt_lightning.model.size import SIZES, EncoderSize
from mbt_lightning.model.tokens import PatchTokens


class Head(nn.Module):
    """Reads logits out of the final tokens.

    Args:
        dim: width D of the tokens.
        num_classes: number of logits.
    """

    num_cls: int
    """CLS tokens that it wants in front of each modality."""
    keep: slice
    """The tokens of each modality that it reads."""
    per_modality: bool
    """Whether it gives logits for each modality."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.linear = zero_linear(dim, num_classes)

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read {modality: (B, N_m, D)}, of which only `keep`, out as {entry: (B, num_classes)}."""
        raise NotImplementedError


class ClsHead(Head):
    """Logits a modality: one linear layer, shared by the modalities, on each one's CLS token (paper 3.2.3).

    Args:
        dim: width D of the tokens.
        num_classes: number of logits.
        representation_size: width of a further linear layer with tanh before the logits (ViT's `pre_logits`), shared
            by the modalities too; None: there is none.
    """

    num_cls = 1
    keep = slice(0, 1)
    per_modality = True

    def __init__(self, dim: int, num_classes: int, representation_size: int | None = None):
        super().__init__(representation_size or dim, num_classes)
        self.pre_logits = nn.Linear(dim, representation_size) if representation_size else None

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read {modality: (B, 1, D)} out as {modality: (B, num_classes)}."""
        return {m: self.linear(self.represent(x[:, 0])) for m, x in tokens.items()}

    def represent(self, x: Tensor) -> Tensor:
        """What the logits are a linear function of: (B, D) -> (B, D or representation_size)."""
        return x if self.pre_logits is None else self.pre_logits(x).tanh()


class PoolHead(Head):
    """One entry of logits, `fused`: a linear layer on one pool over all tokens of all modalities."""

    num_cls = 0
    keep = slice(None)
    per_modality = False

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read {modality: (B, N_m, D)} out as {"fused": (B, num_classes)}."""
        return {"fused": self.linear(self.pool(torch.cat(list(tokens.values()), dim=1)))}

    def pool(self, tokens: Tensor) -> Tensor:
        """All tokens (B, N, D) in one, (B, D)."""
        raise NotImplementedError


class MeanPoolHead(PoolHead):
    """The mean of all tokens, so a modality counts by its number of tokens (the authors' `gap`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """All tokens (B, N, D) in one, (B, D)."""
        return tokens.mean(1)


class MaxPoolHead(PoolHead):
    """The largest value of all tokens, in each of the D places (the authors' `gmp`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """All tokens (B, N, D) in one, (B, D)."""
        return tokens.amax(1)


class SumPoolHead(PoolHead):
    """The sum of all tokens (the authors' `gsp`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """All tokens (B, N, D) in one, (B, D)."""
        return tokens.sum(1)


POOLS: dict[str, type[PoolHead]] = {"mean": MeanPoolHead, "max": MaxPoolHead, "sum": SumPoolHead}
HEADS = ("cls", *POOLS)


class MBT(nn.Module):
    """A transformer for several modalities that exchange information from `fusion_layer` on.

    Layers below `fusion_layer` read their own modality only; the layers from there on are run by the fusion strategy;
    `fusion_layer` = depth is late fusion (only logits are averaged), 0 is early fusion. With a single modality there
    is nothing to fuse, and no parameter for it.

    Args:
        inputs: shape of one example of each modality, (C, *grid), e.g. {"rgb": (3, 8, 224, 224),
            "spectrogram": (1, 800, 128)}. The order of the modalities is the order of the bottleneck's update.
        num_classes: how many logits the head gives.
        fusion: the strategy, a class of `mbt_lightning.model.fusion` or your own, by class path.
        fusion_layer: L_f, the first fused layer, 0 to depth.
        size: ti, s, b, l, or an `EncoderSize` of your own.
        patches: size of a patch along each axis of a modality's grid: (1, 16, 16) is a patch of one frame,
            (2, 16, 16) a tubelet.
        share_encoder: whether all modalities use the same blocks in every layer (the authors' `share_encoder`).
        head: `cls` (logits a modality; the mean of them at test), or `mean`, `max` or `sum` (one pool over all tokens).
        representation_size: width of a linear layer with tanh between CLS token and logits; null: none. Only for
            head `cls`.
        drop_path: stochastic depth: probability at the last layer, growing linearly from 0 at the first.
        dropout: probability of leaving out a value behind each MLP's GELU and at the end of each branch.
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
        head: str = "cls",
        representation_size: int | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        position_std: float = 0.02,
    ):
        super().__init__()
        size = named_size(size)
        chances = {"drop_path": drop_path, "dropout": dropout, "attention_dropout": attention_dropout}
        check(inputs, fusion_layer, size, patches, head, representation_size, chances)
        dim, depth = size.dim, size.depth
        self.modalities = tuple(inputs)
        self.fusion_layer = fusion_layer if len(inputs) > 1 else depth

        self.head: Head = (
            POOLS[head](dim, num_classes) if head in POOLS else ClsHead(dim, num_classes, representation_size)
        )
        self.tokens = nn.ModuleDict(
            {
                m: PatchTokens(shape, patches[m], dim, self.head.num_cls, position_std=position_std)
                for m, shape in inputs.items()
            }
        )
        geometry = Geometry(self.modalities, dim, depth - self.fusion_layer)
        self.unimodal = Fusion(geometry)
        self.fusion = fusion(geometry) if geometry.num_fused_layers else self.unimodal
        drops = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
        self.layers = nn.ModuleList()
        for layer, drop in enumerate(drops):
            one_for_all = share_encoder or (layer >= self.fusion_layer and self.fusion.one_block_for_all)
            names = [SHARED] if one_for_all else self.modalities
            settings = (dim, size.num_heads, size.mlp_ratio, drop, dropout, attention_dropout)
            self.layers.append(nn.ModuleDict({name: Block(*settings) for name in names}))
        self.norm = nn.LayerNorm(dim, eps=1e-6)  # one for all modalities, as the authors have it

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn {modality: (B, C, *grid)} into logits {modality: (B, num_classes)}; `fuse` them for the test."""
        return self.head(self.encode(inputs, keep=self.head.keep))

    def encode(self, inputs: Mapping[str, Tensor], keep: slice = slice(None)) -> dict[str, Tensor]:
        """Return the final tokens {modality: (B, N_m, D)}, normalised; of each modality only those of `keep`."""
        tokens: Tokens = {m: self.tokens[m](inputs[m]) for m in self.modalities}
        shared = None
        for layer in range(len(self.layers)):
            blocks = {m: self.block_of(layer, m)[1] for m in self.modalities}
            strategy = self.fusion if layer >= self.fusion_layer else self.unimodal
            if layer == self.fusion_layer:
                tokens, shared = strategy.start(tokens)
            is_last = layer == len(self.layers) - 1
            tokens, shared = strategy(tokens, shared, blocks, keep=keep if is_last else None)
        return {m: self.norm(x) for m, x in tokens.items()}

    def block_of(self, layer: int, modality: str) -> tuple[str, Block]:
        """The block that a modality goes through in a layer, with its name there."""
        modules = self.layers[layer]
        assert isinstance(modules, nn.ModuleDict)
        name = modality if modality in modules else SHARED
        block = modules[name]
        assert isinstance(block, Block)
        return name, block

    def tokens_of(self, modality: str) -> PatchTokens:
        """What makes a modality's tokens."""
        tokens = self.tokens[modality]
        assert isinstance(tokens, PatchTokens)
        return tokens


SHARED = "shared"
"""Name of a layer's only block when all modalities use the same one."""


def fuse(logits: Mapping[str, Tensor]) -> Tensor:
    """The fused logits (B, num_classes): the mean over the modalities' logits (paper 3.2.3)."""
    return torch.stack(list(logits.values())).mean(0)


def named_size(size: str | EncoderSize) -> EncoderSize:
    """The size by one of its usual names, or as it is given."""
    if isinstance(size, EncoderSize):
        return size
    if size not in SIZES:
        raise UserError(f"size is {size!r}: choose one of {', '.join(SIZES)}, or give dim, depth and num_heads")
    return SIZES[size]


def zero_linear(dim: int, num_classes: int) -> nn.Linear:
    """A linear layer that starts at zero, so that the first loss is that of a constant guess (as the authors do)."""
    linear = nn.Linear(dim, num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def check(inputs, fusion_layer, size, patches, head, representation_size, chances) -> None:
    """Refuse, by name, what no model can be built from."""
    if not inputs:
        raise UserError("no modality is given: name at least one of " + ", ".join(patches))
    for m in inputs:
        if m not in patches:
            raise UserError(f"modality {m!r} has no patch size: add it to patches, which has {', '.join(patches)}")
    for taken in {SHARED, "fused"} & set(inputs):
        raise UserError(f"a modality cannot be called {taken!r}: that name has a meaning already")
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
    if head not in HEADS:
        raise UserError(f"head is {head!r}: choose one of {', '.join(HEADS)}")
    if representation_size is not None and (head != "cls" or representation_size < 1):
        raise UserError(
            f"representation_size is {representation_size} with head {head}: give 1 or more with head cls, or null"
        )
    for name, chance in chances.items():
        if not 0 <= chance < 1:
            raise UserError(f"{name} is {chance}: give a probability from 0 to below 1")
