"""Starting weights: every kind of file, made here in its own naming, put into models of many shapes; the report."""

import json
import re

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from vits import google_names

from mbt_lightning.errors import UserError
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, JointSelfAttention
from mbt_lightning.model.heads import MeanPoolHead
from mbt_lightning.model.mbt import MBT, EncoderSize
from mbt_lightning.model.pretrained.ast import AST
from mbt_lightning.model.pretrained.init import PerModality
from mbt_lightning.model.pretrained.positions import fit_filter, near_square, resample, sample, spread
from mbt_lightning.model.pretrained.vit import GoogleViT, TimmViT, encoder_of_timm

DIM, DEPTH, HEADS, SIDE, PATCH = 16, 3, 2, 4, 8
SIZE = EncoderSize(DIM, DEPTH, HEADS, 2.0)
INPUTS = {"rgb": (3, 4, 32, 48), "spectrogram": (1, 80, 32)}
PATCHES = {"rgb": [2, PATCH, PATCH], "spectrogram": [PATCH, PATCH]}


def build(inputs=INPUTS, **settings) -> MBT:
    torch.manual_seed(0)
    return MBT(inputs, 5, **{"size": SIZE, "fusion_layer": 1, "patches": PATCHES} | settings).eval()


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """A ViT of timm at random weights, none of them zero."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    gelu = lambda: nn.GELU(approximate="tanh")  # noqa: E731
    size = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2.0}
    model = VisionTransformer(SIDE * PATCH, PATCH, num_classes=7, act_layer=gelu, **size)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def timm_file(vit, tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file(vit.state_dict(), path)
    return str(path)


def google_file(vit, path, **naming) -> str:
    np.savez(path, **google_names(vit, **naming))
    return str(path)


def same_function(vit: nn.Module, network: MBT) -> None:
    """A model of single pictures of the ViT's own size must compute what the ViT computes."""
    x = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    with torch.no_grad():
        torch.testing.assert_close(
            network.encode({"rgb": x[:, :, None]})[0]["rgb"], vit.forward_features(x), rtol=1e-4, atol=1e-5
        )


PICTURES = {"rgb": (3, 1, SIDE * PATCH, SIDE * PATCH)}
SINGLE = {"rgb": [1, PATCH, PATCH]}


