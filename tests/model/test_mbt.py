"""The encoder around the fusion: sizes, refusals, block, costs, and what torch does to it."""

import pytest
import torch
from torch import nn

from mbt_lightning.data.records import DataSpec
from mbt_lightning.errors import UserError
from mbt_lightning.model.blocks import Block, DropPath, Mlp
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, JointSelfAttention
from mbt_lightning.model.mbt import MBT, fuse
from mbt_lightning.model.size import SIZES, EncoderSize
from mbt_lightning.training.module import AudioVisualClassifier

SMALL = EncoderSize(dim=16, depth=3, num_heads=2)
INPUTS = {"rgb": (3, 2, 32, 32), "spectrogram": (1, 48, 32)}
CLASSES = 5


def build(inputs=INPUTS, **settings) -> MBT:
    torch.manual_seed(0)
    model = MBT(inputs, CLASSES, **{"size": SMALL, "fusion_layer": 1} | settings)
    nn.init.normal_(model.head.linear.weight)
    return model.eval()


def draw(inputs=INPUTS, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m: torch.randn(batch, *shape, generator=generator) for m, shape in inputs.items()}


def test_fuse_is_the_mean() -> None:
    logits = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, -2.0]]), "c": torch.tensor([[5.0, 3.0]])}
    assert fuse(logits).tolist() == [[3.0, 1.0]]
    assert fuse({"a": logits["a"]}).tolist() == [[1.0, 2.0]]
    present = {m: torch.tensor([m != "b"]) for m in logits}
    assert fuse(logits, present).tolist() == [[3.0, 2.5]]


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "dim", "depth", "heads", "millions"),
        [("ti", 192, 12, 3, 5.34), ("s", 384, 12, 6, 21.3), ("b", 768, 12, 12, 85.05), ("l", 1024, 24, 16, 302.3)],
    )
    def test_by_name(self, name, dim, depth, heads, millions) -> None:
        assert SIZES[name] == EncoderSize(dim, depth, heads)
        with torch.device("meta"):
            model = MBT({"spectrogram": (1, 32, 32)}, CLASSES, size=name)
        assert count_parameters(model.layers) / 1e6 == pytest.approx(millions, rel=2e-3)

    def test_names_of_parameters_are_timms(self) -> None:
        names = {name for name, _ in Block(16, 2).named_parameters()}
        layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
        # The whole tree: weights of a run stand under these names for ever.
        top = {name.rsplit(".", 1)[0] if "layers" not in name else "layers" for name in build().state_dict()}
        assert top == {"tokens.rgb", "tokens.spectrogram", "fusion", "layers", "norm", "head.linear"}

    def test_tubelets(self) -> None:
        model = build({"rgb": (3, 8, 32, 32)}, patches={"rgb": [2, 16, 16]})
        assert model.tokens["rgb"].grid == (4, 2, 2)

    def test_stochastic_depth_grows_linearly(self) -> None:
        model = build(drop_path=0.3)
        assert [layer["rgb"].drop_path.p for layer in model.layers] == pytest.approx([0.0, 0.15, 0.3])


