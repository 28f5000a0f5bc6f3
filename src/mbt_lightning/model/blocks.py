"""The transformer block of a ViT, whose queries may come from fewer tokens than its keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head dot-product attention from `x` to `context` (paper eq. 2-3; parameters are named as in timm).

    Args:
        dim: width D of the tokens.
        num_heads: number of heads H, a divisor of D.
        dropout: probability of leaving out an attention weight in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for matrix in [*self.qkv.weight.chunk(3), self.proj.weight]:
            nn.init.xavier_uniform_(matrix)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Let `x` (B, N, D) read from `context` (B, M, D), by default from itself; returns (B, N, D).

        `mask` (B, M) is false for what nobody may read.
        """
        q, k, v = self.project(x, context)
        mask = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, D/H) of `x`, keys and values (B, H, M, D/H) of `context`, by default of `x`."""
        if context is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            dim = x.shape[-1]
            q = F.linear(x, self.qkv.weight[:dim], self.qkv.bias[:dim])
            k, v = F.linear(context, self.qkv.weight[dim:], self.qkv.bias[dim:]).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return q, k, v

    def scores(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The attention weights (B, H, N, M) that `forward` mixes the values by; each row sums to 1."""
        q, k, _ = self.project(x, context)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return (scores if mask is None else scores.masked_fill(~mask[:, None, None], float("-inf"))).softmax(-1)


class Mlp(nn.Module):
    """Two linear layers with a GELU between; the GELU is the tanh approximation, as in the authors' code.

    Args:
        dim: width D of the tokens.
        hidden_dim: width between the layers.
        dropout: probability of leaving out a value after the GELU in training.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `x` (B, N, D)."""
        return self.fc2(self.dropout(F.gelu(self.fc1(x), approximate="tanh")))


class DropPath(nn.Module):
    """Stochastic depth: in training the branch of an example is left out with probability `p`.

    What is kept is not scaled by 1 / (1 - p): so do the authors, and a model trained with their rate expects it.

    Args:
        p: probability in [0, 1).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """Zero whole examples of `branch` (B, N, D) in training; the identity otherwise."""
        if not self.training or self.p == 0:
            return branch
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) >= self.p)

    def extra_repr(self) -> str:
        """Show the probability in the printed model."""
        return f"p={self.p:.3f}"


class Block(nn.Module):
    """A pre-norm transformer layer (paper eq. 2): attention, then MLP, each added to its input.

    Args:
        dim: width D of the tokens.
        num_heads: attention heads, a divisor of D.
        mlp_ratio: width of the MLP over D.
        drop_path: probability of leaving out each of the two branches, per example.
        dropout: probability of leaving out a value after the GELU and at the end of each branch.
        attention_dropout: probability of leaving out an attention weight.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Update the tokens `x` (B, N, D), which read from `context` (B, M, D), by default from themselves.

        Only the tokens in `x` pay for queries and MLP: a layer that needs to update few tokens passes those as `x`
        and everything they may read as `context`; the result equals those rows of the full layer. `mask` (B, M) is
        false for tokens of the context that nobody may read.
        """
        context = None if context is None else self.norm1(context)
        x = x + self.drop_path(self.dropout(self.attn(self.norm1(x), context, mask)))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))
