"""The laws of fusion, one body over every strategy, and each strategy against its equation in the paper.

Everything runs in float64 on an encoder of three narrow layers whose values are all drawn at random, the head's too.
The equations at the end are written with plain matrices; they share no code with the model.
"""

from functools import partial

import pytest
import torch
from package import defined
from torch import Tensor, nn

from mbt_lightning.errors import UserError
from mbt_lightning.model.authors_flops import CrossAttentionAsCoded
from mbt_lightning.model.flops import by_module, count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import (
    Bottleneck,
    CrossAttention,
    Fusion,
    Geometry,
    JointSelfAttention,
    TrainOnlyBottleneck,
)
from mbt_lightning.model.mbt import MBT, EncoderSize, fuse

DEPTH, DIM, HEADS, CLASSES = 3, 8, 2, 5
SIZE = EncoderSize(dim=DIM, depth=DEPTH, num_heads=HEADS)
INPUTS = {"rgb": (3, 2, 8, 8), "spectrogram": (1, 12, 8), "flow": (3, 8, 12)}
PATCHES = {"rgb": [1, 4, 4], "spectrogram": [4, 4], "flow": [4, 4]}


class GatedMeans(Fusion):
    """A strategy of one's own, as a user writes it: every modality also reads the other ones' mean tokens, gated."""

    def __init__(self, geometry: Geometry):
        super().__init__(geometry)
        self.gate = nn.Parameter(torch.ones(geometry.dim))

    def forward(self, tokens, shared, blocks, layer, keep=None):
        means = {m: x.mean(1, keepdim=True) * self.gate for m, x in tokens.items()}
        heard = {m: torch.cat([x, *(means[o] for o in tokens if o != m)], dim=1) for m, x in tokens.items()}
        return {m: blocks[m](x[:, keep or slice(None)], context=heard[m]) for m, x in tokens.items()}, shared


class Latents(Fusion):
    """Another one: latents read all modalities by a block of their own in each layer, and every modality reads them."""

    def __init__(self, geometry: Geometry):
        super().__init__(geometry)
        self.latents = nn.Parameter(torch.zeros(1, 2, geometry.dim))
        self.own = nn.ModuleList(geometry.new_block() for _ in range(geometry.num_fused_layers))

    def start(self, tokens):
        return tokens, self.latents.expand(len(next(iter(tokens.values()))), -1, -1)

    def forward(self, tokens, shared, blocks, layer, keep=None):
        shared = self.own[layer](shared, context=torch.cat([shared, *tokens.values()], dim=1))
        rows = slice(None) if keep is None else keep
        return {m: blocks[m](x[:, rows], context=torch.cat([x, shared], dim=1)) for m, x in tokens.items()}, shared


STRATEGIES = {
    "joint": JointSelfAttention,
    "cross": CrossAttention,
    "cross, as coded": CrossAttentionAsCoded,
    "sequential": partial(Bottleneck, num_bottlenecks=2, update="sequential"),
    "symmetric": partial(Bottleneck, num_bottlenecks=2, update="symmetric"),
    "train only": partial(TrainOnlyBottleneck, num_bottlenecks=2, update="symmetric"),
    "custom": GatedMeans,
    "latents": Latents,
}
"""Every strategy, by the name that the laws know it by; networks are in training mode."""

READ_ABSENT = ("cross, as coded", "custom", "latents")
"""Those that cannot leave out an absent modality."""


def test_every_strategy_of_the_package_obeys_the_laws() -> None:
    covered = {getattr(strategy, "func", strategy) for strategy in STRATEGIES.values()}
    missing = sorted(c.__name__ for c in defined(Fusion) - covered)
    assert not missing, f"add {', '.join(missing)} to STRATEGIES in {__file__}"


