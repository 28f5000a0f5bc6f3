"""What a model costs by arithmetic, for every way to fuse, without building it and without torch.

The unit is one multiply-add of a matrix product, of one clip. It is an independent check of what `model/cost.py`
counts: they agree to the digit. Equations and Fig. 3 are those of Nagrani et al., "Attention Bottlenecks for Multimodal
Fusion" (arXiv:2107.00135v3); the authors' code is google-research/scenic, projects/mbt/model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

from mbt_lightning.model.size import SIZES, EncoderSize

Reads = Callable[[Sequence[int], Sequence[int] | None], list[tuple[int, int]]]
"""A strategy in numbers: (tokens of each modality; those that are updated, None for all and the bottleneck) to
(queries N, keys and values M) of each block that a layer runs."""


def separate(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """No exchange (paper eq. 2-3), which is also every layer of late fusion; see `Reads`."""
    return list(zip(kept or tokens, tokens, strict=True))


def joint(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Joint self-attention (paper eq. 4): one block over all tokens; see `Reads`."""
    return [(sum(kept or tokens), sum(tokens))]


def cross(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention (paper eq. 5-6): own queries, all keys and values; see `Reads`."""
    return [(n, sum(tokens)) for n in kept or tokens]


def cross_as_coded(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention in the authors' code: each modality's block updates all tokens, and drops the other's.

    See `Encoder` in scenic's projects/mbt/model.py (`combine_context`). The result is that of eq. 5-6 for about twice
    the work, and the vanilla fusion in the paper's Fig. 3 (ablations of the fusion strategy) fits this count.
    """
    return [(sum(tokens), sum(tokens)) for _ in tokens]


def bottleneck(num_bottlenecks: int, update: str = "sequential") -> Reads:
    """Attention bottlenecks (paper eq. 8-9 symmetric, as in the authors' code; eq. 10-11 sequential).

    Args:
        num_bottlenecks: number B of bottleneck tokens.
        update: `sequential` or `symmetric`; they differ only where not all tokens are updated.
    """

    def reads(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
        if kept is None:
            return [(n + num_bottlenecks, n + num_bottlenecks) for n in tokens]
        *others, last = [(n, m + num_bottlenecks) for n, m in zip(kept, tokens, strict=True)]
        written = num_bottlenecks if update == "sequential" else 0  # by all but the last, behind which nobody reads
        return [*((n + written, m) for n, m in others), last]

    return reads


@dataclass(frozen=True)
class Shape:
    """The numbers that a network's cost follows from.

    Args:
        tokens: tokens of each modality, CLS included.
        kept: those of them that the head reads.
        dim: width d of the tokens.
        hidden_dim: width h of the MLPs.
        depth: number of layers.
        embedding: multiply-adds of the patch embedding.
        embedding_as_coded: the same in the authors' code, which repeats the one channel of a spectrogram to three.
        head: multiply-adds of the head.
    """

    tokens: tuple[int, ...]
    kept: tuple[int, ...]
    dim: int
    hidden_dim: int
    depth: int
    embedding: int
    embedding_as_coded: int
    head: int


def block_multiply_adds(n: int, m: int, dim: int, hidden_dim: int) -> int:
    """Multiply-adds of a block (paper eq. 2-3): q and projection, k and v, attention, MLP.

    For n = m and h = 4 d these are the usual 12 n d^2 + 2 n^2 d.

    Args:
        n: number of queries N.
        m: number of keys and values M.
        dim: width d of the tokens.
        hidden_dim: width h of the MLP.
    """
    return 2 * n * dim**2 + 2 * m * dim**2 + 2 * n * m * dim + 2 * n * dim * hidden_dim


def layers_multiply_adds(shape: Shape, fused: Reads, fusion_layer: int, kept: Sequence[int] | None = None) -> int:
    """Multiply-adds of all layers for one clip, without patch embedding and head.

    Args:
        shape: the network's numbers.
        fused: the strategy from `fusion_layer` on.
        fusion_layer: the first fused layer.
        kept: tokens of each modality that the last layer updates; None: all of them, and the bottleneck.
    """
    total = 0
    for layer in range(shape.depth):
        reads = fused if layer >= fusion_layer else separate
        pairs = reads(shape.tokens, kept if layer == shape.depth - 1 else None)
        total += sum(block_multiply_adds(n, m, shape.dim, shape.hidden_dim) for n, m in pairs)
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Every way to fuse
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to fuse, beside the numbers of what it computes.

    Args:
        name: what it is called in the table.
        strategy: name of the class.
        share_encoder: whether all modalities use the same blocks in every layer.
        reads: what its layers read.
        as_coded: the same in the authors' code; None: it has no such model.
        num_bottlenecks: its own tokens.
        one_block_for_all: whether all modalities of a fused layer go through the same block.
    """

    name: str
    strategy: str
    share_encoder: bool
    reads: Reads
    as_coded: Reads | None
    num_bottlenecks: int = 0
    one_block_for_all: bool = False


LATE = Way("late", "Fusion", False, separate, separate)


def ways(num_bottlenecks: int, update: str) -> list[Way]:
    """Every built-in way to fuse before the end.

    Args:
        num_bottlenecks: number B of bottleneck tokens.
        update: rule of the bottleneck, `sequential` or `symmetric`.
    """
    passed = bottleneck(num_bottlenecks, update)
    return [
        Way("joint, shared encoder", "JointSelfAttention", True, joint, joint, one_block_for_all=True),
        Way("joint, separate below", "JointSelfAttention", False, joint, None, one_block_for_all=True),
        Way("cross-attention", "CrossAttention", False, cross, cross_as_coded),
        Way(f"bottleneck, B = {num_bottlenecks}", "Bottleneck", False, passed, passed, num_bottlenecks),
    ]


def find_way(strategy: str, share_encoder: bool, num_bottlenecks: int, update: str) -> Way | None:
    """The way to fuse of a built-in strategy; None for any other.

    Args:
        strategy: name of the class.
        share_encoder: whether all modalities use the same blocks in every layer.
        num_bottlenecks: number B of bottleneck tokens, for a bottleneck.
        update: its rule.
    """
    for way in (*ways(num_bottlenecks, update), LATE):
        if way.strategy == strategy and (share_encoder or not way.share_encoder):
            # With one encoder cross-attention is joint self-attention, and the authors' code runs it so.
            is_joint = share_encoder and way.strategy == "CrossAttention"
            return replace(way, share_encoder=share_encoder, as_coded=joint if is_joint else way.as_coded)
    return None


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one clip, patch embedding and head included.

    Args:
        full_layers: when every layer updates all its tokens.
        as_run: as this program computes it.
        as_coded: in the authors' code; None: it has no such model.
    """

    full_layers: int
    as_run: int
    as_coded: int | None


def cost(shape: Shape, way: Way, fusion_layer: int) -> Cost:
    """What a network costs with one way to fuse.

    Args:
        shape: the network's numbers.
        way: the way to fuse.
        fusion_layer: the first fused layer, 0 to depth.
    """
    ends = shape.embedding + shape.head
    theirs = None
    if way.as_coded:  # there the one channel of a spectrogram is repeated to three
        theirs = shape.embedding_as_coded + shape.head + layers_multiply_adds(shape, way.as_coded, fusion_layer)
    return Cost(
        ends + layers_multiply_adds(shape, way.reads, fusion_layer),
        ends + layers_multiply_adds(shape, way.reads, fusion_layer, shape.kept),
        theirs,
    )


# ---------------------------------------------------------------------------------------------------------------------
# From a resolved configuration
# ---------------------------------------------------------------------------------------------------------------------

BOTTLENECK: dict[str, Any] = {"num_bottlenecks": 4, "update": "sequential"}
"""The settings of a bottleneck that names none, as in `mbt_lightning.model.fusion`."""


def inputs_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of one example of each modality, (C, *grid), as the data module has it.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
    """
    data, sound = config["data"], config["data"]["spectrogram"].get("init_args", {})
    hop = round(sound["sample_rate"] * sound.get("hop_seconds", 0.01))  # Kaldi's is fixed
    rows = round(round(data["window_seconds"] * sound["sample_rate"]) / hop)
    shapes = {
        "rgb": (3, data["num_frames"], data["frame_size"], data["frame_size"]),
        "spectrogram": (1, rows, sound["num_mels"]),
    }
    return {m: shapes[m] for m in config["model"]["modalities"]}


def grid_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Patches along each axis, as `mbt_lightning.model.tokens.PatchTokens` cuts an input (C, *grid)."""
    size = list(shape[1:])
    missing = len(size) - len(patch)
    if missing and size[missing] % patch[0]:  # frames are laid below each other
        size = [prod(size[: missing + 1]), *size[missing + 1 :]]
    else:
        patch = [*[1] * missing, *patch]
    return tuple(s // p for s, p in zip(size, patch, strict=True))


def shape_of_settings(config: Mapping[str, Any], num_classes: int) -> Shape:
    """The numbers of the network that a configuration describes.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
        num_classes: how many logits the head gives.
    """
    model, inputs = config["model"], inputs_of(config)
    size = SIZES[model["size"]] if isinstance(model["size"], str) else EncoderSize(**model["size"])
    is_cls, before = model["head"] == "cls", model.get("representation_size")
    widths = [size.dim, *([before] if before else []), num_classes]
    patches = [(prod(grid_of(inputs[m], model["patches"][m])), model["patches"][m], inputs[m][0]) for m in inputs]
    tokens = tuple(n + is_cls for n, _, _ in patches)
    return Shape(
        tokens=tokens,
        kept=tuple(1 if is_cls else n for n in tokens),
        dim=size.dim,
        hidden_dim=round(size.dim * size.mlp_ratio),
        depth=size.depth,
        embedding=sum(n * size.dim * prod(patch) * channels for n, patch, channels in patches),
        embedding_as_coded=sum(n * size.dim * prod(patch) * 3 for n, patch, _ in patches),
        head=(len(inputs) if is_cls else 1) * sum(n * m for n, m in pairwise(widths)),
    )


def cost_of_settings(config: Mapping[str, Any], num_classes: int) -> Cost | None:
    """What the network of a configuration costs; None if this arithmetic does not know its strategy.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
        num_classes: how many logits the head gives.
    """
    model, shape = config["model"], shape_of_settings(config, num_classes)
    fusion_layer = model["fusion_layer"] if len(shape.tokens) > 1 else shape.depth
    way: Way | None = LATE
    if fusion_layer < shape.depth:
        module, _, name = model["fusion"]["class_path"].rpartition(".")
        if module not in ("mbt_lightning", "mbt_lightning.model.fusion"):
            return None
        chosen = BOTTLENECK | (model["fusion"].get("init_args") or {})
        way = find_way(name, model["share_encoder"], chosen["num_bottlenecks"], chosen["update"])
    return cost(shape, way, fusion_layer) if way else None