class TestGoogle:
    @pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 0, 1, 0)], ids=["pre-Linen", "Linen"])
    @pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
    def test_every_naming_computes_what_the_vit_does(self, vit, tmp_path, numbers, prefix) -> None:
        path = google_file(vit, tmp_path / "vit.npz", prefix=prefix, numbers=numbers)
        network = build(PICTURES, patches=SINGLE)
        report = GoogleViT(path)(network)
        same_function(vit, network)
        assert report.initial == ["head.linear.weight", "head.linear.bias"]
        assert report.unused == ["head/bias", "head/kernel"]

    def test_a_checkpoint_of_scenics_vit(self, vit, tmp_path) -> None:
        def pack(x) -> msgpack.ExtType:
            return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes())))

        tree = {name: pack(x) for name, x in google_names(vit, numbers=(0, 0, 1, 0)).items()}
        (tmp_path / "checkpoint_9").write_bytes(msgpack.packb({"params": tree}))
        network = build(PICTURES, patches=SINGLE)
        GoogleViT(str(tmp_path / "checkpoint_9"))(network)
        same_function(vit, network)

    def test_what_is_no_vit_of_pictures_is_refused(self, vit, tmp_path) -> None:
        """Positions of t x h x w patches, or of an MBT, would be read as those of a square picture."""
        names = google_names(vit)
        tubelets = names | {"embedding/kernel": np.zeros((2, PATCH, PATCH, 3, DIM), np.float32)}
        np.savez(tmp_path / "vivit.npz", **tubelets)
        with pytest.raises(UserError, match="not a ViT of images: its filters have more than two axes"):
            GoogleViT(str(tmp_path / "vivit.npz"))(build())
        np.savez(tmp_path / "mbt.npz", **names, bottleneck=np.zeros((1, 5, DIM), np.float32))
        with pytest.raises(UserError, match="a model of several modalities: use Scenic for the authors' MBT"):
            GoogleViT(str(tmp_path / "mbt.npz"))(build())

    def test_big_vision_positions_without_cls(self, vit, tmp_path) -> None:
        """There the positions are at the top, and the CLS token has none."""
        names = google_names(vit, "params/", (0, 0, 1, 0))
        positions = names.pop("params/Transformer/posembed_input/pos_embedding")
        np.savez(tmp_path / "vit.npz", **names, **{"params/pos_embedding": positions[:, 1:]})
        network = build(PICTURES, patches=SINGLE)
        GoogleViT(str(tmp_path / "vit.npz"))(network)
        assert not network.tokens["rgb"].positions[0, 0].any()
        np.testing.assert_array_equal(network.tokens["rgb"].positions[0, 1:].detach(), positions[0, 1:])

    def test_both_encoders(self, vit, tmp_path) -> None:
        path = google_file(vit, tmp_path / "vit.npz")
        network, state = build(), vit.state_dict()
        report = GoogleViT(path)(network)
        for m in INPUTS:
            for name, x in network.layers[2][m].state_dict().items():
                assert torch.equal(x, state[f"blocks.2.{name}"])
            assert torch.equal(network.tokens[m].cls.flatten(), state["cls_token"].flatten())
            assert torch.equal(network.tokens[m].positions[0, 0], state["pos_embed"][0, 0])
        assert list(report.fitted) == [
            "tokens.rgb.weight",
            "tokens.rgb.positions",
            "tokens.spectrogram.positions",
        ]
        assert report.fitted["tokens.rgb.positions"] == "4x4 -> 2x4x6: resampled, repeated 2 times"
        assert report.fitted["tokens.spectrogram.positions"] == "4x4 -> 10x4: resampled"
        assert set(report.initial) == {"fusion.bottleneck", "head.linear.weight", "head.linear.bias"}
        own, grid = network.tokens["rgb"].positions[0, 1:].view(2, 4, 6, DIM), state["pos_embed"][0, 1:].view(4, 4, DIM)
        assert torch.equal(own[0], own[1])
        for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # corners stay corners
            torch.testing.assert_close(own[0, row, column], grid[row, column])

    def test_as_the_authors_leave_it(self, vit, tmp_path) -> None:
        """CLS of the sound at zero, bottlenecks from the positions; the default does neither."""
        path = google_file(vit, tmp_path / "vit.npz")
        network = build(fusion=lambda g: Bottleneck(g, 5, "symmetric"))
        report = GoogleViT(path, bottlenecks_from_positions=True, leave_cls=["spectrogram"])(network)
        assert not network.tokens["spectrogram"].cls.any() and network.tokens["rgb"].cls.all()
        assert "tokens.spectrogram.cls" in report.initial
        positions = vit.state_dict()["pos_embed"][0]
        corners = positions[1:].view(SIDE, SIDE, DIM)[[0, 0, -1, -1], [0, -1, 0, -1]]
        torch.testing.assert_close(network.fusion.bottleneck[0].detach(), torch.cat([positions[:1], corners]))

    @pytest.mark.parametrize(("how", "frame"), [("central", [0, 1]), ("average", [0.5, 0.5])])
    def test_inflation(self, vit, tmp_path, how, frame) -> None:
        network = build()
        GoogleViT(google_file(vit, tmp_path / "vit.npz"), inflate=how)(network)
        flat = vit.state_dict()["patch_embed.proj.weight"]
        for t, part in enumerate(frame):
            torch.testing.assert_close(network.tokens["rgb"].weight[:, :, t].detach(), part * flat)

    def test_a_still_video_gives_the_pictures_tokens(self, vit, tmp_path) -> None:
        """Whatever the inflation, two equal frames must give what one picture gives to the ViT."""
        x = torch.randn(1, 3, 32, 48)
        for how in ("central", "average"):
            network = build()
            GoogleViT(google_file(vit, tmp_path / "vit.npz"), inflate=how)(network)
            tokens = network.tokens["rgb"]
            ours = tokens.split(x[:, :, None].expand(-1, -1, 4, -1, -1)) @ tokens.weight.flatten(1).T
            theirs = nn.functional.conv2d(x, vit.patch_embed.proj.weight, stride=PATCH).flatten(2).transpose(1, 2)
            torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs)

    @pytest.mark.parametrize("fusion", [CrossAttention, JointSelfAttention])
    @pytest.mark.parametrize("share", [False, True])
    def test_other_strategies_and_shared_blocks(self, vit, tmp_path, fusion, share) -> None:
        network = build(fusion=fusion, share_encoder=share)
        report = GoogleViT(google_file(vit, tmp_path / "vit.npz"))(network)
        assert report.initial == ["head.linear.weight", "head.linear.bias"]
        for layer, modules in enumerate(network.layers):
            for block in modules.values():
                torch.testing.assert_close(block.mlp.fc1.weight, vit.blocks[layer].mlp.fc1.weight)

    def test_a_head_that_pools_leaves_the_cls_token(self, vit, tmp_path) -> None:
        network = build(head=MeanPoolHead)
        report = GoogleViT(google_file(vit, tmp_path / "vit.npz"))(network)
        assert {"cls", "cls_position"} <= set(report.unused)

    def test_a_vit_without_cls_leaves_it(self, vit, tmp_path) -> None:
        names = google_names(vit)
        del names["cls"]
        names["Transformer/posembed_input/pos_embedding"] = names["Transformer/posembed_input/pos_embedding"][:, 1:]
        np.savez(tmp_path / "vit.npz", **names)
        network = build()
        row = network.tokens["rgb"].positions[0, 0].clone()
        report = GoogleViT(str(tmp_path / "vit.npz"))(network)
        assert "tokens.rgb.cls" in report.initial
        assert report.fitted["tokens.rgb.positions"].endswith("the CLS token's row left at its initial value")
        assert torch.equal(network.tokens["rgb"].positions[0, 0], row)

    def test_a_deeper_vit_says_what_it_leaves(self, vit, tmp_path) -> None:
        network = build(size=EncoderSize(DIM, 2, HEADS, 2.0))
        report = GoogleViT(google_file(vit, tmp_path / "vit.npz"))(network)
        assert sum(name.startswith("blocks.2.") for name in report.unused) == 12
        assert "not used, from the file: blocks.2.* (12), head/bias" in report.summary()

    def test_a_shallower_vit_says_what_it_lacks(self, vit, tmp_path) -> None:
        network = build(size=EncoderSize(DIM, 4, HEADS, 2.0))
        report = GoogleViT(google_file(vit, tmp_path / "vit.npz"))(network)
        assert sum(name.startswith("layers.3.") for name in report.initial) == 24
        assert "layers.3.rgb.* (12), layers.3.spectrogram.* (12)" in report.summary()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"size": EncoderSize(24, 3, 2, 2.0)}, r"is \[16\] there and \[24\] here.*set model.size"),
            ({"size": EncoderSize(DIM, 3, 4, 2.0)}, "2 attention heads there and 4 here: set model.size"),
            (
                {"patches": {"rgb": [2, 16, 16], "spectrogram": [8, 8]}},
                "patches are 8x8 there and 2x16x16 here: set model.p",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, vit, tmp_path, settings, message) -> None:
        path = google_file(vit, tmp_path / "vit.npz")
        with pytest.raises(UserError, match=f"model.init {re.escape(path)}: .*{message}"):
            GoogleViT(path)(build(**settings))

    def test_settings_are_checked(self, vit, tmp_path) -> None:
        with pytest.raises(UserError, match="inflate is 'zoom': choose one of central, average"):
            GoogleViT("x.npz", inflate="zoom")
        path = google_file(vit, tmp_path / "vit.npz")
        with pytest.raises(UserError, match="leave_cls names 'audio', but the model has rgb, spectrogram"):
            GoogleViT(path, leave_cls=["audio"])(build())


