"""The Lightning shell: loss, schedule, optimiser, and the gathering of clips and views, in a real trainer."""

import logging
import math
import warnings

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from mbt_lightning.data.mixup import Mixup, ModalityMixup
from mbt_lightning.data.records import Batch, DataSpec
from mbt_lightning.errors import UserError
from mbt_lightning.model.heads import ClsHead, MeanPoolHead
from mbt_lightning.model.mbt import EncoderSize
from mbt_lightning.training.module import AudioVisualClassifier, first_of_each, warmup_cosine
from mbt_lightning.training.tasks import Multiclass, Multihead, Multilabel

INPUTS = {"rgb": (3, 1, 16, 16), "spectrogram": (1, 16, 8)}
PATCHES = {"rgb": [1, 8, 8], "spectrogram": [8, 8]}
CLASSES = ("dog", "cat", "owl")
SPEC = DataSpec(INPUTS, CLASSES)


def build(seed: int = 0, **settings) -> AudioVisualClassifier:
    torch.manual_seed(seed)
    settings = {"size": EncoderSize(8, 2, 2), "patches": PATCHES, "fusion_layer": 1} | settings
    model = AudioVisualClassifier(SPEC, **settings)
    torch.nn.init.normal_(model.network.head.linear.weight, std=0.5)
    return model


def trainer(**settings) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return L.Trainer(accelerator="cpu", devices=1, **quiet | settings)


def batch(indices: list[int], views: list[int] | None = None) -> Batch:
    """A batch as it leaves the data module; what a clip and view hold depends on their numbers only."""
    views = views or [0] * len(indices)
    rows = []
    for index, view in zip(indices, views, strict=True):
        generator = torch.Generator().manual_seed(100 * index + view)
        rows.append({m: torch.randn(shape, generator=generator) for m, shape in INPUTS.items()})
    inputs = {m: torch.stack([row[m] for row in rows]) for m in INPUTS}
    targets = torch.eye(3)[[i % 3 for i in indices]]
    return Batch(targets, torch.tensor(indices), torch.tensor(views), (), inputs)


def loader(*batches: Batch) -> DataLoader:
    return DataLoader(batches, batch_size=None)


