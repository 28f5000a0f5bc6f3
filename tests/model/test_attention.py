"""Attention weights for maps: exactly what the blocks mix by, for every strategy, and nothing left behind."""

from functools import partial

import pytest
import torch
from torch import nn

from mbt_lightning.errors import UserError
from mbt_lightning.model.attention import attention_scores
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, JointSelfAttention
from mbt_lightning.model.mbt import MBT, EncoderSize

INPUTS = {"rgb": (3, 2, 32, 32), "spectrogram": (1, 48, 32)}
OWN = {"rgb": 9, "spectrogram": 7}
TOTAL, B = 16, 3
SYMMETRIC, SEQUENTIAL = (partial(Bottleneck, num_bottlenecks=B, update=rule) for rule in ("symmetric", "sequential"))


def build(fusion, **settings) -> MBT:
    torch.manual_seed(0)
    return MBT(INPUTS, 5, fusion=fusion, fusion_layer=1, size=EncoderSize(16, 3, 2), **settings).eval()


def draw() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {m: torch.randn(2, *shape, generator=generator) for m, shape in INPUTS.items()}


SHAPES = {  # (block, queries, keys) of a fused layer, all tokens wanted
    "symmetric": (SYMMETRIC, [("rgb", 9 + B, 9 + B), ("spectrogram", 7 + B, 7 + B)]),
    "sequential": (SEQUENTIAL, [("rgb", 9 + B, 9 + B), ("spectrogram", 7 + B, 7 + B)]),
    "cross": (CrossAttention, [("rgb", 9, TOTAL), ("spectrogram", 7, TOTAL)]),
    "joint": (JointSelfAttention, [("shared", TOTAL, TOTAL)]),
}


@pytest.mark.parametrize(("fusion", "fused"), SHAPES.values(), ids=SHAPES)
def test_every_call_is_recorded(fusion, fused) -> None:
    model, inputs = build(fusion), draw()
    with attention_scores(model) as calls, torch.no_grad():
        model.encode(inputs)
    unimodal = [(0, m, (2, 2, n, n)) for m, n in OWN.items()]
    middle = [(1, block, (2, 2, n, k)) for block, n, k in fused]
    assert [(c.layer, c.block, tuple(c.scores.shape)) for c in calls[: -len(fused)]] == unimodal + middle
    assert [(c.layer, c.block, c.scores.shape[3]) for c in calls[-len(fused) :]] == [(2, b, k) for b, _, k in fused]
    for call in calls:
        torch.testing.assert_close(call.scores.sum(-1), torch.ones(call.scores.shape[:-1]))


@pytest.mark.parametrize("fusion", [f for f, _ in SHAPES.values()], ids=SHAPES)
def test_they_are_what_the_block_mixes_by(fusion) -> None:
    """Values mixed by the recorded weights give what the attention gave; so the scores are exact, not an estimate."""
    model, inputs = build(fusion), draw()
    checked = []

    def check(attention, args, result) -> None:
        x, context, _ = args
        _, _, v = attention.project(x, context)
        mixed = attention.proj((calls[-1].scores @ v).transpose(1, 2).flatten(2))
        checked.append((mixed - result).abs().max().item())

    with attention_scores(model) as calls, torch.no_grad():
        hooks = [m.attn.register_forward_hook(check) for m in model.modules() if hasattr(m, "attn")]
        model(inputs)
    assert len(checked) == len(calls) == len(hooks) and max(checked) < 1e-6


def test_the_head_alone_asks_for_fewer_queries() -> None:
    model = build(SYMMETRIC)
    with attention_scores(model) as calls, torch.no_grad():
        model(draw())
    assert [tuple(c.scores.shape[2:]) for c in calls[-2:]] == [(1, 9 + B), (1, 7 + B)]


def test_a_shared_encoder_is_called_once_a_modality() -> None:
    model = build(SYMMETRIC, share_encoder=True)
    with attention_scores(model) as calls, torch.no_grad():
        model.encode(draw())
    assert [(c.layer, c.block, c.scores.shape[3]) for c in calls[:2]] == [(0, "shared", 9), (0, "shared", 7)]


def test_nothing_changes_and_nothing_stays() -> None:
    model, inputs = build(SYMMETRIC), draw()
    nn.init.normal_(model.head.linear.weight)
    with torch.no_grad():
        before = model(inputs)
        with attention_scores(model) as calls:
            during = model(inputs)
        count = len(calls)
        after = model(inputs)
    assert len(calls) == count
    for m, x in before.items():
        assert torch.equal(x, during[m]) and torch.equal(x, after[m])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_compiled_model_records_too() -> None:
    torch._dynamo.reset()
    model = build(SYMMETRIC)
    model.compile(backend="eager")
    with torch.no_grad():
        model(draw())
        with attention_scores(model) as calls:
            model(draw())
    assert len(calls) == 6
    assert model._compiled_call_impl is not None


def test_what_is_no_mbt_is_refused() -> None:
    with pytest.raises(UserError, match=r"attention_scores needs an MBT, e.g. model.network, not OptimizedModule"):
        attention_scores(torch.compile(build(SYMMETRIC), backend="eager")).__enter__()


def test_nobody_reads_an_absent_modality() -> None:
    model, present = build(CrossAttention), {"rgb": torch.tensor([True, False])}
    with attention_scores(model) as calls, torch.no_grad():
        model(draw(), present)
    for call in calls[2:]:
        assert call.scores[0, ..., : OWN["rgb"]].all() and not call.scores[1, ..., : OWN["rgb"]].any()
        torch.testing.assert_close(call.scores.sum(-1), torch.ones(call.scores.shape[:-1]))


def test_gradients_flow_through_the_scores() -> None:
    model = build(CrossAttention)
    with attention_scores(model) as calls:
        model.encode(draw())
    calls[-1].scores[..., 0].sum().backward()
    assert model.tokens["rgb"].weight.grad.abs().sum() > 0
