"""Losses and scores, against numbers worked out by hand and against scikit-learn."""

import itertools
import math

import pytest
import torch
from package import defined

from mbt_lightning.data.records import DataSpec
from mbt_lightning.errors import UserError
from mbt_lightning.training.tasks import (
    Multiclass,
    Multihead,
    Multilabel,
    Task,
    average_precisions,
    roc_areas,
    topk_hits,
)


def spec(classes, groups=()) -> DataSpec:
    return DataSpec({}, tuple(classes), tuple(groups))


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def one_hot(rows: list[int], num_classes: int) -> torch.Tensor:
    return torch.eye(num_classes)[rows]


class TestAveragePrecision:
    @pytest.mark.parametrize(
        ("scores", "truth", "expected"),
        [
            ((0.9, 0.8, 0.7, 0.6), (1, 0, 1, 0), 5 / 6),
            ((0.5, 0.5, 0.5, 0.5, 0.2, 0.2), (1, 0, 1, 0, 1, 0), 0.5),  # ties are one threshold
            ((0.1, 0.2, 0.3), (1, 1, 1), 1.0),
            ((3.0, 2.0, 1.0), (0, 0, 1), 1 / 3),
        ],
    )
    def test_by_hand(self, scores, truth, expected) -> None:
        for shift, scale in ((0, 1), (-50, 1), (0, 1000)):  # only the order matters
            logits = column(*scores) * scale + shift
            assert average_precisions(logits.double(), column(*truth)).item() == pytest.approx(expected)

    def test_equals_scikit_learn(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(300, 20, generator=generator, dtype=torch.double)
        logits[:, ::2] = (logits[:, ::2] * 3).round()  # many ties
        targets = (torch.rand(300, 20, generator=generator) < torch.linspace(0.01, 0.9, 20)).float()
        targets[0] = 1
        theirs = [metrics.average_precision_score(targets[:, c], logits[:, c]) for c in range(20)]
        assert average_precisions(logits, targets).tolist() == pytest.approx(theirs, abs=1e-6)
        ours = Multilabel(spec(map(str, range(20)))).scores(logits, targets)
        areas = [metrics.roc_auc_score(targets[:, c], logits[:, c]) for c in range(20)]
        expected = {"mAP": sum(theirs) / 20, "classes_with_positives": 20, "AUC": sum(areas) / 20}
        assert ours == pytest.approx(expected, abs=1e-6)

    def test_large_logits_do_not_tie(self) -> None:
        """float32 probabilities of 101 and 104 are both 1, those of -101 and -104 almost 0."""
        for sign in (100, -100):
            logits = column(4, 3, 2, 1) + sign
            assert average_precisions(logits, column(1, 0, 1, 0)).item() == pytest.approx(5 / 6)


class TestMultilabel:
    def test_loss_is_summed_over_classes(self) -> None:
        logits = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
        targets = torch.tensor([[1.0, 0.0, 0.3], [1.0, 1.0, 0.0]])
        first = math.log(2) + math.log(1 + math.exp(2)) + 0.3 * math.log(1 + math.e) + 0.7 * math.log(1 + 1 / math.e)
        assert Multilabel(spec("abc")).loss(logits, targets).tolist() == pytest.approx([first, 3 * math.log(2)])

    def test_smoothing(self) -> None:
        targets = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
        smoothed = Multilabel(spec("abcd")).smooth(targets, 0.3)
        assert smoothed[0].tolist() == pytest.approx([0.7 + 0.075, 0.075, 0.35 + 0.075, 0.075])
        assert targets[0].tolist() == [1.0, 0.0, 0.5, 0.0]
        assert torch.equal(Multilabel(spec("abcd")).smooth(targets, 0.0), targets)

    def test_probabilities(self) -> None:
        assert Multilabel(spec("ab")).probabilities(torch.tensor([[0.0, 1.0]]))[0].tolist() == pytest.approx(
            [0.5, 1 / (1 + math.exp(-1))]
        )

    def test_classes_without_positives_are_left_out_and_counted(self) -> None:
        logits = torch.cat([column(0.9, 0.8, 0.7, 0.6), column(1, 2, 3, 4), column(4, 3, 2, 1)], 1)
        targets = torch.cat([column(1, 0, 1, 0), column(0, 0, 0, 0), column(0, 0, 0, 1)], 1)
        scores = Multilabel(spec("abc")).scores(logits, targets)
        assert scores == pytest.approx(
            {"mAP": (5 / 6 + 1 / 4) / 2, "classes_with_positives": 2, "AUC": (3 / 4 + 0) / 2}
        )

    def test_groups(self) -> None:
        logits = torch.cat([column(4, 3, 2, 1), column(1, 2, 3, 4), column(4, 3, 2, 1), column(1, 2, 3, 4)], 1)
        targets = torch.cat([column(1, 0, 0, 0), column(0, 0, 0, 0), column(0, 0, 0, 1), column(0, 0, 0, 0)], 1)
        scores = Multilabel(spec("abcd", ("seen", "seen", "heard", "silent"))).scores(logits, targets)
        assert math.isnan(scores.pop("mAP/silent")) and math.isnan(scores.pop("AUC/silent"))
        areas = {"AUC": 0.5, "AUC/seen": 1.0, "AUC/heard": 0.0}
        assert scores == {"mAP": 0.625, "classes_with_positives": 2.0, "mAP/seen": 1.0, "mAP/heard": 0.25} | areas

    def test_an_area_is_the_share_of_pairs_in_order(self) -> None:
        """Of a positive and a negative; a tie counts half."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randint(0, 6, (60, 4), generator=generator).double()
        targets = (torch.rand(60, 4, generator=generator) < 0.3).double()
        for c, area in enumerate(roc_areas(logits, targets).tolist()):
            gaps = logits[targets[:, c] == 1, c][:, None] - logits[targets[:, c] == 0, c]
            assert area == pytest.approx(((gaps > 0).double() + (gaps == 0).double() / 2).mean().item(), abs=1e-12)

    def test_a_sum_of_one_score_per_modality_on_an_exclusive_or(self) -> None:
        """What a model that only averages logits can reach: average precision 1 - ln(4/3) = 0.712, and AUC 0.5.

        One of the two matching cases can be put first, with precision 1; the other is then last, where the precision
        rises from 1/3 to 1/2.
        """
        seen, heard = (torch.tensor(facts).double().repeat(2000) for facts in ((0, 0, 1, 1), (0, 1, 0, 1)))
        targets = (seen == heard).double()[:, None]
        noise = 1e-3 * torch.rand(len(seen), generator=torch.Generator().manual_seed(0)).double()  # no two clips tie
        precisions, areas = [], []
        for a, b in itertools.product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=2):
            logits = (a * seen + b * heard + noise)[:, None]
            precisions.append(average_precisions(logits, targets).item())
            areas.append(roc_areas(logits, targets).item())
        assert max(precisions) == pytest.approx(1 - math.log(4 / 3), abs=0.003)
        assert areas == pytest.approx([0.5] * 25, abs=0.015)


class TestMulticlass:
    def test_loss_takes_mixed_targets(self) -> None:
        logits = torch.tensor([[1.0, 2.0, 0.0]])
        total = math.log(math.e + math.exp(2) + 1)
        loss = Multiclass(spec("abc")).loss(logits, torch.tensor([[0.25, 0.75, 0.0]]))
        assert loss.tolist() == pytest.approx([0.25 * (total - 1) + 0.75 * (total - 2)])

    def test_top_1_and_top_5(self) -> None:
        logits = torch.arange(7.0).repeat(4, 1)  # the order of the classes is 6 5 4 3 2 1 0
        scores = Multiclass(spec("abcdefg")).scores(logits, one_hot([6, 2, 1, 0], 7))
        assert scores == {"top1": 0.25, "top5": 0.5}

    def test_fewer_than_five_classes(self) -> None:
        scores = Multiclass(spec("ab")).scores(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), one_hot([0, 1], 2))
        assert scores == {"top1": 0.5, "top5": 1.0}

    def test_groups_are_scored_on_their_own_clips(self) -> None:
        logits = one_hot([0, 0, 2, 0], 4)
        scores = Multiclass(spec("abcd", ("x", "x", "y", "z"))).scores(logits, one_hot([0, 1, 2, 2], 4))
        assert math.isnan(scores.pop("top1/z"))
        assert scores == {"top1": 0.5, "top5": 1.0, "top1/x": 0.5, "top1/y": 0.5}

    def test_probabilities(self) -> None:
        task = Multiclass(spec("ab"))
        assert task.probabilities(torch.tensor([[0.0, math.log(3)]]))[0].tolist() == pytest.approx([0.25, 0.75])


VERBS_AND_NOUNS = ("verb:0", "verb:1", "verb:2", "noun:0", "noun:1", "noun:2")


def epic(verb: int, noun: int) -> torch.Tensor:
    """Target of one clip."""
    return torch.cat([one_hot([verb], 3), one_hot([noun], 3)], 1)


class TestMultihead:
    # Products of verb .6 .3 .1 and noun .5 .3 .2: .30 .18 .15 .12 .09 | .06 .05 .03 .02
    logits = torch.tensor([[0.6, 0.3, 0.1, 0.5, 0.3, 0.2]]).log()

    @pytest.mark.parametrize(
        ("verb", "noun", "top1", "top5"),
        [
            (0, 0, 1, 1),
            (0, 1, 0, 1),
            (1, 0, 0, 1),
            (0, 2, 0, 1),
            (1, 1, 0, 1),
            (1, 2, 0, 0),
            (2, 0, 0, 0),
            (2, 2, 0, 0),
        ],
    )
    def test_action_is_ranked_by_the_product(self, verb, noun, top1, top5) -> None:
        scores = Multihead(spec(VERBS_AND_NOUNS)).scores(self.logits, epic(verb, noun))
        assert scores == {
            "verb_top1": float(verb == 0),
            "verb_top5": 1.0,
            "noun_top1": float(noun == 0),
            "noun_top5": 1.0,
            "action_top1": top1,
            "action_top5": top5,
        }

    def test_softmax_is_taken_within_each_head(self) -> None:
        """Adding a number to one head's logits changes nothing."""
        task, shifted = Multihead(spec(VERBS_AND_NOUNS)), self.logits + torch.tensor([9.0] * 3 + [0.0] * 3)
        torch.testing.assert_close(task.probabilities(shifted)[0], torch.tensor([0.6, 0.3, 0.1, 0.5, 0.3, 0.2]))
        assert task.scores(shifted, epic(1, 1)) == task.scores(self.logits, epic(1, 1))

    def test_more_clips_than_fit_one_part(self) -> None:
        logits = self.logits.repeat(700, 1)
        targets = torch.cat([epic(0, 0)] * 350 + [epic(1, 1)] * 175 + [epic(2, 0)] * 175)
        scores = Multihead(spec(VERBS_AND_NOUNS)).scores(logits, targets)
        assert (scores["action_top1"], scores["action_top5"]) == (0.5, 0.75)

    def test_loss_is_the_mean_of_the_heads(self) -> None:
        loss = Multihead(spec(VERBS_AND_NOUNS)).loss(self.logits, epic(1, 2))
        assert loss.tolist() == pytest.approx([-(math.log(0.3) + math.log(0.2)) / 2])

    def test_smoothing_stays_within_a_head(self) -> None:
        classes = ("verb:0", "verb:1", "noun:0", "noun:1", "noun:2", "noun:3")
        smoothed = Multihead(spec(classes)).smooth(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), 0.2)
        assert smoothed[0].tolist() == pytest.approx([0.9, 0.1, 0.05, 0.05, 0.85, 0.05])

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            (("verb:0", "cut"), "class 'cut' has no head"),
            (("verb:0", "noun:0", "verb:1"), "the classes of a head must be consecutive.*: verb, noun"),
        ],
    )
    def test_wrong_classes_are_refused(self, classes, message) -> None:
        with pytest.raises(UserError, match=message):
            Multihead(spec(classes))


