"""Vision transformers as starting weights: Google's `.npz` files, and whatever has timm's names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbt_lightning.errors import UserError, abbreviate, did_you_mean, one_line
from mbt_lightning.model.pretrained.flax import read_npz, read_params
from mbt_lightning.model.pretrained.init import Encoder, EncoderInit
from mbt_lightning.model.pretrained.linen import block_state, tensor
from mbt_lightning.model.pretrained.torch_files import read_tensors


class GoogleViT(EncoderInit):
    """A ViT of google-research/vision_transformer or big_vision (`.npz`) or scenic: the paper's start (ImageNet-21k).

    Names may be bare or start with `opt/target/` or `params/`, and numbered as before or after Linen. The paper's
    encoder is `imagenet21k/ViT-B_16.npz` from https://storage.googleapis.com/vit_models/.

    Args:
        path: a `.npz` file, or a checkpoint of scenic's ViT.
        **common: `bottlenecks_from_positions`, `inflate` and `leave_cls`.
    """

    def __init__(self, path: str, **common):
        super().__init__(**common)
        self.path = Path(path)

    def read(self) -> Encoder:
        """The encoder in the file."""
        read = read_npz if self.path.suffix == ".npz" else read_params
        return encoder_of_google(read(self.path))

    def __str__(self) -> str:
        """What is read, for messages."""
        return str(self.path)


class TimmViT(EncoderInit):
    """A plain ViT of timm, by name, which downloads it, or by a local file with timm's names.

    LayerScale is folded into the projections that it scales. A ViT with parts that the encoder does not have (a norm
    before the blocks, register tokens, gated MLPs, normalised queries, rotary positions) is refused. timm's GELU is
    exact where this encoder's is the tanh approximation, as in Google's own ViTs: a difference of at most 5e-4.

    Args:
        name: name of a timm model, e.g. vit_base_patch16_224.augreg_in21k; needs the package timm.
        path: a `.safetensors`, `.pth`, `.pt` or `.bin` file, which is then read in place of a download.
        grid: rows and columns of patches that a file was trained with, if its images are not square.
        num_heads: attention heads of a file, which does not have their number; null: one for each 64 of its width.
        **common: `bottlenecks_from_positions`, `inflate` and `leave_cls`.

    Raises:
        UserError: neither name nor path.
    """

    def __init__(
        self,
        name: str | None = None,
        path: str | None = None,
        grid: list[int] | None = None,
        num_heads: int | None = None,
        **common,
    ):
        super().__init__(**common)
        if not name and not path:
            raise UserError("TimmViT needs the name of a timm model or the path of a file")
        self.name, self.path, self.grid, self.num_heads = name, path, grid, num_heads

    def read(self) -> Encoder:
        """The encoder, downloaded or from the file."""
        if self.path:
            return encoder_of_timm(read_tensors(self.path), self.num_heads, self.grid)
        model = timm_model(str(self.name))
        return encoder_of_timm(model.state_dict(), model.blocks[0].attn.num_heads, model.patch_embed.grid_size)

    def __str__(self) -> str:
        """What is read, for messages."""
        return self.path or f"timm {self.name}"


def timm_model(name: str) -> Any:
    """A ViT of timm with its trained weights.

    Args:
        name: its name, with a tag after a dot if there are several trainings.

    Raises:
        UserError: timm is missing, knows no such model, or cannot fetch it; or the model is no plain ViT.
    """
    try:
        import timm
    except ImportError:
        raise UserError("the package timm is not installed; pip install 'mbt-lightning[timm]'") from None
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"timm has no such model{did_you_mean(architecture, timm.list_models('*vit*'))}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag not in ("", *tags):
        raise UserError(f"timm has no weights {tag!r} of this model; there are {', '.join(tags) or 'none'}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are reported once, below
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of any library below timm: hub, network, files
        raise UserError(
            f"cannot be fetched from huggingface.co/timm/{name} (no network? {type(error).__name__}: "
            f"{one_line(error)[:80]}); download its model.safetensors and name that by path"
        ) from None
    if not is_plain(model):
        raise UserError("not a plain ViT of pre-norm blocks with LayerNorm and GELU, which the encoder is")
    return model


def is_plain(model: Any) -> bool:
    """Whether a model of timm has the blocks of this encoder; other kinds share their parameters' names."""
    for block in getattr(model, "blocks", [None]):
        kinds = [type(part).__name__ for part in (block, getattr(block, "attn", None), getattr(block, "mlp", None))]
        norms = [isinstance(getattr(block, norm, None), torch.nn.LayerNorm) for norm in ("norm1", "norm2")]
        if kinds != ["Block", "Attention", "Mlp"] or not all(norms) or "GELU" not in type(block.mlp.act).__name__:
            return False
    return True


BLOCK_PARTS = {
    f"{layer}.{part}"
    for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for part in ("weight", "bias")
}
SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}
"""timm's LayerScale, and the layer whose result it scales."""
FOREIGN = ("norm_pre.", "reg_token", "rope.", "patch_embed.norm.")
"""What changes the function of a ViT and has no place in this encoder."""


def encoder_of_timm(
    state: Mapping[str, Tensor], num_heads: int | None = None, grid: Sequence[int] | None = None
) -> Encoder:
    """An encoder from a state dict with timm's names.

    Args:
        state: the tensors.
        num_heads: attention heads; None: one for each 64 of the width.
        grid: rows and columns of patches; None: a square.

    Raises:
        UserError: no ViT, or one with parts that the encoder does not have.
    """
    parts = parts_of_timm(state)
    num_prefix = ("cls_token" in state) + ("dist_token" in state)
    cls_position, positions = split_positions(state["pos_embed"], [num_prefix, 0], grid)
    if "cls_token" in state:
        parts |= {"cls": state["cls_token"].flatten(), "cls_position": cls_position}
    filters = state["patch_embed.proj.weight"]
    heads = num_heads or usual_heads(len(filters))
    return Encoder(filters, positions, parts, heads, unknown=unknown_to_timm(state))


