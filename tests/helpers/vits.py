"""Vision transformers under the names of those who give them away."""

import numpy as np
from torch import nn


def google_names(vit: nn.Module, prefix: str = "", numbers: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, np.ndarray]:
    """A ViT of timm under Google's names: pre-Linen numbers are (0, 1, 2, 3), Linen's (0, 0, 1, 0)."""
    state = {name: x.detach().numpy() for name, x in vit.state_dict().items()}
    depth, heads, dim = len(vit.blocks), vit.blocks[0].attn.num_heads, vit.embed_dim
    ln0, attention, ln1, mlp = numbers
    out = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for layer in range(depth):
        there, here = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        for ours, theirs in (("norm1", f"LayerNorm_{ln0}"), ("norm2", f"LayerNorm_{ln1}")):
            out[f"{here}/{theirs}/scale"] = state[f"{there}.{ours}.weight"]
            out[f"{here}/{theirs}/bias"] = state[f"{there}.{ours}.bias"]
        for i, part in enumerate(("query", "key", "value")):
            name = f"{here}/MultiHeadDotProductAttention_{attention}/{part}"
            weight = np.split(state[f"{there}.attn.qkv.weight"], 3)[i]
            out[f"{name}/kernel"] = weight.T.reshape(dim, heads, -1)
            out[f"{name}/bias"] = np.split(state[f"{there}.attn.qkv.bias"], 3)[i].reshape(heads, -1)
        name = f"{here}/MultiHeadDotProductAttention_{attention}/out"
        out[f"{name}/kernel"] = state[f"{there}.attn.proj.weight"].T.reshape(heads, -1, dim)
        out[f"{name}/bias"] = state[f"{there}.attn.proj.bias"]
        for i, fc in enumerate(("fc1", "fc2")):
            out[f"{here}/MlpBlock_{mlp}/Dense_{i}/kernel"] = state[f"{there}.mlp.{fc}.weight"].T
            out[f"{here}/MlpBlock_{mlp}/Dense_{i}/bias"] = state[f"{there}.mlp.{fc}.bias"]
    extra = {"opt/state/step": np.int64(3), "extra/accum_train_time": np.float32(1)} if prefix == "opt/target/" else {}
    return {prefix + name: x for name, x in out.items()} | extra