def build(strategy, names: tuple[str, ...], fusion_layer: int, **settings) -> MBT:
    """A small encoder in float64 with every parameter drawn at random."""
    inputs = {m: INPUTS[m] for m in names}
    settings = {"size": SIZE, "patches": PATCHES} | settings
    fusion = STRATEGIES.get(strategy, strategy)
    model = MBT(inputs, CLASSES, fusion=fusion, fusion_layer=fusion_layer, **settings).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):  # by name: the same for every order of modalities
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.5, generator=generator)
    return model


def draw(names: tuple[str, ...], batch: int = 3, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, *INPUTS[m], generator=generator, dtype=torch.double) for m in names}


def first(count: int) -> tuple[str, ...]:
    return tuple(INPUTS)[:count]


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.allclose(ours[m], theirs[m], rtol=tolerance, atol=tolerance) for m in ours)


every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_number = pytest.mark.parametrize("count", [1, 2, 3])
every_layer = pytest.mark.parametrize("fusion_layer", [0, 1, DEPTH - 1, DEPTH])


@every_layer
@every_number
@every_strategy
class TestLaws:
    def test_shapes_are_kept_and_inputs_unchanged(self, strategy, count, fusion_layer) -> None:
        names = first(count)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        before = {m: x.clone() for m, x in inputs.items()}
        lengths = {"rgb": 8, "spectrogram": 6, "flow": 6}

        tokens, _ = model.encode(inputs)
        assert {m: tuple(x.shape) for m, x in tokens.items()} == {m: (3, 1 + lengths[m], DIM) for m in names}
        assert {m: tuple(x.shape) for m, x in model(inputs).items()} == {m: (3, CLASSES) for m in names}
        assert inputs.keys() == before.keys() and all(torch.equal(inputs[m], before[m]) for m in before)

    def test_every_parameter_gets_a_gradient(self, strategy, count, fusion_layer) -> None:
        names = first(count)
        model = build(strategy, names, fusion_layer)
        sum(x.square().sum() for x in model(draw(names)).values()).backward()
        idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == []

    def test_a_clip_does_not_depend_on_its_neighbours(self, strategy, count, fusion_layer) -> None:
        names = first(count)
        model, inputs, others = build(strategy, names, fusion_layer), draw(names), draw(names, seed=2)
        mixed = {m: torch.cat([others[m][:1], inputs[m][1:2], others[m][2:]]) for m in names}
        together, among_others = model(inputs), model(mixed)
        alone = model({m: x[1:2] for m, x in inputs.items()})
        assert close({m: x[1:2] for m, x in together.items()}, alone)
        assert close({m: x[1:2] for m, x in among_others.items()}, alone)
        assert not close(together, among_others)

    def test_keeping_only_cls_equals_the_full_computation(self, strategy, count, fusion_layer) -> None:
        names = first(count)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        full, _ = model.encode(inputs)
        for keep in (slice(0, 1), slice(2, 4)):
            kept, shared = model.encode(inputs, keep=keep)
            assert close(kept, {m: x[:, keep] for m, x in full.items()}) and shared is None

    def test_one_step_with_keep_equals_one_without(self, strategy, count, fusion_layer) -> None:
        """As above, but for the strategy itself."""
        names = first(count)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        tokens, shared = model.fusion.start({m: model.tokens[m](inputs[m]) for m in names})
        before = {m: x.clone() for m, x in tokens.items()}
        modules = model.layers[-1]
        blocks = {m: modules[m if m in modules else "shared"] for m in names}
        last = max(0, model.fusion.geometry.num_fused_layers - 1)
        full, _ = model.fusion(tokens, shared, blocks, last)
        kept, _ = model.fusion(tokens, shared, blocks, last, keep=slice(0, 1))
        assert close(kept, {m: x[:, :1] for m, x in full.items()})
        assert tokens.keys() == before.keys() and all(torch.equal(tokens[m], before[m]) for m in before)

    def test_order_of_modalities(self, strategy, count, fusion_layer) -> None:
        """It changes nothing, except where the bottleneck passes from one modality to the next."""
        names = first(count)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        turned = build(strategy, names[::-1], fusion_layer)
        turned.load_state_dict(model.state_dict())
        is_ordered = strategy == "sequential" and count > 1 and fusion_layer < DEPTH
        assert close(model(inputs), turned(inputs)) == (not is_ordered)

    def test_shared_tokens_are_updated_in_the_last_layer(self, strategy, count, fusion_layer) -> None:
        names = first(count)
        model, inputs, others = build(strategy, names, fusion_layer), draw(names), draw(names, seed=2)
        shared = [model.encode(x)[1] for x in (inputs, others)]
        has_shared = count > 1 and fusion_layer < DEPTH and bool(len(list(model.fusion.parameters())))
        if not has_shared or strategy == "custom":
            assert shared == [None, None]
        else:
            assert shared[0].shape == (3, 2, DIM) and not torch.allclose(*shared)


