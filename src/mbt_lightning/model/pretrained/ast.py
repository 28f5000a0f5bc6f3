"""The Audio Spectrogram Transformer (AST, YuanGongND/ast) as starting weights: the original's files, transformers'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mbt_lightning.errors import UserError
from mbt_lightning.model.pretrained.init import Encoder, EncoderInit
from mbt_lightning.model.pretrained.torch_files import read_tensors
from mbt_lightning.model.pretrained.vit import parts_of_timm, unknown_to_timm, usual_heads

ORIGINAL = [(r"v\.(.*)", r"\1")]
"""Names of the original `.pth` files, without `module.` -> timm's."""

LAYER = r"audio_spectrogram_transformer\.(?:encoder\.layer|layers)\.(\d+)\."
TRANSFORMERS = [
    (r"audio_spectrogram_transformer\.embeddings\.cls_token", "cls_token"),
    (r"audio_spectrogram_transformer\.embeddings\.distillation_token", "dist_token"),
    (r"audio_spectrogram_transformer\.embeddings\.position_embeddings", "pos_embed"),
    (r"audio_spectrogram_transformer\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (LAYER + r"attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.q."),
    (LAYER + r"attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.k."),
    (LAYER + r"attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.v."),
    (LAYER + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (LAYER + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
    (LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
    (r"audio_spectrogram_transformer\.layernorm\.", "norm."),
]
"""Names of transformers 4.x and 5.x -> timm's, with queries, keys and values apart."""


class AST(EncoderInit):
    """AST, trained on AudioSet's audio: the original `.pth` naming, and those of transformers 4.x and 5.x.

    AST's patches overlap (16 x 16 every 10 rows and bins); this encoder's do not. The filters are kept, and each patch
    takes AST's position at its place, interpolated, so nothing is stretched; the same filters
    then see fewer patches than in training. AST reads the mean of a CLS and a distillation token: only the first is
    loaded. Its GELU is exact (see `TimmViT`), its features are those of `KaldiFbank`.

    Args:
        path: a `.pth`, `.bin` or `.safetensors` file.
        stride: from one patch to the next in AST, in rows and bins: 10 in the released models, 16 without overlap.
        num_mels: mel bins that AST was trained on.
        num_heads: its attention heads, which are not in the file; null: one for each 64 of its width.
        **common: `bottlenecks_from_positions`, `inflate` and `leave_cls`.

    Raises:
        UserError: a stride or number of bins that is not positive.
    """

    def __init__(self, path: str, stride: int = 10, num_mels: int = 128, num_heads: int | None = None, **common):
        super().__init__(**common)
        if stride < 1 or num_mels < 1:
            raise UserError(f"stride is {stride} and num_mels {num_mels}: give 1 or more")
        self.path, self.stride, self.num_mels, self.num_heads = path, stride, num_mels, num_heads

    def read(self) -> Encoder:
        """The encoder in the file."""
        state = read_tensors(self.path)
        if "embeddings.patch_embeddings.projection.weight" in state:  # a transformers ASTModel without classifier
            state = {f"audio_spectrogram_transformer.{name}": x for name, x in state.items()}
        if any(name.startswith("audio_spectrogram_transformer.") for name in state):
            state = with_fused_qkv(renamed(state, TRANSFORMERS))
        elif any(name.startswith("v.") for name in state):
            state = renamed(state, ORIGINAL)
        else:
            raise UserError(f"not AST; its names start {', '.join(sorted(state)[:3])}")
        parts = parts_of_timm(state)
        filters, positions = state["patch_embed.proj.weight"], state["pos_embed"].flatten(0, -2)
        prefix = ("cls_token" in state) + ("dist_token" in state)
        rows = (self.num_mels - filters.shape[2]) // self.stride + 1
        if rows < 1 or (len(positions) - prefix) % rows:
            raise UserError(
                f"{len(positions) - prefix} positions are not whole columns of {rows} patches: "
                "give the stride and num_mels that it was trained with"
            )
        if "cls_token" in state:
            parts |= {"cls": state["cls_token"].flatten(), "cls_position": positions[0]}
        # AST's inputs are mel x time, ours time x mel.
        grid = positions[prefix:].unflatten(0, (rows, -1)).transpose(0, 1)
        heads = self.num_heads or usual_heads(len(filters))
        return Encoder(filters.transpose(2, 3), grid, parts, heads, self.stride, unknown_to_timm(state))

    def __str__(self) -> str:
        """What is read, for messages."""
        return self.path


def with_fused_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which queries, keys and values of a block are one layer, as in timm."""
    result = {name: x for name, x in state.items() if ".attn.q." not in name}
    for name in state:
        if ".attn.q." in name:
            three = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
            if all(part in state for part in three):
                result[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([state[part] for part in three])
                for part in three[1:]:
                    del result[part]
    return result


def renamed(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict under other names.

    Args:
        state: the tensors.
        rules: regular expressions and what takes their place; the first that matches a name's start counts.
    """
    result = {}
    for name, x in state.items():
        pattern, new = next(((pattern, new) for pattern, new in rules if re.match(pattern, name)), (r"$", ""))
        result[re.sub(pattern, new, name, count=1)] = x
    return result