class TestTimm:
    def test_a_file_computes_what_the_vit_does(self, vit, timm_file) -> None:
        network = build(PICTURES, patches=SINGLE)
        report = TimmViT(path=timm_file)(network)
        same_function(vit, network)
        assert report.unused == ["head.weight", "head.bias"] or set(report.unused) == {"head.weight", "head.bias"}

    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
    def test_torch_files(self, vit, tmp_path, wrap) -> None:
        torch.save(wrap(vit.state_dict()), tmp_path / "vit.pth")
        network = build(PICTURES, patches=SINGLE)
        TimmViT(path=str(tmp_path / "vit.pth"))(network)
        same_function(vit, network)

    def test_layer_scale_is_folded_in(self, tmp_path) -> None:
        from timm.models.vision_transformer import VisionTransformer

        gelu = lambda: nn.GELU(approximate="tanh")  # noqa: E731
        size = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2.0}
        model = VisionTransformer(SIDE * PATCH, PATCH, act_layer=gelu, init_values=0.5, qkv_bias=False, **size).eval()
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        save_file(model.state_dict(), tmp_path / "vit.safetensors")
        network = build(PICTURES, patches=SINGLE)
        TimmViT(path=str(tmp_path / "vit.safetensors"))(network)
        same_function(model, network)

    @pytest.mark.parametrize(
        "settings", [{"reg_tokens": 2}, {"pre_norm": True}, {"qk_norm": True}], ids=["registers", "pre-norm", "qk-norm"]
    )
    def test_what_the_encoder_has_no_place_for_is_refused(self, tmp_path, settings) -> None:
        from timm.models.vision_transformer import VisionTransformer

        size = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
        save_file(VisionTransformer(SIDE * PATCH, PATCH, **size, **settings).state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(UserError, match=r"the encoder has no place for .*: choose a plain ViT"):
            TimmViT(path=str(tmp_path / "vit.safetensors"))(build())

    def test_by_name(self, vit, monkeypatch) -> None:
        """What timm would download; here it makes the model from a local file in the place of the hub's."""
        import timm

        asked = []

        def create(name, pretrained, num_classes):
            asked.append((name, pretrained, num_classes))
            return vit

        monkeypatch.setattr(timm, "create_model", create)
        network = build(PICTURES, patches=SINGLE)
        report = TimmViT("vit_tiny_patch16_224.augreg_in21k")(network)
        same_function(vit, network)
        assert asked == [("vit_tiny_patch16_224.augreg_in21k", True, 0)]
        assert report.source == "timm vit_tiny_patch16_224.augreg_in21k"

    def test_a_wrong_name_is_told_the_near_ones(self) -> None:
        with pytest.raises(UserError, match="timm has no such model; did you mean 'vit_base_patch16_224'"):
            TimmViT("vit_base_patch16_22")(build())

    def test_a_model_that_cannot_be_fetched(self, monkeypatch) -> None:
        import timm

        def fail(*args, **settings):
            raise OSError("no route to host")

        monkeypatch.setattr(timm, "create_model", fail)
        with pytest.raises(
            UserError, match=r"cannot be fetched .*\(no network\? OSError: no route to host\); download its model"
        ):
            TimmViT("vit_base_patch16_224")(build())

    @pytest.mark.parametrize("kind", ["no blocks", "post-norm", "RmsNorm"])
    def test_another_kind_of_model(self, monkeypatch, kind) -> None:
        """Post-norm blocks have the same names of parameters and another function."""
        import timm
        from timm.layers import RmsNorm
        from timm.models.vision_transformer import ResPostBlock, VisionTransformer

        size = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
        model = {
            "no blocks": lambda: nn.Linear(2, 2),
            "post-norm": lambda: VisionTransformer(SIDE * PATCH, PATCH, block_fn=ResPostBlock, **size),
            "RmsNorm": lambda: VisionTransformer(SIDE * PATCH, PATCH, norm_layer=RmsNorm, **size),
        }[kind]()
        monkeypatch.setattr(timm, "create_model", lambda *a, **s: model)
        with pytest.raises(UserError, match="not a plain ViT of pre-norm blocks with LayerNorm and GELU"):
            TimmViT("vit_base_patch16_224")(build())
        if kind == "RmsNorm":
            with pytest.raises(UserError, match=r"no place for blocks\.0\.norm1\.weight"):
                encoder_of_timm(model.state_dict())

    def test_pictures_that_are_not_square(self, tmp_path, monkeypatch) -> None:
        """By name timm tells the grid; a file wants to be told, and is never read as another one."""
        import timm
        from timm.models.vision_transformer import VisionTransformer

        size = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2.0}
        model = VisionTransformer((2 * PATCH, 8 * PATCH), PATCH, **size)
        inputs = {"rgb": (3, 1, 2 * PATCH, 8 * PATCH)}
        monkeypatch.setattr(timm, "create_model", lambda *a, **s: model)
        save_file(model.state_dict(), tmp_path / "vit.safetensors")
        told = TimmViT(path=str(tmp_path / "vit.safetensors"), grid=[2, 8])
        for init in (TimmViT("vit_base_patch16_224"), told):
            network = build(inputs, patches=SINGLE)
            init(network)
            assert torch.equal(network.tokens["rgb"].positions, model.pos_embed)
        with pytest.raises(UserError, match="17 positions, 1 of them not of patches, are no 3 x 8 grid; give its grid"):
            TimmViT(path=str(tmp_path / "vit.safetensors"), grid=[3, 8])(build(inputs, patches=SINGLE))

    def test_heads_that_a_file_does_not_tell(self, tmp_path, timm_file) -> None:
        """Without an option a width of whole 64s has one head for each; another number is refused, not misread."""
        from timm.models.vision_transformer import VisionTransformer

        save_file(
            VisionTransformer(16, 8, embed_dim=128, depth=1, num_heads=2).state_dict(), tmp_path / "v.safetensors"
        )
        wide = {"size": EncoderSize(128, 1, 4), "fusion_layer": 1}
        with pytest.raises(UserError, match="the encoder has 2 attention heads there and 4 here"):
            TimmViT(path=str(tmp_path / "v.safetensors"))(build(PICTURES, patches=SINGLE, **wide))
        TimmViT(path=str(tmp_path / "v.safetensors"), num_heads=4)(build(PICTURES, patches=SINGLE, **wide))
        with pytest.raises(UserError, match="the encoder has 4 attention heads there and 2 here"):
            TimmViT(path=timm_file, num_heads=4)(build())

    def test_a_wrong_tag(self) -> None:
        with pytest.raises(UserError, match=r"timm has no weights 'in1m' of this model; there are augreg"):
            TimmViT("vit_base_patch16_224.in1m")(build())

    def test_name_or_path(self, vit, timm_file) -> None:
        with pytest.raises(UserError, match="needs the name of a timm model or the path of a file"):
            TimmViT()
        network = build(PICTURES, patches=SINGLE)
        TimmViT("vit_base_patch16_224", path=timm_file)(network)  # a file that is there is taken
        same_function(vit, network)