@pytest.fixture(autouse=True)
def no_warnings_about_workers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Rates(L.Callback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class TestSchedule:
    @pytest.mark.parametrize(
        ("step", "rate"),
        [(0, 0.0), (1, 0.00062893), (794, 0.49937108), (795, 0.5), (795 + 15105 // 3, 0.375), (15900, 0.0)],
    )
    def test_numbers_of_the_paper(self, step, rate) -> None:
        """reference-model.md 6: a rate of 0.5, 15,900 steps, a warm-up of 795."""
        assert 0.5 * warmup_cosine(step, 15900, 795) == pytest.approx(rate, abs=2e-8)

    def test_without_warmup(self) -> None:
        assert [warmup_cosine(s, 4, 0) for s in (0, 2, 4)] == pytest.approx([1, 0.5, 0])

    def test_it_stays_at_the_end(self) -> None:
        assert warmup_cosine(11, 10, 2) == warmup_cosine(10, 10, 2) == 0

    def test_the_trainer_follows_it(self) -> None:
        watch = Rates()
        trainer(max_epochs=2, callbacks=[watch]).fit(build(warmup_fraction=0.5), loader(*[batch([0, 1])] * 4))
        assert watch.rates == pytest.approx([0.5 * warmup_cosine(s, 8, 4) for s in range(8)])

    def test_it_needs_an_end(self) -> None:
        run = trainer(max_epochs=-1)
        with pytest.raises(
            UserError, match=r"the schedule needs an end: set trainer\.max_epochs or trainer\.max_steps"
        ):
            run.fit(build(), loader(batch([0, 1])))


class TestOptimizer:
    def test_weight_decay_spares_biases_norms_positions_and_tokens(self) -> None:
        model = build(optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.05))
        model.trainer = trainer(max_steps=10)
        optimizer = model.configure_optimizers()["optimizer"]
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        found = {name: decay.pop(id(p)) for name, p in model.network.named_parameters()}
        assert not decay  # nothing else, and (by the pop) all of them once
        spared = ("bias", "positions", "cls", "bottleneck", "norm.weight", "norm1.weight", "norm2.weight")
        assert found == {name: 0.0 if name.endswith(spared) else 0.05 for name in found}
        assert {"tokens.rgb.weight", "head.linear.weight", "fusion.bottleneck"} < found.keys()

    def test_the_default_is_the_papers(self) -> None:
        model = build()
        model.trainer = trainer(max_steps=10)
        optimizer = model.configure_optimizers()["optimizer"]
        assert isinstance(optimizer, torch.optim.SGD)
        for group in optimizer.param_groups:
            assert (group["initial_lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.9, 0)

    def test_settings_of_the_run_win_over_those_of_a_checkpoint(self, tmp_path) -> None:
        def sgd(rate):
            return lambda groups: torch.optim.SGD(groups, lr=rate)

        data, file = loader(*[batch([0, 1])] * 2), tmp_path / "a.ckpt"
        run = trainer(max_epochs=1)
        run.fit(build(optimizer=sgd(0.25), warmup_fraction=0), data)
        run.save_checkpoint(file)
        watch = Rates()
        trainer(max_epochs=4, callbacks=[watch]).fit(
            build(optimizer=sgd(0.01), warmup_fraction=0), data, ckpt_path=file
        )
        assert watch.rates == pytest.approx([0.01 * warmup_cosine(s, 8, 0) for s in range(2, 8)])


class TestLoss:
    def test_is_the_mean_over_the_modalities(self) -> None:
        model = build(task=Multilabel)
        logits = {"rgb": torch.tensor([[1.0, 0, 0]]), "spectrogram": torch.tensor([[0.0, 0, 2]])}
        targets = {"rgb": torch.tensor([[1.0, 0, 0]]), "spectrogram": torch.tensor([[0.0, 0.5, 0]])}
        rgb = math.log(1 + 1 / math.e) + 2 * math.log(2)
        audio = 2 * math.log(2) + math.log(1 + math.exp(2))
        assert model.loss(logits, targets).tolist() == pytest.approx([(rgb + audio) / 2])

    @pytest.mark.parametrize("mixup", [Mixup(0.5), ModalityMixup(0.5)])
    def test_mixed_and_smoothed(self, mixup) -> None:
        """A training step's loss is that of the mixed inputs against targets mixed by the same weights."""
        model, data = build(mixup=mixup, label_smoothing=0.3).eval(), batch([0, 1, 2, 3])
        torch.manual_seed(5)
        loss = model.training_step(data, 0)
        torch.manual_seed(5)
        inputs, targets = mixup(data.inputs, data.targets)
        logits = model(inputs)
        expected = sum(model.task.loss(logits[m], targets[m] * 0.7 + 0.3 / 3).mean() for m in INPUTS) / 2
        torch.testing.assert_close(loss, expected)

    def test_the_mean_heads_targets_are_mixed_too(self) -> None:
        model, data = build(mixup=Mixup(0.5), head=MeanPoolHead).eval(), batch([0, 1, 2, 3])
        torch.manual_seed(5)
        loss = model.training_step(data, 0)
        torch.manual_seed(5)
        inputs, targets = model.mixup(data.inputs, data.targets)
        assert not torch.equal(targets["rgb"], data.targets)
        torch.testing.assert_close(loss, model.task.loss(model(inputs)["fused"], targets["rgb"]).mean())


def outputs(rows: list[tuple[int, int, list[float]]]) -> dict:
    """What a step keeps of a batch: (index, view, logits of rgb); those of the other modality are their negatives."""
    logits = torch.tensor([values for _, _, values in rows], dtype=torch.double)
    index = torch.tensor([i for i, _, _ in rows])
    return {
        "logits": {"rgb": logits, "spectrogram": -3 * logits},
        "index": index,
        "view": torch.tensor([v for _, v, _ in rows]),
        "targets": torch.eye(3)[index % 3],
    }


class TestGather:
    def gather(self, *parts: dict):
        model = build()
        model.trainer = trainer()
        model._outputs = list(parts)
        result = model.gather()
        assert model._outputs == []
        return result

    def test_views_are_averaged_as_logits(self) -> None:
        """View logits (8, -2, -2, -2) rank above four of 0.2; by mean probability they would rank below."""
        views = [8.0, -2.0, -2.0, -2.0]
        clips, logits, targets = self.gather(outputs([(4, view, [x, 1.2, 0.2]) for view, x in enumerate(views)]))
        assert clips.tolist() == [4] and targets.tolist() == [[0, 1, 0]]
        assert list(logits) == ["rgb", "spectrogram", "fused"]
        assert logits["rgb"][0].tolist() == pytest.approx([0.5, 1.2, 0.2])
        assert logits["spectrogram"][0].tolist() == pytest.approx([-1.5, -3.6, -0.6])
        assert logits["fused"][0].tolist() == pytest.approx([-0.5, -1.2, -0.2])

    def test_repeated_rows_count_once_in_any_order(self) -> None:
        rows = [(i, v, [10.0 * i + v, v, 1.0]) for i in (7, 0, 3) for v in (0, 1)]
        once = self.gather(outputs(rows))
        assert once[0].tolist() == [0, 3, 7]
        assert once[1]["rgb"].tolist() == [[0.5, 0.5, 1.0], [30.5, 0.5, 1.0], [70.5, 0.5, 1.0]]
        assert once[2].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
        repeated = [rows[1], rows[5], rows[4], rows[0]], [rows[1], rows[2]], [rows[3], rows[1]]
        for clips, logits, targets in (self.gather(*map(outputs, repeated)), self.gather(outputs(rows[::-1]))):
            assert torch.equal(clips, once[0]) and torch.equal(targets, once[2])
            assert all(torch.equal(logits[m], once[1][m]) for m in logits)

    def test_a_view_that_could_not_be_read_is_not_missed(self) -> None:
        clips, logits, _ = self.gather(outputs([(0, 0, [1.0, 0, 0]), (0, 3, [2.0, 0, 0]), (2, 1, [5.0, 0, 0])]))
        assert clips.tolist() == [0, 2] and logits["rgb"][:, 0].tolist() == [1.5, 5.0]

    def test_nothing(self) -> None:
        with pytest.raises(UserError, match="no clip could be read; see the warnings above"):
            self.gather()

    def test_first_of_each(self) -> None:
        values, places = first_of_each(torch.tensor([5, 2, 5, 9, 2]))
        assert values.tolist() == [2, 5, 9] and places.tolist() == [1, 0, 3]


class TestAverageOfViews:
    """datasets.md 10: view logits (8, -2, -2, -2) have a mean of 0.5 and a mean probability of 0.34."""

    VIEWS = (8.0, -2.0, -2.0, -2.0)

    def gather(self, rows: list[list[float]], **settings) -> dict[str, torch.Tensor]:
        model = build(**settings)
        model.trainer = trainer()
        # A clip before it with fewer views, of which one was drawn twice, and the views in another order.
        others = [(3, 0, [50.0, -50.0, 0.0]), (3, 1, [1.0, 2.0, 3.0]), (3, 1, [1.0, 2.0, 3.0])]
        model._outputs = [outputs([*others, *((4, view, row) for view, row in enumerate(rows))][::-1])]
        clips, logits, _ = model.gather()
        assert clips.tolist() == [3, 4]
        return {m: x[1] for m, x in logits.items()}

    def test_the_two_ways_rank_differently(self) -> None:
        rows = [[view, 1.2, 0.2] for view in self.VIEWS]
        logits = self.gather(rows)["rgb"]
        assert logits.tolist() == pytest.approx([0.5, 1.2, 0.2])
        probabilities = self.gather(rows, average_views="probabilities")["rgb"].sigmoid()
        assert probabilities.tolist() == pytest.approx([0.339318, 0.768525, 0.549834], abs=1e-6)
        assert logits.argsort().tolist() == [2, 0, 1] and probabilities.argsort().tolist() == [0, 2, 1]

    def test_of_softmax(self) -> None:
        """[6, 0, 0] and three times [0, 2, 0]: the first class by logits, the second by probabilities."""
        rows = [[6.0, 0.0, 0.0]] + [[0.0, 2.0, 0.0]] * 3
        assert self.gather(rows, task=Multiclass)["rgb"].tolist() == [1.5, 1.5, 0.0]
        logits = self.gather([[6.1, 0.0, 0.0]] + [[0.0, 2.0, 0.0]] * 3, task=Multiclass)["rgb"]
        mean = self.gather(rows, task=Multiclass, average_views="probabilities")["rgb"].softmax(-1)
        expected = torch.tensor(rows).double().softmax(-1).mean(0)
        assert mean.tolist() == pytest.approx(expected.tolist())
        assert logits.argmax() == 0 and mean.argmax() == 1

    def test_of_each_head(self) -> None:
        spec = DataSpec(INPUTS, ("verb:0", "verb:1", "noun:0"))
        model = build(average_views="probabilities")
        model.task = Multihead(spec)
        rows = torch.tensor([[6.0, 0.0, 4.0], [0.0, 2.0, 9.0]]).double()
        mean = model.task.probabilities(model.mean_of_views(rows, torch.tensor([0, 0])))
        assert mean[0].tolist() == pytest.approx(model.task.probabilities(rows).mean(0).tolist())

    @pytest.mark.parametrize("task", [Multilabel, Multiclass])
    def test_of_the_fused_score(self, task) -> None:
        """Of each view the modalities' logits are averaged first: its probabilities are those of the fused model."""
        rows = [[view, 1.2, 0.2] for view in self.VIEWS]
        found = self.gather(rows, task=task, average_views="probabilities")["fused"]
        fused = -torch.tensor(rows).double()  # the other modality's logits are -3 times these
        expected = build(task=task).task.probabilities(fused).mean(0)
        assert build(task=task).task.probabilities(found[None])[0].tolist() == pytest.approx(expected.tolist())

    def test_large_logits_do_not_tie(self) -> None:
        """Their probabilities all round to 1, in float64 too."""
        found = self.gather([[60.0, 50.0, -80.0]] * 2, average_views="probabilities")["rgb"]
        assert found.tolist() == pytest.approx([60.0, 50.0, -80.0])


class TestTrainer:
    @pytest.mark.parametrize("head", [ClsHead, MeanPoolHead])
    def test_scores_of_a_test(self, head) -> None:
        """Two views of four clips in batches that cross clips, with repeated and empty ones, scored in one go."""
        model = build(task=Multiclass, head=head)
        empty = Batch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        data = loader(batch([0, 0, 1], [0, 1, 0]), empty, batch([2, 1, 3], [1, 1, 0]), batch([2, 3, 0], [0, 1, 0]))
        (logged,) = trainer().test(model, data, verbose=False)

        with torch.no_grad():
            views = [model.eval()(batch([0, 1, 2, 3], [v] * 4).inputs) for v in (0, 1)]
        logits = {m: (views[0][m] + views[1][m]) / 2 for m in views[0]}
        true = torch.arange(4) % 3
        losses = [torch.nn.functional.cross_entropy(x, true) for x in logits.values()]
        assert logged["test/clips"] == 4
        assert logged["test/loss"] == pytest.approx((sum(losses) / len(losses)).item(), abs=1e-5)
        logits["fused"] = sum(logits.values()) / len(logits)
        for m, x in logits.items():
            assert logged[f"test/{m}/top1"] == (x.argmax(1) == true).double().mean().item()
        assert logged["test/score"] == logged["test/fused/top1"]
        assert {name.split("/")[1] for name in logged} == {"loss", "clips", "score", *logits}

    def test_predictions(self) -> None:
        model = build()
        trainer().predict(model, loader(batch([2, 0]), batch([1])), return_predictions=False)
        clips, logits, targets = model.predictions
        with torch.no_grad():
            expected = model.eval()(batch([0, 1, 2]).inputs)
        assert clips.tolist() == [0, 1, 2] and torch.equal(targets, torch.eye(3))
        for m in INPUTS:
            torch.testing.assert_close(logits[m].float(), expected[m])

    @pytest.mark.parametrize("task", [Multilabel, Multiclass])
    def test_training_lowers_the_loss(self, task) -> None:
        model, data = build(task=task, optimizer=lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9)), batch([*range(6)])

        def loss() -> float:
            with torch.no_grad():
                return model.loss(model.eval()(data.inputs), dict.fromkeys(INPUTS, data.targets)).mean().item()

        before = loss()
        trainer(max_epochs=1, gradient_clip_val=1.0).fit(model, loader(*[data] * 40))
        assert loss() < 0.5 * before

    def test_what_a_step_draws_depends_on_its_number_only(self) -> None:
        """Stochastic depth and mixup: two runs agree whatever the state of torch's generator was at their start."""
        results = []
        for state in (1, 2):
            model = build(drop_path=0.5, mixup=Mixup(0.5))
            torch.manual_seed(state)
            trainer(max_epochs=2).fit(model, loader(batch([0, 1, 2]), batch([3, 4, 5])))
            results.append(model.state_dict())
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])

    def test_validation_is_logged_by_its_own_name(self) -> None:
        model, data = build(), loader(batch([0, 1, 2]))
        run = trainer(max_epochs=1)
        run.fit(model, data, data)
        names = {"loss", "score", "clips", "rgb/mAP", "spectrogram/mAP", "fused/mAP", "fused/classes_with_positives"}
        assert {f"val/{name}" for name in names} < run.callback_metrics.keys()


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"warmup_fraction": 1.0}, "warmup_fraction is 1.0: give a part from 0 to below 1"),
            ({"average_views": "ranks"}, "average_views is 'ranks': choose logits or probabilities"),
            ({"label_smoothing": -0.1}, "label_smoothing is -0.1: give a part from 0 to below 1"),
            ({"modalities": ["rgb", "flow"]}, "modality 'flow' is not in the data, which has rgb, spectrogram"),
            (
                {"mixup": ModalityMixup(), "head": MeanPoolHead},
                "ModalityMixup needs logits for each modality: use ClsHead, or Mixup",
            ),
        ],
    )
    def test_wrong_settings(self, settings, message) -> None:
        with pytest.raises(UserError, match=message):
            build(**settings)

    def test_a_checkpoint_of_another_model(self) -> None:
        ours, wider = build(), build(size=EncoderSize(16, 2, 2))
        with pytest.raises(UserError, match=r"does not fit this model: .* is \[.*16.*\] there and \[.*8.*\] here"):
            ours.on_load_checkpoint({"state_dict": wider.state_dict()})
        late = build(fusion_layer=2)
        with pytest.raises(
            UserError, match=r"network\.fusion\.bottleneck is missing there; give the settings that it was"
        ):
            ours.on_load_checkpoint({"state_dict": late.state_dict()})
        with pytest.raises(UserError, match=r"network\.fusion\.bottleneck is not known here"):
            late.on_load_checkpoint({"state_dict": ours.state_dict()})
        ours.on_load_checkpoint({"state_dict": build(seed=3).state_dict()})