@every_number
@every_strategy
def test_fusing_after_the_last_layer_is_late_fusion(strategy, count) -> None:
    """Every modality has the logits of a model of its own, and no parameter belongs to the strategy."""
    names = first(count)
    model, inputs = build(strategy, names, DEPTH), draw(names)
    assert count_parameters(model.fusion) == 0
    logits, late = model(inputs), build(Fusion, names, 0)
    assert late.state_dict().keys() == model.state_dict().keys()
    assert close(logits, late(inputs))
    for m in names:
        alone = build(strategy, (m,), 0)
        weights = {k: v for k, v in model.state_dict().items() if k in alone.state_dict()}
        alone.load_state_dict(weights)
        assert close({m: logits[m]}, alone({m: inputs[m]}))


def hearers(model: MBT, names: tuple[str, ...]) -> set[tuple[str, str]]:
    """The pairs (speaker, hearer) for which another input of the first changes the second's logits."""
    inputs, others = draw(names), draw(names, seed=2)
    before = model(inputs)
    pairs = set()
    for speaker in names:
        after = model(inputs | {speaker: others[speaker]})
        assert not torch.allclose(before[speaker], after[speaker])  # a modality always hears itself
        pairs |= {(speaker, m) for m in names if m != speaker and not torch.equal(before[m], after[m])}
    return pairs


@every_layer
@pytest.mark.parametrize("names", [first(2), first(2)[::-1], first(3)], ids="-".join)
@every_strategy
def test_information_crosses_if_and_only_if_it_should(strategy, names, fusion_layer) -> None:
    all_pairs = {(a, b) for a in names for b in names if a != b}
    forward_pairs = {(a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
    num_fused_layers = DEPTH - fusion_layer
    if num_fused_layers == 0:
        expected = set()
    elif num_fused_layers == 1:  # a bottleneck is first written, then read
        expected = {"sequential": forward_pairs, "symmetric": set(), "train only": set()}.get(strategy, all_pairs)
    else:
        expected = all_pairs
    assert hearers(build(strategy, names, fusion_layer), names) == expected


def without(network: MBT, strategy: str, names: tuple[str, ...], fusion_layer: int) -> MBT:
    """A network that never had the other modalities, with the weights of one that has them."""
    fewer = build(strategy, names, fusion_layer)
    fewer.load_state_dict({k: v for k, v in network.state_dict().items() if k in fewer.state_dict()})
    return fewer


@every_layer
@pytest.mark.parametrize("absent", INPUTS)
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in READ_ABSENT])
class TestAbsence:
    def test_an_absent_modality_is_as_if_it_had_never_been(self, strategy, absent, fusion_layer) -> None:
        """In one batch of clips with all modalities and clips without one."""
        names = first(3)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        mask = torch.tensor([True, False, True])
        inputs[absent][1] = float("nan")  # whatever stands in its place
        logits = model(inputs, {absent: mask})
        others = tuple(m for m in names if m != absent)
        fewer = without(model, strategy, others, fusion_layer)
        whole, lacking = ({m: x[rows] for m, x in inputs.items()} for rows in (mask, ~mask))
        assert close({m: x[mask] for m, x in logits.items()}, model(whole))
        theirs = fewer({m: lacking[m] for m in others})
        assert close({m: logits[m][~mask] for m in others}, theirs)
        present = {m: mask if m == absent else torch.ones_like(mask) for m in names}
        assert torch.allclose(fuse(logits, present)[~mask], fuse(theirs))
        assert torch.allclose(fuse(logits, present)[mask], fuse(model(whole)))

    def test_it_reaches_no_gradient(self, strategy, absent, fusion_layer) -> None:
        names = first(3)
        model, inputs = build(strategy, names, fusion_layer), draw(names)
        present = {m: torch.full((3,), m != absent) for m in names}
        fuse(model(inputs, present), present).square().sum().backward()
        own = [p.grad for name, p in model.named_parameters() if name.startswith(f"tokens.{absent}.")]
        assert not any(grad is not None and grad.any() for grad in own)