# Rows are mel bins (128), columns time: AST's patches of 16 every 10.
AST_ROWS, AST_COLUMNS, AST_DIM = 12, 19, 16


def ast_state(names: str) -> dict[str, torch.Tensor]:
    """AST at random weights in one of its three namings."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    count = 2 + AST_ROWS * AST_COLUMNS
    timm = {"cls_token": draw(1, 1, AST_DIM), "dist_token": draw(1, 1, AST_DIM), "pos_embed": draw(1, count, AST_DIM)}
    timm |= {"patch_embed.proj.weight": draw(AST_DIM, 1, 16, 16), "patch_embed.proj.bias": draw(AST_DIM)}
    timm |= {"norm.weight": draw(AST_DIM), "norm.bias": draw(AST_DIM)}
    for layer in range(DEPTH):
        for name, shape in {
            "attn.qkv": (48, 16),
            "attn.proj": (16, 16),
            "mlp.fc1": (32, 16),
            "mlp.fc2": (16, 32),
        }.items():
            timm |= {f"blocks.{layer}.{name}.weight": draw(*shape), f"blocks.{layer}.{name}.bias": draw(shape[0])}
        for name in ("norm1", "norm2"):
            timm |= {f"blocks.{layer}.{name}.{part}": draw(16) for part in ("weight", "bias")}
    if names == "original":
        return {f"module.v.{name}": x for name, x in timm.items()} | {"module.mlp_head.0.weight": draw(16)}
    top = "audio_spectrogram_transformer"
    attention, layers, o, fc1, fc2 = {
        "4": (
            "attention.attention.{}",
            "encoder.layer",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ),
        "5": ("attention.{}_proj", "layers", "attention.o_proj", "mlp.fc1", "mlp.fc2"),
    }[names]
    out = {
        f"{top}.embeddings.cls_token": timm["cls_token"],
        f"{top}.embeddings.distillation_token": timm["dist_token"],
        f"{top}.embeddings.position_embeddings": timm["pos_embed"],
        "classifier.dense.weight": draw(3, 16),
    }
    for part in ("weight", "bias"):
        out[f"{top}.embeddings.patch_embeddings.projection.{part}"] = timm[f"patch_embed.proj.{part}"]
        out[f"{top}.layernorm.{part}"] = timm[f"norm.{part}"]
        for layer in range(DEPTH):
            here, there = f"{top}.{layers}.{layer}", f"blocks.{layer}"
            for i, (long, short) in enumerate({"query": "q", "key": "k", "value": "v"}.items()):
                chunk = timm[f"{there}.attn.qkv.{part}"].chunk(3)[i]
                out[f"{here}.{attention.format(long if names == '4' else short)}.{part}"] = chunk
            for ours, theirs in {o: "attn.proj", fc1: "mlp.fc1", fc2: "mlp.fc2"}.items():
                out[f"{here}.{ours}.{part}"] = timm[f"{there}.{theirs}.{part}"]
            out[f"{here}.layernorm_before.{part}"] = timm[f"{there}.norm1.{part}"]
            out[f"{here}.layernorm_after.{part}"] = timm[f"{there}.norm2.{part}"]
    return out


SOUND = {"spectrogram": (1, 192, 128)}
SOUND_PATCHES = {"spectrogram": [16, 16]}


def sound() -> MBT:
    return build(SOUND, patches=SOUND_PATCHES)


class TestAst:
    def test_the_three_namings_are_one_model(self, tmp_path) -> None:
        states = []
        for names in ("original", "4", "5", "bare 5"):  # transformers' ASTModel alone has no prefix
            path = tmp_path / f"ast-{names}.pth"
            state = ast_state(names.removeprefix("bare "))
            state = (
                {k.removeprefix("audio_spectrogram_transformer."): x for k, x in state.items()}
                if "bare" in names
                else state
            )
            torch.save(state, path)
            network = sound()
            report = AST(str(path))(network)
            states.append(network.state_dict())
            assert report.initial == ["head.linear.weight", "head.linear.bias"]
            assert "dist_token" in report.unused and len(report.unused) == 2
        for name, x in states[0].items():
            assert all(torch.equal(x, state[name]) for state in states[1:]), name

    def test_filters_see_the_spectrogram_turned(self, tmp_path) -> None:
        """AST's pictures are mel x time, ours time x mel, and its one channel stands for our three."""
        state = ast_state("original")
        torch.save(state, tmp_path / "ast.pth")
        network = sound()
        AST(str(tmp_path / "ast.pth"))(network)
        x = torch.randn(2, 1, 192, 128)
        tokens = network.tokens["spectrogram"]
        ours = tokens(x)[:, 1:] - tokens.positions[:, 1:]
        theirs = nn.functional.conv2d(
            x.transpose(2, 3),
            state["module.v.patch_embed.proj.weight"],
            state["module.v.patch_embed.proj.bias"],
            stride=16,
        )  # (B, D, mel, time)
        torch.testing.assert_close(ours, theirs.transpose(2, 3).flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)

    def test_positions_are_read_where_the_patches_lie(self, tmp_path) -> None:
        """Positions that grow by 10 a column and row in AST must grow by 16 here: one unit a row of the spectrogram."""
        state = ast_state("original")
        mel, time = torch.meshgrid(torch.arange(AST_ROWS) * 10.0, torch.arange(AST_COLUMNS) * 10.0, indexing="ij")
        grid = torch.zeros(AST_ROWS, AST_COLUMNS, AST_DIM)
        grid[..., 0], grid[..., 1] = mel, time
        state["module.v.pos_embed"] = torch.cat([torch.full((2, AST_DIM), 7.0), grid.flatten(0, 1)])[None]
        torch.save(state, tmp_path / "ast.pth")
        network = sound()
        report = AST(str(tmp_path / "ast.pth"))(network)
        positions = network.tokens["spectrogram"].positions[0].detach()
        assert (positions[0] == 7).all()
        time, mel = torch.meshgrid(torch.arange(12) * 16.0, torch.arange(8) * 16.0, indexing="ij")
        torch.testing.assert_close(positions[1:, 1].view(12, 8), time)
        torch.testing.assert_close(positions[1:, 0].view(12, 8), mel.clamp(max=110))  # AST's last begins at 110
        assert "19x12 -> 12x8: read at our patches' places, stride 10" in report.summary()

    def test_a_longer_sound_stretches_them(self, tmp_path) -> None:
        torch.save(ast_state("original"), tmp_path / "ast.pth")
        network = build({"spectrogram": (1, 400, 128)}, patches=SOUND_PATCHES)
        assert "19x12 -> 25x8: resampled" in AST(str(tmp_path / "ast.pth"))(network).summary()

    def test_a_wrong_stride_is_refused(self, tmp_path) -> None:
        torch.save(ast_state("original"), tmp_path / "ast.pth")
        with pytest.raises(UserError, match="228 positions are not whole columns of 8 patches: give the stride"):
            AST(str(tmp_path / "ast.pth"), stride=16)(sound())
        with pytest.raises(UserError, match="stride is 0"):
            AST("x", stride=0)

    def test_what_is_no_ast(self, timm_file, tmp_path) -> None:
        with pytest.raises(UserError, match=r"not AST; its names start blocks\.0\.attn"):
            AST(timm_file)(sound())

    def test_a_source_for_each_modality(self, vit, timm_file, tmp_path) -> None:
        torch.save(ast_state("5"), tmp_path / "ast.pth")
        inputs, patches = {"rgb": (3, 4, 32, 48)} | SOUND, {"rgb": [1, PATCH, PATCH]} | SOUND_PATCHES
        network = build(inputs, patches=patches)
        init = PerModality({"rgb": TimmViT(path=timm_file), "spectrogram": AST(str(tmp_path / "ast.pth"))})
        report = init(network)
        assert torch.equal(network.layers[0]["rgb"].attn.qkv.bias, vit.blocks[0].attn.qkv.bias)
        query = ast_state("5")["audio_spectrogram_transformer.layers.0.attention.q_proj.bias"]
        assert torch.equal(network.layers[0]["spectrogram"].attn.qkv.bias[:DIM], query)
        assert torch.equal(network.norm.weight, vit.norm.weight)  # one for both: the first source's
        assert {"norm.weight", "norm.bias"} <= set(report.unused)
        assert str(init) == f"rgb: {timm_file}, spectrogram: {tmp_path / 'ast.pth'}"
        with pytest.raises(UserError, match="names a source for 'flow', but the model has rgb, spectrogram"):
            PerModality({"flow": TimmViT(path=timm_file)})(network)
        with pytest.raises(UserError, match="rgb: leave_cls names 'sound', but the model has rgb, spectrogram"):
            PerModality({"rgb": TimmViT(path=timm_file, leave_cls=["sound"])})(network)
        alone = build(SOUND, patches=SOUND_PATCHES)
        assert "the source for rgb" in init(alone).unused


