"""How long the encoder takes with each fusion strategy, compared with a peer and the machine's limit.

    python benchmarks/model.py [--repeats 5] [--threads 1] [--device cuda] [--save]

Timed are the forward pass (without gradients), and the forward and backward pass of a training step, without data, loss
and optimiser. The model is a ViT-S of 12 layers, fused from layer 8 on, for 8 frames of 112 pixels and a spectrogram
of 400 x 128, with random weights, float32.

Peers: two `timm.VisionTransformer`s with the same size and numbers of tokens, whose logits are averaged (late fusion);
all strategies but cross-attention are compared with them. Cross-attention is compared with the authors' implementation:
each modality's whole block, including queries and MLP, computes the tokens of all modalities, and those of the others
are discarded.

Limit: the same number of multiply-adds (`gflops_per_clip`; three times as many for forward and backward) as plain
matrix products with the shape of the block's first MLP layer: frame tokens of all clips x dim x 4 dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import measure
import torch
from torch import Tensor, nn

from mbt_lightning.model.authors_flops import CrossAttentionAsCoded
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, Fusion, JointSelfAttention
from mbt_lightning.model.mbt import MBT, named_size

try:
    from timm.models.vision_transformer import VisionTransformer
except ImportError:
    VisionTransformer = None

NUM_CLASSES = 527
FUSION_LAYER = 8
SHAPES = {"rgb": (3, 8, 112, 112), "spectrogram": (1, 400, 128)}

STRATEGIES: dict[str, tuple[Callable, int]] = {  # with L_f
    "late": (Fusion, 12),
    "bottleneck, sequential, B=4": (partial(Bottleneck, num_bottlenecks=4, update="sequential"), FUSION_LAYER),
    "bottleneck, symmetric, B=4": (partial(Bottleneck, num_bottlenecks=4, update="symmetric"), FUSION_LAYER),
    "cross-attention": (CrossAttention, FUSION_LAYER),
    "joint": (JointSelfAttention, FUSION_LAYER),
}
TIMM, AUTHORS = "peer: two timm ViTs, late", "peer: cross-attention as the authors code it"


class TimmLateFusion(nn.Module):
    """Peer: a timm ViT for each modality; a clip's frames are stacked to one tall image, for equal tokens."""

    def __init__(self, size):
        super().__init__()
        self.frames = self.encoder(size, 3, (8 * 112, 112))
        self.spectrogram = self.encoder(size, 1, (400, 128))

    @staticmethod
    def encoder(size, channels: int, shape: tuple[int, int]) -> nn.Module:
        width = {"embed_dim": size.dim, "depth": size.depth, "num_heads": size.num_heads, "mlp_ratio": size.mlp_ratio}
        gelu = partial(nn.GELU, approximate="tanh")
        return VisionTransformer(shape, 16, channels, NUM_CLASSES, act_layer=gelu, **width)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stacked = inputs["rgb"].flatten(2, 3)  # (B, 3, 8 * 112, 112)
        return {"rgb": self.frames(stacked), "spectrogram": self.spectrogram(inputs["spectrogram"])}


def networks(size) -> dict[str, nn.Module]:
    build = partial(MBT, SHAPES, NUM_CLASSES, size=size)
    built = {name: build(fusion=fusion, fusion_layer=layer) for name, (fusion, layer) in STRATEGIES.items()}
    if VisionTransformer is None:
        print("timm is not installed: its peer is missing (pip install timm)\n")
    else:
        built[TIMM] = TimmLateFusion(size)
    built[AUTHORS] = build(fusion=CrossAttentionAsCoded, fusion_layer=FUSION_LAYER)
    for network in built.values():
        for layer in network.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == NUM_CLASSES:
                nn.init.normal_(layer.weight, std=0.02)  # heads start at zero: no gradient would reach the encoder
    return built


def infer(network: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        network(inputs)


def train(network: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    network.zero_grad(set_to_none=True)
    torch.stack(list(network(inputs).values())).logsumexp(-1).mean().backward()


def main() -> None:
    parser = measure.arguments(__doc__, repeats=5)
    parser.add_argument("--batch", type=int, default=4, help="clips in a batch, default 4")
    parser.add_argument("--size", default="s", help="ti, s, b or l, default s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = named_size(options.size)
    built = {name: network.to(options.device) for name, network in networks(size).items()}
    inputs = {m: torch.randn(options.batch, *shape, device=options.device) for m, shape in SHAPES.items()}

    num_tokens = options.batch * (1 + 8 * 49)
    left = torch.randn(num_tokens, size.dim, device=options.device)
    right = torch.randn(size.dim, round(size.mlp_ratio * size.dim), device=options.device)
    gflops = {name: gflops_per_clip(network, SHAPES) for name, network in built.items()}
    products = max(1, round(options.batch * gflops["late"] * 1e9 / (left.numel() * right.shape[1])))

    def multiply() -> None:
        for _ in range(products):
            left @ right

    parts = []
    for title, step, passes in (("Forward", infer, 1), ("Forward and backward", train, 3)):
        tasks = {name: partial(step, network, inputs) for name, network in built.items()}
        times = measure.interleaved({**tasks, "limit": multiply}, options.repeats, options.device)
        rate = products * left.numel() * right.shape[1] / times["limit"].busy.min() / 1e6
        rows = []
        for name, network in built.items():
            work = options.batch * gflops[name] * 1e9 * passes / (products * left.numel() * right.shape[1])
            peer = AUTHORS if name in ("cross-attention", AUTHORS) else TIMM
            ratios = [times[name].over(times.get(peer)), times[name].over(times["limit"].scaled(work))]
            sizes = [f"{count_parameters(network) / 1e6:.1f}", f"{gflops[name]:.2f}"]
            rows.append([name, *sizes, *times[name].cells(), *ratios])
        head = ["", "M parameters", "GFLOPs per clip", *measure.CLOCKS, "to peer", "to limit"]
        parts += [f"### {title}, size {options.size}, batch {options.batch}", measure.table(head, rows)]
        parts += [
            f"Limit: {rate:.0f} billion multiply-adds a second. Ratios: of the least busy times (median of the ratios)."
        ]
    measure.report("model", "\n\n".join(parts), options, ["torch", "timm"])


if __name__ == "__main__":
    main()
