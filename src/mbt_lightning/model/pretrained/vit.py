"""Vision transformers as starting weights: Google's `.npz` files, and whatever has timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.pretrained.files import read_tensors
from mbt_lightning.model.pretrained.flax import read_npz, read_params
from mbt_lightning.model.pretrained.scenic import block, some, tensor
from mbt_lightning.model.pretrained.start import Encoder, EncoderInit


class GoogleViT(EncoderInit):
    """A ViT of google-research/vision_transformer or big_vision (`.npz`) or scenic: the paper's start (ImageNet-21k).

    Names may be bare or behind `opt/target/` or `params/`, and numbered as before or after Linen. The paper's encoder
    is `imagenet21k/ViT-B_16.npz` from https://storage.googleapis.com/vit_models/.

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
        path: instead of a name, a `.safetensors`, `.pth`, `.pt` or `.bin` file.
        **common: `bottlenecks_from_positions`, `inflate` and `leave_cls`.

    Raises:
        UserError: both or none of name and path.
    """

    def __init__(self, name: str | None = None, path: str | None = None, **common):
        super().__init__(**common)
        if (name is None) == (path is None):
            raise UserError("TimmViT wants either the name of a timm model or the path of a file")
        self.name, self.path = name, path

    def read(self) -> Encoder:
        """The encoder, downloaded or from the file."""
        if self.path:
            return encoder_of_timm(read_tensors(self.path))
        model = timm_model(str(self.name))
        return encoder_of_timm(model.state_dict(), model.blocks[0].attn.num_heads)

    def __str__(self) -> str:
        """What is read, for messages."""
        return self.path or f"timm {self.name}"


def timm_model(name: str) -> Any:
    """A ViT of timm with its trained weights.

    Raises:
        UserError: timm is missing, knows no such model, or cannot fetch it; or the model is no plain ViT.
    """
    try:
        import timm
    except ImportError:
        raise UserError("the package timm is not installed; pip install 'mbt-lightning[timm]'") from None
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*", pretrained=True)[:3]
        raise UserError(f"no such model{'; there are ' + ', '.join(near) if near else ''}")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of any library below timm: hub, network, files
        raise UserError(
            f"cannot be fetched ({type(error).__name__}: {one_line(error)[:120]}); "
            "or download its file and give init_args.path"
        ) from None
    activation = getattr(getattr(getattr(model, "blocks", [None])[0], "mlp", None), "act", None)
    if not isinstance(activation, torch.nn.GELU):
        raise UserError("not a plain ViT with GELU, which the encoder is")
    return model


BLOCK_PARTS = {
    f"{layer}.{part}"
    for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for part in ("weight", "bias")
}
SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}
"""timm's LayerScale, and the layer whose result it scales."""
FOREIGN = ("norm_pre.", "reg_token", "rope.", "patch_embed.norm.")
"""What changes the function of a ViT and has no place in this encoder."""


def encoder_of_timm(state: Mapping[str, Tensor], num_heads: int | None = None) -> Encoder:
    """An encoder from a state dict with timm's names.

    Args:
        state: the tensors.
        num_heads: attention heads, if known.

    Raises:
        UserError: no ViT, or one with parts that the encoder does not have.
    """
    parts: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    foreign, unknown = [name for name in state if name.startswith(FOREIGN)], []
    for name, x in state.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            if found[2] in SCALES:
                scales[f"blocks.{found[1]}.{SCALES[found[2]]}"] = x
            elif found[2] in BLOCK_PARTS:
                parts[name] = x
            else:
                foreign.append(name)
        elif name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
            parts[f"patch.{name.split('.')[-1]}"] = x
        elif name in ("norm.weight", "norm.bias"):
            parts[name] = x
        elif name not in ("cls_token", "pos_embed"):
            unknown.append(name)
    if "patch.weight" not in parts or "blocks.0.attn.qkv.weight" not in parts or "pos_embed" not in state:
        raise UserError(f"not a ViT with timm's names; it has {some(sorted(state))}")
    if foreign:
        raise UserError(f"the encoder has no place for {some(sorted(foreign))}: choose a plain ViT")
    for name, scale in scales.items():
        parts[f"{name}.weight"] = parts[f"{name}.weight"] * scale[:, None]
        parts[f"{name}.bias"] = parts[f"{name}.bias"] * scale
    for name in [name for name in parts if name.endswith("attn.qkv.weight")]:
        parts.setdefault(name.replace("weight", "bias"), torch.zeros(len(parts[name])))
    parts.setdefault("patch.bias", torch.zeros(len(parts["patch.weight"])))
    num_prefix = ("cls_token" in state) + ("dist_token" in state)
    return Encoder(
        parts | tokens_of(state["pos_embed"], state.get("cls_token"), num_prefix), num_heads, unknown=unknown
    )


def encoder_of_google(flat: Mapping) -> Encoder:
    """An encoder from the parameters of a Flax ViT, by joined, Linen-numbered names.

    Raises:
        UserError: no ViT.
    """
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in flat:
            raise UserError(f"not a ViT of Google's: {name!r} is missing; there are {some(sorted(flat))}")
        used.add(name)
        return tensor(flat[name])

    depth = len({name.split("/")[1] for name in flat if re.match(r"Transformer/encoderblock_\d+/", name)})
    parts = {"patch.weight": take("embedding/kernel").movedim((-1, -2), (0, 1)), "patch.bias": take("embedding/bias")}
    for layer in range(max(1, depth)):
        named = block(take, f"Transformer/encoderblock_{layer}")
        parts |= {f"blocks.{layer}.{name}": x for name, x in named.items()}
    parts |= {"norm.weight": take("Transformer/encoder_norm/scale"), "norm.bias": take("Transformer/encoder_norm/bias")}
    heads = flat["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"].shape[1]
    where = "pos_embedding" if "pos_embedding" in flat else "Transformer/posembed_input/pos_embedding"
    cls = take("cls") if "cls" in flat else None
    parts |= tokens_of(take(where), cls, int(cls is not None))
    return Encoder(parts, heads, unknown=sorted(flat.keys() - used))


def tokens_of(positions: Tensor, cls: Tensor | None, num_prefix: int) -> dict[str, Tensor]:
    """CLS token, its position and the grid of positions, from (1, prefix + N, D) of square pictures.

    Raises:
        UserError: positions of no square grid.
    """
    count = positions.shape[-2]
    positions = positions.reshape(-1, positions.shape[-1])
    prefix = next((n for n in (num_prefix, 0) if isqrt(max(0, count - n)) ** 2 == count - n > 0), None)
    if prefix is None:
        raise UserError(f"{count} positions, {num_prefix} of them not of patches, are no square grid")
    side = isqrt(count - prefix)
    parts = {"positions": positions[prefix:].reshape(side, side, -1)}
    if cls is not None:
        at = positions[0] if prefix else torch.zeros_like(positions[0])  # some give their CLS token no position
        parts |= {"cls": cls.flatten(), "cls_position": at}
    return parts


def renamed(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict whose names are changed by regular expressions, the first that matches."""
    result = {}
    for name, x in state.items():
        for pattern, new in rules:
            if re.match(pattern, name):
                name = re.sub(pattern, new, name, count=1)
                break
        result[name] = x
    return result