class TestFiles:
    @pytest.mark.parametrize("kind", [lambda p: TimmViT(path=p), AST, GoogleViT])
    @pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
    def test_damaged_files_give_one_line(self, kind, suffix, timm_file, vit, tmp_path) -> None:
        whole = tmp_path / f"whole.{suffix}"
        if suffix == "npz":
            google_file(vit, whole)
        elif suffix == "pth":
            torch.save(vit.state_dict(), whole)
        else:
            save_file(vit.state_dict(), whole)
        for content in (
            b"",
            b"junk" * 50,
            whole.read_bytes()[:-50],
            whole.read_bytes()[: len(whole.read_bytes()) // 2],
        ):
            path = tmp_path / f"broken.{suffix}"
            path.write_bytes(content)
            with pytest.raises(UserError, match="broken") as error:
                kind(str(path))(build())
            assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="no such file"):
            kind(str(tmp_path / "absent.pth"))(build())

    def test_nothing_in_a_file_is_run(self, tmp_path) -> None:
        import pickle

        class Evil:
            def __reduce__(self):
                return (tmp_path.joinpath("ran").write_text, ("",))

        for suffix in ("pth", "bin", "npz"):
            (tmp_path / f"evil.{suffix}").write_bytes(pickle.dumps({"model": Evil()}))
            torch.save({"model": Evil()}, tmp_path / f"evil2.{suffix}")
            for name in ("evil", "evil2"):
                source = GoogleViT if suffix == "npz" else AST
                with pytest.raises(UserError):
                    source(str(tmp_path / f"{name}.{suffix}"))(build())
        assert not (tmp_path / "ran").exists()

    def test_a_failed_load_is_refused_before_training(self, vit, timm_file) -> None:
        """A model of another width is refused as a whole, not half filled and used."""
        network = build(size=EncoderSize(DIM, 3, 2, 4.0))  # only the MLPs differ
        before = {name: p.clone() for name, p in network.named_parameters()}
        with pytest.raises(UserError, match=r"and .* more; set model.size and patches"):
            TimmViT(path=timm_file)(network)
        assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())

    def test_names_that_are_no_text(self, tmp_path) -> None:
        torch.save({1: torch.zeros(2)}, tmp_path / "odd.pth")
        with pytest.raises(UserError, match=r"odd.pth: holds no tensors by name"):
            TimmViT(path=str(tmp_path / "odd.pth"))(build())