TASKS = {
    Multilabel: spec("abcd", ("x", "x", "y", "y")),
    Multiclass: spec("abcd", ("x", "x", "y", "y")),
    Multihead: spec(("verb:0", "verb:1", "noun:0", "noun:1")),
}
"""Each task with four classes."""


def test_every_task_is_in_the_laws() -> None:
    missing = sorted(task.__name__ for task in defined(Task) - TASKS.keys())
    assert not missing, f"add {', '.join(missing)} to TASKS in {__file__}"


@pytest.mark.parametrize("task", TASKS)
class TestLaws:
    """What holds for every task."""

    def test_loss_of_each_clip_and_its_gradient(self, task: type[Task]) -> None:
        logits = torch.randn(4, 4, dtype=torch.double, requires_grad=True)
        loss = task(TASKS[task]).loss(logits, TRUTH.double())
        assert loss.shape == (4,) and (loss > 0).all()
        loss.sum().backward()
        assert logits.grad is not None and logits.grad.isfinite().all() and (logits.grad != 0).any(dim=1).all()

    def test_true_logits_score_best(self, task: type[Task]) -> None:
        made, truth = task(TASKS[task]), torch.eye(4) if task is Multiclass else TRUTH
        right, wrong = made.scores(9 * truth.double(), truth), made.scores(-9 * truth.double(), truth)
        assert right[made.main_score] == 1.0 > wrong[made.main_score]

    def test_probabilities_and_the_mean_of_equal_views(self, task: type[Task]) -> None:
        made, logits = task(TASKS[task]), torch.randn(4, 4, dtype=torch.double)
        probabilities = made.probabilities(logits)
        assert ((probabilities > 0) & (probabilities < 1)).all()
        assert torch.allclose(made.probabilities(made.mean_probabilities(logits, lambda x: x)), probabilities)


