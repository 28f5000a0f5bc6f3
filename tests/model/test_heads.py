"""The laws of heads, one body over every head, each head by hand, and a user's own, trained by its class path."""

from functools import partial

import pytest
import torch
from package import defined
from torch import nn

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.parser import as_plain, build_parser, parse
from mbt_lightning.data.records import DataSpec
from mbt_lightning.errors import UserError
from mbt_lightning.model.flops import by_module, gflops_per_clip
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, Geometry, JointSelfAttention
from mbt_lightning.model.heads import ClsHead, Head, MaxPoolHead, MeanPoolHead, PoolHead, SumPoolHead
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.size import EncoderSize
from mbt_lightning.training.module import AudioVisualClassifier

INPUTS = {"rgb": (3, 2, 32, 32), "spectrogram": (1, 48, 32)}
LENGTHS = {"rgb": 8, "spectrogram": 6}
GEOMETRY = Geometry(("rgb", "spectrogram"), 16, 2, 2, 4.0, nn.Identity)
CLASSES = 5


class SharedHead(Head):
    """A head of one's own, as a user writes it: logits of the strategy's shared tokens and of the CLS tokens."""

    num_cls = 1
    keep = slice(0, 1)
    reads_shared = True

    def __init__(self, geometry: Geometry, num_classes: int, scale: float = 1.0):
        super().__init__(geometry, num_classes)
        self.scale = scale
        self.linear = nn.Linear(geometry.dim * (1 + len(geometry.modalities)), num_classes)

    def forward(self, tokens, shared):
        pooled = [shared.mean(1), *(x[:, 0] for x in tokens.values())]
        return {"fused": self.scale * self.linear(torch.cat(pooled, dim=1))}


HEADS = {
    "cls": ClsHead,
    "representation": partial(ClsHead, representation_size=7),
    "mean": MeanPoolHead,
    "max": MaxPoolHead,
    "sum": SumPoolHead,
    "own": SharedHead,
}
"""Every head, by the name that the laws know it by."""

every_head = pytest.mark.parametrize("head", HEADS)


def test_every_head_of_the_package_obeys_the_laws() -> None:
    covered = {getattr(head, "func", head) for head in HEADS.values()} | {PoolHead}  # which is a base
    missing = sorted(c.__name__ for c in defined(Head) - covered)
    assert not missing, f"add {', '.join(missing)} to HEADS in {__file__}"


def build(head, **settings) -> MBT:
    """A small network with random logits."""
    torch.manual_seed(0)
    settings = {"size": EncoderSize(16, 3, 2), "fusion_layer": 1, "head": HEADS.get(head, head)} | settings
    model = MBT(INPUTS, CLASSES, **settings)
    nn.init.normal_(model.head.linear.weight)
    return model.eval()


def draw(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(2, *shape, generator=generator) for m, shape in INPUTS.items()}