class TestPositions:
    @pytest.mark.parametrize(
        ("there", "here"), [((4, 4), (10, 4)), ((14, 14), (50, 8)), ((3, 5), (1, 1)), ((2, 2), (3, 7))]
    )
    def test_equals_torchs_bilinear_with_aligned_corners(self, there, here) -> None:
        grid = torch.randn(*there, 6)
        theirs = nn.functional.interpolate(grid.permute(2, 0, 1)[None], here, mode="bilinear", align_corners=True)
        torch.testing.assert_close(resample(grid, here), theirs[0].permute(1, 2, 0), rtol=1e-5, atol=1e-5)

    def test_the_same_size_is_the_same(self) -> None:
        grid = torch.randn(3, 4, 5)
        assert torch.equal(spread(grid, (3, 4)), grid.flatten(0, 1))

    def test_more_axes_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"a grid of 3 axes do not fit a grid \[4, 4\]"):
            spread(torch.zeros(2, 4, 4, 6), [4, 4])

    def test_sample_holds_at_the_ends(self) -> None:
        at = torch.tensor([-1.0, 0.25, 5.0])
        assert sample(torch.tensor([[0.0], [4.0]]), [at]).flatten().tolist() == [0, 1, 4]

    def test_near_square(self) -> None:
        assert [near_square(n) for n in (1, 4, 5, 12, 36, 64)] == [(1, 1), (2, 2), (1, 5), (3, 4), (6, 6), (8, 8)]

    def test_a_tubelet_for_single_frames_is_averaged(self) -> None:
        weight = torch.randn(4, 3, 2, 8, 8)
        torch.testing.assert_close(fit_filter(weight, (4, 3, 8, 8))[0], weight.mean(2))


def test_the_report_accounts_for_every_name(vit, timm_file) -> None:
    network = build()
    report = TimmViT(path=timm_file)(network)
    told = [*report.loaded, *report.fitted, *report.initial]
    assert sorted(told) == sorted(dict(network.named_parameters()))
    lines = report.text().splitlines()
    assert lines[0] == timm_file and len(lines) == 1 + len(told) + len(report.unused)
    assert json.dumps(report.summary())