REFUSALS = {
    "no modality": ({"inputs": {}}, "no modality is given: name at least one of rgb, spectrogram"),
    "modality": (
        {"inputs": {"flow": (3, 32, 32)}},
        "modality 'flow' has no patch size: add it to patches, which has rgb, sp",
    ),
    "shared": (
        {"inputs": {"shared": (3, 32, 32)}, "patches": {"shared": [16, 16]}},
        "a modality cannot be called 'shared'",
    ),
    "size": ({"size": "huge"}, "size is 'huge': choose one of ti, s, b, l, or give dim, depth and num_heads"),
    "heads": ({"size": EncoderSize(16, 3, 3)}, "dim 16 is not a multiple of num_heads 3"),
    "late": ({"fusion_layer": 4}, r"fusion_layer is 4, but the encoder has 3 layers: give 0 \(early.*\) to 3 \(late"),
    "early": ({"fusion_layer": -1}, "fusion_layer is -1, but the encoder has 3 layers"),
    "no heads": ({"size": EncoderSize(16, 3, 0)}, "num_heads is 0: give more than 0"),
    "dropout": ({"dropout": 1.0}, "dropout is 1.0: give a probability from 0 to below 1"),
    "attention_dropout": ({"attention_dropout": -1}, "attention_dropout is -1"),
    "drop_path": ({"drop_path": 1.0}, "drop_path is 1.0: give a probability from 0 to below 1"),
    "negative drop_path": ({"drop_path": -0.1}, "drop_path is -0.1"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        build(**settings)
    assert issubclass(UserError, ValueError)


class TestDropPath:
    def test_whole_examples_go_and_the_rest_is_not_scaled(self) -> None:
        torch.manual_seed(0)
        branch = torch.randn(4000, 2, 3)
        out = DropPath(0.3)(branch)
        kept = (out == branch).all((1, 2))
        gone = (out == 0).all((1, 2))
        assert (kept ^ gone).all()
        assert gone.float().mean() == pytest.approx(0.3, abs=0.03)

    def test_is_off_in_evaluation(self) -> None:
        branch = torch.randn(50, 2, 3)
        assert torch.equal(DropPath(0.9).eval()(branch), branch)

    def test_attention_and_mlp_draw_apart(self) -> None:
        torch.manual_seed(0)
        block, x = Block(8, 2, drop_path=0.5), torch.randn(200, 3, 8)
        out = block(x)
        after_attention = x + block.attn(block.norm1(x))
        cases = [
            x,
            after_attention,
            x + block.mlp(block.norm2(x)),
            after_attention + block.mlp(block.norm2(after_attention)),
        ]
        near = torch.stack([(out - case).abs().amax((1, 2)) < 1e-5 for case in cases])
        assert (near.sum(0) == 1).all() and (near.float().mean(1) > 0.15).all()


class TestDropout:
    def test_its_four_places(self) -> None:
        """Attention weights, after the attention's projection, after the GELU, after the MLP."""
        torch.manual_seed(0)
        x = torch.randn(1, 5, 64)
        for settings in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
            block = Block(64, 2, **settings)
            assert not torch.allclose(block(x), block(x))
            block.eval()
            assert torch.equal(block(x), block(x))
        block = Block(64, 2, dropout=0.5)
        block.attn.proj.weight.data.zero_()
        block.mlp.fc2.weight.data.zero_()
        nn.init.ones_(block.attn.proj.bias), nn.init.ones_(block.mlp.fc2.bias)
        added = (block(x) - x).round(decimals=4)  # two branches of ones, each left out or doubled
        assert set(added.unique().tolist()) == {0.0, 2.0, 4.0}
        assert (added == 2).float().mean() == pytest.approx(0.5, abs=0.15)

    def test_what_goes_on_after_the_gelu_is_scaled(self) -> None:
        torch.manual_seed(0)
        mlp = Mlp(4, 4000, dropout=0.25)
        nn.init.zeros_(mlp.fc1.weight), nn.init.ones_(mlp.fc1.bias), nn.init.ones_(mlp.fc2.weight)
        nn.init.zeros_(mlp.fc2.bias)
        x = torch.zeros(1, 1, 4)
        ratio = (mlp(x) / mlp.eval()(x)).flatten()
        assert ratio[0] != 1 and ratio[0].item() == pytest.approx(1, abs=0.05)

    def test_settings_reach_every_block(self) -> None:
        model = build(dropout=0.1, attention_dropout=0.2)
        assert {b.attn.dropout for layer in model.layers for b in layer.values()} == {0.2}
        assert {d.p for d in model.modules() if isinstance(d, nn.Dropout)} == {0.1}
        assert model.state_dict().keys() == build().state_dict().keys()


class TestTorch:
    def test_bf16_autocast_is_near(self) -> None:
        for fusion in (Bottleneck, CrossAttention, JointSelfAttention):
            model, inputs = build(fusion=fusion), draw()
            exact = model(inputs)
            with torch.autocast("cpu", torch.bfloat16):
                rough = model(inputs)
            for m, x in exact.items():
                assert 0 < (rough[m].float() - x).abs().max() < 0.05 * x.abs().max()

    def check_compiled(self, compiled: MBT) -> None:
        plain, inputs = build(), draw()
        assert list(compiled.state_dict()) == list(plain.state_dict())
        compiled.load_state_dict(plain.state_dict())
        with torch.no_grad():
            ours, theirs = compiled(inputs), plain(inputs)
        for m in INPUTS:
            torch.testing.assert_close(ours[m], theirs[m], rtol=1e-4, atol=1e-5)

    def test_it_is_one_graph(self) -> None:
        """What torch.compile must trace, without its slow back end; a break in the graph fails."""
        torch._dynamo.reset()
        model = build()
        model.compile(backend="eager", fullgraph=True)
        self.check_compiled(model)

    @pytest.mark.slow
    def test_compiled_is_the_same(self) -> None:
        torch._dynamo.reset()
        spec = DataSpec(INPUTS, tuple("abcde"))
        settings = {"size": SMALL, "fusion_layer": 1}
        self.check_compiled(AudioVisualClassifier(spec, compile=True, **settings).network.eval())


def full_layers(num_tokens: int, dim: int, num_layers: int) -> float:
    """Multiply-adds as paper.md counts them: 12 N d^2 + 2 N^2 d a layer."""
    return num_layers * (12 * num_tokens * dim**2 + 2 * num_tokens**2 * dim)


def last_layer(num_tokens: int, dim: int) -> float:
    """Keys and values of all tokens; queries, projection and MLP of the CLS token only."""
    return 2 * num_tokens * dim**2 + 10 * dim**2 + 2 * num_tokens * dim


class TestCost:
    def test_of_a_small_model_by_hand(self) -> None:
        inputs = {"spectrogram": (1, 48, 32)}
        tokens = 1 + 3 * 2
        by_hand = full_layers(tokens, 16, 2) + last_layer(tokens, 16) + (tokens - 1) * 256 * 16 + 16 * CLASSES
        model = build(inputs)
        assert gflops_per_clip(model, inputs) * 1e9 == pytest.approx(by_hand, rel=1e-9)
        assert next(model.parameters()).device.type == "cpu" and model(draw(inputs))

    def test_each_bottleneck_costs_what_it_should(self) -> None:
        """One fused layer that is not the last: B more tokens in each modality's layer, B more keys in the last."""
        inputs = {"spectrogram": (1, 48, 32), "rgb": (3, 2, 32, 32)}
        plain, dim, number = build(fusion_layer=3), 16, 5
        model = build(fusion_layer=1, fusion=lambda g: Bottleneck(g, number, "symmetric"))
        more = 0.0
        for n in (7, 9):
            more += (
                full_layers(n + number, dim, 1)
                - full_layers(n, dim, 1)
                + last_layer(n + number, dim)
                - last_layer(n, dim)
            )
        difference = gflops_per_clip(model, inputs) - gflops_per_clip(plain, inputs)
        assert difference * 1e9 == pytest.approx(more, rel=1e-6)

    def test_late_fusion_costs_the_same_with_every_strategy(self) -> None:
        costs = {gflops_per_clip(build(fusion=f, fusion_layer=3), INPUTS) for f in (Bottleneck, CrossAttention)}
        assert len(costs) == 1

    @pytest.mark.parametrize(("frames", "spectrogram", "late"), [(4, 400, 95.8), (8, 800, 215.7)], ids=["4s", "8s"])
    def test_late_fusion_of_the_paper(self, frames, spectrogram, late) -> None:
        """`late` is paper.md 4.2: all layers full, without embeddings. Ours saves most of the last layer."""
        inputs = {"rgb": (3, frames, 224, 224), "spectrogram": (1, spectrogram, 128)}
        counts = {"rgb": frames * 196, "spectrogram": spectrogram // 16 * 8}
        with torch.device("meta"):
            model = MBT(inputs, 527, size="b", fusion_layer=12)
        assert sum(full_layers(n + 1, 768, 12) for n in counts.values()) / 1e9 == pytest.approx(late, abs=0.06)

        embedding = 768 * (counts["rgb"] * 768 + counts["spectrogram"] * 256)
        head = 2 * 768 * 527
        layers = sum(full_layers(n + 1, 768, 11) + last_layer(n + 1, 768) for n in counts.values())
        ours = gflops_per_clip(model, inputs)
        assert ours * 1e9 == pytest.approx(layers + embedding + head, rel=1e-9)
        assert 0.92 * late < ours < late

    def test_order_of_costs(self) -> None:
        """At the paper's setting a bottleneck adds next to nothing, joint attention some, cross-attention most."""
        inputs = {"rgb": (3, 8, 224, 224), "spectrogram": (1, 800, 128)}
        costs = []
        for fusion in (Bottleneck, JointSelfAttention, CrossAttention):
            with torch.device("meta"):
                costs.append(gflops_per_clip(MBT(inputs, 527, size="b", fusion_layer=0, fusion=fusion), inputs))
        with torch.device("meta"):
            late = gflops_per_clip(MBT(inputs, 527, size="b", fusion_layer=12), inputs)
        assert late < costs[0] < 1.01 * late < costs[1] < costs[2] < 1.3 * late