TRUTH = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]])


class TestNotFinite:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", [(slice(None), slice(None)), (2, slice(None)), (2, 1)])
    def test_there_is_no_score(self, task, value, where) -> None:
        logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
        healthy = task(TASKS[task]).scores(logits, TRUTH)
        logits[where] = value
        scores = task(TASKS[task]).scores(logits, TRUTH)
        assert scores.keys() == healthy.keys() and task.main_score in scores
        assert all(map(math.isnan, scores.values()))

    def test_sorted_clips_of_a_diverged_model_have_no_score(self) -> None:
        """They had 0.4 of average precision and a top-1 of 1: NaNs were ranked by their places."""
        targets = one_hot(sorted(i % 12 for i in range(512)), 12)
        for task in (Multilabel, Multiclass):
            scores = task(spec(map(str, range(12)))).scores(torch.full((512, 12), math.nan), targets)
            assert math.isnan(scores[task.main_score])


class TestTies:
    @pytest.mark.parametrize(
        ("logits", "true", "k", "expected"),
        [
            ((0, 0, 0, 0), 0, 1, 1 / 4),
            ((0, 0, 0, 0), 3, 3, 3 / 4),
            ((0, 0, 0, 0), 2, 5, 1),
            ((9, 1, 1, 0), 1, 1, 0),
            ((9, 1, 1, 0), 2, 2, 1 / 2),
            ((9, 1, 1, 0), 1, 3, 1),
            ((9, 1, 1, 0), 0, 1, 1),
            ((9, 9, 1, 0), 2, 1, 0),
        ],
    )
    def test_credit_is_shared(self, logits, true, k, expected) -> None:
        for shift in range(4):  # wherever the classes stand
            turned = torch.tensor([logits]).double().roll(shift, 1)
            hits = topk_hits(turned, torch.tensor([(true + shift) % 4]), k)
            assert hits.dtype == torch.double and hits.item() == expected

    def test_credit_is_the_mean_over_all_orders(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randint(0, 4, (20, 9), generator=generator).double()
        true = torch.randint(0, 9, (20,), generator=generator)
        for k in (1, 5):
            noise = torch.rand(20000, 20, 9, generator=generator) / 2  # breaks ties and nothing else
            chosen = (logits + noise).topk(k).indices
            drawn = (chosen == true[:, None]).any(-1).double().mean(0)
            torch.testing.assert_close(topk_hits(logits, true, k), drawn, atol=0.02, rtol=0)

    def test_without_ties_a_hit_is_a_hit(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits, true = torch.randn(500, 30, generator=generator).double(), torch.arange(500) % 30
        for k in (1, 5, 40):
            hits = (logits.topk(min(k, 30)).indices == true[:, None]).any(1)
            assert torch.equal(topk_hits(logits, true, k), hits.double())

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
    @pytest.mark.parametrize(
        ("task", "expected"),
        [
            (
                Multilabel,
                {f"{score}{group}": 1 / 2 for score in ("mAP", "AUC") for group in ("", "/x", "/y")}
                | {"classes_with_positives": 4},
            ),
            (Multiclass, {"top1": 1 / 4, "top5": 1, "top1/x": 1 / 4, "top1/y": 1 / 4}),
            (Multihead, {f"{head}_top{k}": 1 / 2 if k == 1 else 1 for head in ("verb", "noun") for k in (1, 5)}),
        ],
    )
    def test_all_tied_is_chance_in_any_order(self, task, expected, order) -> None:
        targets = torch.eye(4) if task is Multiclass else TRUTH
        scores = task(TASKS[task]).scores(torch.zeros(4, 4, dtype=torch.double), targets[list(order)])
        if task is Multihead:
            expected = expected | {"action_top1": 1 / 4, "action_top5": 1}
        assert scores == pytest.approx(expected)