@every_head
class TestLaws:
    def test_shapes_and_entries(self, head) -> None:
        model, inputs = build(head), draw()
        before = {m: x.clone() for m, x in inputs.items()}
        entries = list(INPUTS) if model.head.per_modality else ["fused"]
        assert {m: tuple(x.shape) for m, x in model(inputs).items()} == dict.fromkeys(entries, (2, CLASSES))
        assert all(torch.equal(inputs[m], before[m]) for m in INPUTS)
        assert model.head.num_classes == CLASSES
        lengths = {m: x.shape[1] for m, x in model.encode(inputs)[0].items()}
        assert lengths == {m: n + model.head.num_cls for m, n in LENGTHS.items()}

    def test_every_parameter_gets_a_gradient(self, head) -> None:
        model = build(head)
        sum(x.square().sum() for x in model(draw()).values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_it_reads_the_tokens_of_keep_and_all_of_them(self, head) -> None:
        model = build(head)
        tokens, shared = model.encode(draw())
        assert shared is not None
        logits = model.head(tokens, shared)
        for m, x in tokens.items():
            kept = torch.zeros(x.shape[1], dtype=torch.bool)
            kept[model.head.keep] = True
            for place in range(x.shape[1]):
                other = x.clone()
                other[:, place] += 10
                after = model.head(tokens | {m: other}, shared)
                is_same = all(torch.equal(after[entry], logits[entry]) for entry in logits)
                assert is_same == (not kept[place])
        moved = model.head(tokens, shared + 1)
        assert all(torch.equal(moved[m], logits[m]) for m in logits) == (not model.head.reads_shared)

    def test_the_saving_of_the_last_layer_changes_no_logit(self, head) -> None:
        model, inputs = build(head), draw()
        for m, x in model.head(*model.encode(inputs)).items():
            torch.testing.assert_close(model(inputs)[m], x)

    def test_every_matrix_product_is_counted(self, head) -> None:
        model = build(head)
        assert gflops_per_clip(model, INPUTS) == by_module(model, INPUTS)[""] / 1e9
        assert gflops_per_clip(model, INPUTS) > 0

    def test_an_absent_modality_is_left_out_or_refused(self, head) -> None:
        model, inputs, present = build(head), draw(), {"rgb": torch.tensor([True, False])}
        if not model.head.per_modality:
            with pytest.raises(UserError, match=f"{type(model.head).__name__} cannot leave out an absent modality"):
                model(inputs, present)
            return
        other = inputs | {"rgb": draw(2)["rgb"]}
        before, after = model(inputs, present), model(other, present)
        assert torch.equal(before["spectrogram"][1], after["spectrogram"][1])
        assert not torch.equal(before["spectrogram"][0], after["spectrogram"][0])


@pytest.mark.parametrize("head", [name for name in HEADS if name != "own"])
def test_logits_start_at_zero(head) -> None:
    model = MBT(INPUTS, CLASSES, size=EncoderSize(16, 3, 2), fusion_layer=1, head=HEADS[head])
    assert all(not x.any() for x in model(draw()).values())


def test_cls_reads_the_first_token_of_each_modality() -> None:
    head = ClsHead(GEOMETRY, CLASSES)
    nn.init.normal_(head.linear.weight)
    tokens = {"a": torch.randn(2, 4, 16), "b": torch.randn(2, 7, 16)}
    for m, logits in head(tokens, None).items():
        torch.testing.assert_close(logits, tokens[m][:, 0] @ head.linear.weight.T + head.linear.bias)


def test_mean_weights_modalities_by_their_tokens() -> None:
    head = MeanPoolHead(GEOMETRY, CLASSES)
    nn.init.normal_(head.linear.weight)
    tokens = {"a": torch.randn(2, 4, 16), "b": torch.randn(2, 7, 16)}
    pooled = (4 * tokens["a"].mean(1) + 7 * tokens["b"].mean(1)) / 11
    logits = head(tokens, None)
    assert list(logits) == ["fused"]
    torch.testing.assert_close(logits["fused"], pooled @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("fusion", [Bottleneck, CrossAttention, JointSelfAttention])
@pytest.mark.parametrize(("head", "pool"), {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}.items())
def test_a_pool_has_no_cls_and_reads_all_tokens(fusion, head, pool) -> None:
    model, inputs = build(head, fusion=fusion), draw()
    tokens, _ = model.encode(inputs)
    assert {m: x.shape[1] for m, x in tokens.items()} == LENGTHS
    pooled = pool(torch.cat([*tokens.values()], 1), 1)
    torch.testing.assert_close(model(inputs), {"fused": model.head.linear(pooled)})


def test_representation_is_a_tanh_before_the_logits() -> None:
    model, inputs = build("representation"), draw()
    assert model.head.linear.in_features == 7
    hidden, logits = model.head.pre_logits, model(inputs)
    for m, x in model.encode(inputs)[0].items():
        by_hand = (x[:, 0] @ hidden.weight.T + hidden.bias).tanh() @ model.head.linear.weight.T
        torch.testing.assert_close(logits[m], by_hand + model.head.linear.bias)
    with pytest.raises(UserError, match="representation_size is 0: give 1 or more, or null"):
        build(partial(ClsHead, representation_size=0))


def test_names_of_parameters_are_those_of_old_checkpoints() -> None:
    names = {"linear.weight", "linear.bias"}
    assert build("cls").head.state_dict().keys() == build("mean").head.state_dict().keys() == names
    assert build("representation").head.state_dict().keys() == names | {"pre_logits.weight", "pre_logits.bias"}


HEAD_WORDS: dict[str, tuple[list[str], dict]] = {
    "default": ([], {"class_path": "mbt_lightning.ClsHead", "init_args": {"representation_size": None}}),
    "by name": (["--model.head", "MaxPoolHead"], {"class_path": "mbt_lightning.MaxPoolHead", "init_args": {}}),
    "with settings": (
        ["--model.head", "ClsHead", "--model.head.representation_size", "7"],
        {"class_path": "mbt_lightning.ClsHead", "init_args": {"representation_size": 7}},
    ),
    "own": (
        ["--model.head", "test_heads.SharedHead", "--model.head.scale", "2"],
        {"class_path": "test_heads.SharedHead", "init_args": {"scale": 2.0}},
    ),
}


@pytest.mark.parametrize(("words", "resolved"), HEAD_WORDS.values(), ids=HEAD_WORDS)
def test_a_head_is_named_by_its_class_and_trained(words, resolved) -> None:
    parser = build_parser("fit")
    size = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "1"]
    settings = parse(parser, expand("fit", [*size, *words]))
    assert as_plain(parser, settings)["model"]["head"] == resolved

    chosen = vars(parser.instantiate_classes(settings).model)
    model = AudioVisualClassifier(DataSpec(INPUTS, tuple("abcde")), **chosen)
    inputs, targets = draw(), torch.eye(CLASSES)[:2]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(inputs)
        loss = model.loss(logits, dict.fromkeys(logits, targets)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