def usual_heads(dim: int) -> int | None:
    """Attention heads of the ViT family, one for each 64 of the width; None for a width that has none."""
    return dim // 64 if dim % 64 == 0 else None


def parts_of_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of an `Encoder` but CLS and positions, from a state dict with timm's names.

    Args:
        state: the tensors.

    Raises:
        UserError: no ViT, or one with parts that the encoder does not have.
    """
    needed = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed")
    if any(name not in state for name in needed):
        raise UserError(f"not a ViT with timm's names; it has {abbreviate(sorted(state))}")
    within = {name: name.split(".", 2)[2] for name in state if re.match(r"blocks\.\d+\.", name)}
    foreign = [name for name, part in within.items() if part not in BLOCK_PARTS | SCALES.keys()]
    foreign += [name for name in within if "norm" in name and name.replace(".weight", ".bias") not in state]
    if foreign := foreign + [name for name in state if name.startswith(FOREIGN)]:
        raise UserError(f"the encoder has no place for {abbreviate(sorted(foreign))}: choose a plain ViT")
    parts = {name: state[name] for name, part in within.items() if part in BLOCK_PARTS}
    parts |= {name: state[name] for name in ("norm.weight", "norm.bias") if name in state}
    parts["bias"] = state.get("patch_embed.proj.bias", torch.zeros(len(state["patch_embed.proj.weight"])))
    for name in [name for name in parts if name.endswith("attn.qkv.weight")]:
        parts.setdefault(name.replace("weight", "bias"), torch.zeros(len(parts[name])))
    for name, part in within.items():
        if part in SCALES:
            scaled = name.replace(part, SCALES[part])
            parts[f"{scaled}.weight"] = parts[f"{scaled}.weight"] * state[name][:, None]
            parts[f"{scaled}.bias"] = parts[f"{scaled}.bias"] * state[name]
    return parts


def unknown_to_timm(state: Mapping[str, Tensor]) -> list[str]:
    """The names of a state dict with timm's names that no part of an `Encoder` is made from."""
    known = ("cls_token", "pos_embed", "norm.weight", "norm.bias", "patch_embed.proj.weight", "patch_embed.proj.bias")
    return [name for name in state if name not in known and not name.startswith("blocks.")]


def encoder_of_google(flat: Mapping[str, Any]) -> Encoder:
    """An encoder from the parameters of a Flax ViT.

    Args:
        flat: arrays by joined, Linen-numbered names, as `flax.read_npz` gives them.

    Raises:
        UserError: no ViT.
    """
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in flat:
            raise UserError(f"not a ViT of Google's: {name!r} is missing; there are {abbreviate(sorted(flat))}")
        used.add(name)
        return tensor(flat[name])

    if any("_spectrogram" in name or name == "bottleneck" for name in flat):
        raise UserError("not a ViT, but a model of several modalities: use Scenic for the authors' MBT")
    if flat.get("embedding/kernel", np.empty((0,) * 4)).ndim != 4:
        raise UserError("not a ViT of images: its filters have more than two axes")
    depth = len({name.split("/")[1] for name in flat if re.match(r"Transformer/encoderblock_\d+/", name)})
    filters = take("embedding/kernel").movedim((-1, -2), (0, 1))
    parts = {"bias": take("embedding/bias")}
    for layer in range(max(1, depth)):
        named = block_state(take, f"Transformer/encoderblock_{layer}")
        parts |= {f"blocks.{layer}.{name}": x for name, x in named.items()}
    parts |= {"norm.weight": take("Transformer/encoder_norm/scale"), "norm.bias": take("Transformer/encoder_norm/bias")}
    heads = flat["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"].shape[1]
    where = "pos_embedding" if "pos_embedding" in flat else "Transformer/posembed_input/pos_embedding"
    prefix = int("cls" in flat and where != "pos_embedding")  # big_vision's CLS token has no position
    cls_position, grid = split_positions(take(where), [prefix])
    if "cls" in flat:
        parts |= {"cls": take("cls").flatten(), "cls_position": cls_position}
    return Encoder(filters, grid, parts, heads, unknown=sorted(flat.keys() - used))


def split_positions(
    positions: Tensor, prefixes: Sequence[int], grid: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The first position, zero where CLS tokens have none of their own, and the grid of the patches'.

    Args:
        positions: (1, prefix + N, D).
        prefixes: how many CLS and other tokens may come first; the first that leaves a grid counts.
        grid: its rows and columns; None: a square.

    Returns:
        (D) and (rows, columns, D).

    Raises:
        UserError: positions of no such grid.
    """
    count, dim = positions.shape[-2:]
    positions = positions.reshape(count, dim)
    for prefix in prefixes:
        rows, columns = grid or [isqrt(max(0, count - prefix))] * 2
        if rows * columns == count - prefix > 0:
            first = positions[0] if prefix else torch.zeros(dim)
            return first, positions[prefix:].reshape(rows, columns, dim)
    wanted = f"{grid[0]} x {grid[1]}" if grid else "square"
    raise UserError(f"{count} positions, {prefixes[0]} of them not of patches, are no {wanted} grid; give its grid")