@every_number
@every_strategy
def test_every_matrix_product_is_counted(strategy, count) -> None:
    """Blocks alike are counted once; the sum is that of a count of everything."""
    names = first(count)
    model, inputs = build(strategy, names, 1), {m: INPUTS[m] for m in names}
    assert gflops_per_clip(model, inputs) == by_module(model, inputs)[""] / 1e9 > 0


@every_strategy
def test_a_mask_of_what_is_all_there_changes_nothing(strategy) -> None:
    names = first(2)
    model, inputs = build(strategy, names, 1), draw(names)
    for mask in ({}, {m: torch.ones(3, dtype=torch.bool) for m in names}):
        assert all(torch.equal(x, model(inputs, mask)[m]) for m, x in model(inputs).items())


@pytest.mark.parametrize("strategy", READ_ABSENT)
def test_a_strategy_that_would_read_the_absent_is_refused(strategy) -> None:
    model = build(strategy, first(2), 1)
    with pytest.raises(UserError, match=f"{type(model.fusion).__name__} cannot leave out an absent modality"):
        model(draw(first(2)), {"rgb": torch.tensor([True, False, True])})


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ({"flow": torch.tensor([True, False, True])}, "present names flow, but the model has rgb, spectrogram"),
        ({m: torch.tensor([True, False, True]) for m in first(2)}, "a clip has none of the modalities rgb, spec"),
    ],
)
def test_a_wrong_mask_is_refused(present, message) -> None:
    with pytest.raises(UserError, match=message):
        build("cross", first(2), 1)(draw(first(2)), present)


def test_a_new_block_is_like_the_encoders() -> None:
    inputs, patches = {"rgb": (3, 16, 16), "flow": (3, 16, 16)}, {"rgb": [8, 8], "flow": [8, 8]}
    settings = {"size": EncoderSize(8, 3, 4, mlp_ratio=3), "patches": patches, "drop_path": 0.5, "dropout": 0.1}
    network = MBT(inputs, 2, fusion=Latents, fusion_layer=1, **settings)
    own, block = network.fusion.own[0], network.block_of(2, "rgb")[1]
    assert str(own).replace("(drop_path): DropPath(p=0.000)", "(drop_path): DropPath(p=0.500)") == str(block)
    assert own.attn.num_heads == block.attn.num_heads and len(network.fusion.own) == 2
    geometry = network.fusion.geometry
    assert (geometry.modalities, geometry.dim, geometry.num_fused_layers) == (("rgb", "flow"), 8, 2)
    assert (geometry.num_heads, geometry.mlp_ratio) == (4, 3)


@every_strategy
def test_a_shared_encoder_has_one_block_a_layer(strategy) -> None:
    names = first(2)
    shared = build(strategy, names, 1, share_encoder=True)
    assert [list(layer) for layer in shared.layers] == [["shared"]] * DEPTH
    apart = build(strategy, names, 1)
    fused = ["shared"] if strategy == "joint" else list(names)
    assert [list(layer) for layer in apart.layers] == [list(names), fused, fused]
    assert hearers(shared, names)


def test_cross_attention_with_equal_weights_is_joint_attention() -> None:
    """So the paper has it below eq. 6."""
    names, inputs = first(3), draw(first(3))
    assert close(
        build("cross", names, 1, share_encoder=True)(inputs), build("joint", names, 1, share_encoder=True)(inputs)
    )


@pytest.mark.parametrize("number", [1, 4, 7])
@pytest.mark.parametrize("update", Bottleneck.rules)
def test_the_number_of_bottlenecks_is_true(update, number) -> None:
    fusion = partial(Bottleneck, num_bottlenecks=number, update=update)
    model = build(fusion, first(2), 1)
    assert count_parameters(model) - count_parameters(build("cross", first(2), 1)) == number * DIM
    tokens, shared = model.fusion.start({m: model.tokens[m](x) for m, x in draw(first(2)).items()})
    assert shared.shape == (3, number, DIM) and torch.equal(shared[0], shared[1])
    read = []  # lengths of what the blocks of a fused layer read
    blocks = {m: lambda x, context=None: read.append((x if context is None else context).shape[1]) or x for m in tokens}
    model.fusion(tokens, shared, blocks, 0)
    assert read == [9 + number, 7 + number]


PAPER = {"rgb": (3, 8, 224, 224), "spectrogram": (1, 800, 128)}


@pytest.mark.parametrize(
    ("modalities", "settings", "parameters"),
    [
        # reference-model.md: counted in the authors' code (to 10,000).
        (PAPER, {"fusion": partial(Bottleneck, num_bottlenecks=5, update="symmetric")}, 173_215_247),
        (PAPER, {"fusion": partial(Bottleneck, num_bottlenecks=5, update="sequential")}, 173_215_247),
        (PAPER, {"fusion": CrossAttention}, 173_211_407),
        (PAPER, {"fusion": JointSelfAttention, "share_encoder": True}, 88_156_943),
        (["spectrogram"], {}, 86_360_591),
        (["rgb"], {}, 87_257_615),
    ],
    ids=["symmetric", "sequential", "cross", "joint_shared", "spectrogram", "rgb"],
)
def test_parameters_of_the_paper(modalities, settings, parameters) -> None:
    with torch.device("meta"):
        model = MBT({m: PAPER[m] for m in modalities}, 527, size="b", fusion_layer=8, **settings)
    assert count_parameters(model) == parameters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_bottlenecks": 0}, "num_bottlenecks is 0: give at least 1"),
        ({"num_bottlenecks": -3}, "num_bottlenecks is -3: give at least 1"),
        ({"update": "parallel"}, "update is 'parallel': choose one of sequential, symmetric"),
        ({"update": "exchange"}, "update is 'exchange': choose one of sequential, symmetric"),
    ],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        Bottleneck(Geometry(("a", "b"), 8, 2, 2, 4.0, nn.Identity), **settings)


# ---- the paper's equations, with plain matrices ---------------------------------------------------------------------

Weights = dict[str, Tensor]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(x: Tensor, z: Tensor, w: Weights) -> Tensor:
    """MCA(x, z), head by head; MSA(x) where z is x."""
    weights, biases = w["attn.qkv.weight"].chunk(3), w["attn.qkv.bias"].chunk(3)
    q, k, v = (t @ weight.T + bias for t, weight, bias in zip((x, z, z), weights, biases, strict=True))
    heads = []
    for h in range(HEADS):
        own = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
        scores = (q[..., own] @ k[..., own].transpose(1, 2) / (DIM // HEADS) ** 0.5).exp()
        heads.append(scores / scores.sum(-1, keepdim=True) @ v[..., own])
    return torch.cat(heads, dim=-1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]


def cross_transformer(x: Tensor, z: Tensor, w: Weights) -> Tensor:
    """Eq. 2-3 and 6: y = MCA(LN(x), LN(z)) + x, and MLP(LN(y)) + y."""
    x_normed, z_normed = (layer_norm(t, w["norm1.weight"], w["norm1.bias"]) for t in (x, z))
    y = attention(x_normed, z_normed, w) + x
    hidden = gelu(layer_norm(y, w["norm2.weight"], w["norm2.bias"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
    return hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"] + y


def transformer(z: Tensor, w: Weights) -> Tensor:
    return cross_transformer(z, z, w)


def joint_equation(z: dict[str, Tensor], fsn: Tensor, w: dict[str, Weights]) -> tuple[dict[str, Tensor], Tensor]:
    """Eq. 4-5: z = Transformer([z_rgb | z_spec]; theta)."""
    everything = transformer(torch.cat(list(z.values()), 1), w["shared"])
    parts, at = {}, 0
    for m in z:
        parts[m] = everything[:, at : at + z[m].shape[1]]
        at += z[m].shape[1]
    return parts, fsn


def cross_equation(z, fsn, w):
    """Eq. 6: z_m = Cross-Transformer(z_m, z; theta_m), z all old tokens."""
    everything = torch.cat(list(z.values()), 1)
    return {m: cross_transformer(z[m], everything, w[m]) for m in z}, fsn


def sequential_equation(z, fsn, w):
    """[z_rgb | fsn'] = T([z_rgb | fsn]; theta_rgb), then [z_spec | fsn''] = T([z_spec | fsn']; theta_spec)."""
    new = {}
    for m in z:
        out = transformer(torch.cat([z[m], fsn], 1), w[m])
        new[m], fsn = out[:, : z[m].shape[1]], out[:, z[m].shape[1] :]
    return new, fsn


def symmetric_equation(z, fsn, w):
    """Eq. 8-9: [z_m | fsn_m] = T([z_m | fsn]; theta_m) for every m at once, then fsn = mean of fsn_m."""
    out = {m: transformer(torch.cat([z[m], fsn], 1), w[m]) for m in z}
    lengths = {m: z[m].shape[1] for m in z}
    return {m: out[m][:, : lengths[m]] for m in z}, sum(out[m][:, lengths[m] :] for m in z) / len(z)


def gated_means_equation(z, fsn, w):
    """The test's own strategy, with its gate as `fsn`."""
    means = {m: z[m].mean(1, keepdim=True) * fsn for m in z}
    return {m: cross_transformer(z[m], torch.cat([z[m], *(means[o] for o in z if o != m)], 1), w[m]) for m in z}, fsn


EQUATIONS = {
    "joint": joint_equation,
    "cross": cross_equation,
    "cross, as coded": cross_equation,
    "sequential": sequential_equation,
    "symmetric": symmetric_equation,
    "train only": symmetric_equation,
    "custom": gated_means_equation,
}


@every_layer
@every_number
@pytest.mark.parametrize("strategy", EQUATIONS)
def test_a_strategy_equals_its_equation(strategy, count, fusion_layer) -> None:
    names = first(count)
    model, inputs = build(strategy, names, fusion_layer), draw(names)
    z = {m: model.tokens[m](inputs[m]) for m in names}
    fsn = next(model.fusion.parameters(), torch.empty(0)).view(1, -1, DIM).expand(3, -1, -1)
    for layer, modules in enumerate(model.layers):
        w = {name: dict(block.named_parameters()) for name, block in modules.items()}
        if count == 1 or layer < fusion_layer:
            z = {m: transformer(z[m], w[m]) for m in names}
        else:
            z, fsn = EQUATIONS[strategy](z, fsn, w)
    z = {m: layer_norm(x, model.norm.weight, model.norm.bias) for m, x in z.items()}
    tokens, shared = model.encode(inputs)
    assert close(tokens, z)
    if shared is not None:
        assert torch.allclose(shared, layer_norm(fsn, model.norm.weight, model.norm.bias), rtol=1e-10, atol=1e-10)
    linear = model.head.linear
    assert close(model(inputs), {m: x[:, 0] @ linear.weight.T + linear.bias for m, x in z.items()})
