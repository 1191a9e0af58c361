"""What is kept of streams, against learners of which it is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from streams_support import TRUST, Fading, Labelled, Lines, classes, gaussians
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.evaluation import Retention, evaluate_stream
from bayesmeta.metrics import NLL, Accuracy, Coverage, Estimate
from bayesmeta.tasks import ClassStreams, StreamSource


def test_the_matrix_is_what_the_learner_is_made_to_say() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=2, progress=False)
    assert isinstance(kept, Retention)
    expected = torch.full((4, 4), torch.nan, dtype=torch.float64)
    for t in range(4):
        for j in range(t + 1):
            expected[t, j] = -math.log(TRUST[t - j])
    torch.testing.assert_close(kept.matrix("NLL"), expected, equal_nan=True, rtol=1e-6, atol=1e-6)
    assert torch.equal(kept.matrix("Accuracy").isnan(), expected.isnan())
    assert kept.times == [0, 1, 2, 3]
    assert [metric.name for metric in kept.metrics] == ["NLL", "Accuracy", "ECE"]


def test_figures_are_the_papers_formulas() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=2, progress=False, metrics=[NLL()])
    log = {age: math.log(p) for age, p in enumerate(TRUST)}
    # After four parts their ages are 3, 2, 1, 0; the best of each was at age 1, but for part 2, which was asked at age 0 before.
    lost = [log[1] - log[3], log[1] - log[2], log[0] - log[1]]
    near(kept.forgetting["NLL"], sum(lost) / 3)
    near(kept.backward["NLL"], sum(log[age] - log[0] for age in (3, 2, 1)) / 3)
    points = {3: 1, 2: 2, 1: 1, 0: 2}  # classes of each age
    near(kept.final["NLL"], -sum(count * log[age] for age, count in points.items()) / 6)
    # All at once: every label is of age 0.
    near(kept.gap["NLL"], log[0] + kept.final["NLL"].value)
    assert kept.forward is None  # labels to come are no question
    assert kept.ahead is None


def test_what_parts_cost_each_other_beside_each_alone() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=2, progress=False, metrics=[NLL()])
    log = [math.log(p) for p in TRUST]
    # Alone every part is of age 0: its past costs nothing, and each part that comes makes it one part older.
    expected = torch.full((4, 4), torch.nan, dtype=torch.float64)
    for j in range(4):
        for t in range(j, 4):
            expected[t, j] = log[max(t - j - 1, 0)] - log[t - j]
    torch.testing.assert_close(kept.costs("NLL"), expected, equal_nan=True, rtol=1e-6, atol=1e-6)
    near(kept.interference["NLL"], sum(log[0] - log[age] for age in range(4)) / 4)
    assert kept.costs("NLL").nansum(0).mean().item() == pytest.approx(kept.interference["NLL"].value)
    some = evaluate_stream(Fading, Labelled(), episodes=2, progress=False, metrics=[NLL()], at=[1], together=False)
    torch.testing.assert_close(some.costs("NLL")[0, :2], torch.tensor([log[0] - log[1], 0.0], dtype=torch.float64))
    assert some.costs("NLL").nansum(0).mean().item() == pytest.approx(kept.interference["NLL"].value)


def test_what_the_past_costs_a_part_is_told_by_a_learner_of_that_part_alone() -> None:
    learner, streams = gaussians(), ClassStreams(classes(), classes=2)
    kept = evaluate_stream(learner, streams, episodes=2, progress=False, metrics=[NLL()])
    expected = torch.zeros(3, dtype=torch.float64)
    for index in range(2):
        for j, part in enumerate(streams.parts(index)):
            with torch.no_grad():
                expected[j] -= learner(part.support)(part.query.x).log_prob(part.query.y).mean() / 2
    matrix, costs = kept.matrix("NLL"), kept.costs("NLL")
    torch.testing.assert_close(costs.diagonal(), matrix.diagonal() - expected)
    torch.testing.assert_close(kept.interference["NLL"].value, (matrix[-1] - expected).mean().item())


def test_the_course_over_time_is_pooled_over_the_parts_so_far() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=2, progress=False, at=[0, 2])
    log = [math.log(p) for p in TRUST]
    # Parts are of one, two, one and two classes.
    near(kept.so_far("NLL")[0], -log[0])
    near(kept.so_far("NLL")[1], -(log[2] + 2 * log[1] + log[0]) / 4)
    assert kept.so_far("NLL")[2] == kept.final["NLL"]


def near(found: Estimate, expected: float) -> None:
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.low == pytest.approx(expected, rel=1e-6)  # all streams give the same
    assert found.high == pytest.approx(expected, rel=1e-6)


def test_at_chosen_times() -> None:
    every = evaluate_stream(Fading, Labelled(), episodes=1, progress=False, together=False)
    some = evaluate_stream(Fading, Labelled(), episodes=1, progress=False, together=False, at=[2, 0])
    assert some.times == [0, 2, 3]
    torch.testing.assert_close(some.matrix("NLL"), every.matrix("NLL")[[0, 2, 3]], equal_nan=True)
    log = [math.log(p) for p in TRUST]
    # Part 0 was asked at ages 0, 2 and 3, part 1 at 0, 1 and 2, part 2 at 0 and 1.
    assert some.forgetting["NLL"].value == pytest.approx(
        (log[2] - log[3] + log[1] - log[2] + log[0] - log[1]) / 3, rel=1e-6
    )
    assert some.backward["NLL"].value == pytest.approx(every.backward["NLL"].value)
    with pytest.raises(ValueError, match=r"gap: expected answers to all points at once, got none; .*together=True"):
        _ = some.gap


def test_of_an_exact_learner_the_end_is_what_evaluate_says_and_there_is_no_gap() -> None:
    streams = ClassStreams(classes(), classes=2)
    kept = evaluate_stream(gaussians(), streams, episodes=3, progress=False)
    expected = bm.evaluate(gaussians(), streams, episodes=3)
    for name, found in kept.final.items():
        assert found == pytest.approx(expected[name], abs=1e-9)
        assert abs(kept.gap[name].value) < 1e-9
    assert kept.final["NLL"].low < kept.final["NLL"].value < kept.final["NLL"].high
    assert kept.shared is not None  # classes are drawn anew, too
    assert kept.shared.shape == (12, 6)


def test_growth_is_told_from_forgetting_by_the_labels_among_which_to_choose() -> None:
    """Class Gaussians forget nothing: among a part's own labels its answers stay, among all there are more and more rivals."""
    streams = ClassStreams(classes(), classes=2)
    kept = {
        labels: evaluate_stream(gaussians(), streams, episodes=2, progress=False, metrics=[NLL()], labels=labels)  # type: ignore[arg-type]
        for labels in ("all", "seen", "own")
    }
    own, seen, everything = (kept[labels].matrix("NLL") for labels in ("own", "seen", "all"))
    assert abs(kept["own"].forgetting["NLL"].value) < 1e-9
    assert abs(kept["own"].backward["NLL"].value) < 1e-9
    assert (seen[-1] > own[-1]).all()
    torch.testing.assert_close(seen[0, 0], own[0, 0])
    torch.testing.assert_close(seen[-1], everything[-1])  # all have come
    assert everything[0, 0] > seen[0, 0]  # a new class was possible
    assert kept["seen"].backward["NLL"].value < 0


def test_forward_transfer_of_real_targets_is_what_the_past_says_beside_nothing() -> None:
    streams, learner = Lines(), bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian())
    kept = evaluate_stream(learner, streams, episodes=2, metrics=[NLL(), Coverage(0.9)], progress=False)
    gains, foretold = [], []
    for t in (1, 2):
        past = untaught = 0.0
        for index in range(2):
            parts = streams.parts(index)
            support = bm.data.join(parts[:t]).support
            nothing = Points(*(torch.zeros_like(leaf[:, :1]) for leaf in support))
            for given, sign in ((support, 1), (nothing, -1)):
                with torch.no_grad():
                    mean = learner(given)(parts[t].query.x).log_prob(parts[t].query.y).mean().item() / 2
                past, untaught = past + mean * (sign > 0), untaught + mean * (sign < 0)
        gains.append(past - untaught)
        foretold.append(-past)
    assert kept.forward is not None
    assert kept.forward["NLL"].value == pytest.approx(sum(gains) / 2, rel=1e-5)
    assert kept.forward["NLL"].low < kept.forward["NLL"].value < kept.forward["NLL"].high
    assert kept.ahead is not None
    assert kept.ahead["NLL"].value == pytest.approx(sum(foretold) / 2, rel=1e-5)  # parts have equally many queries
    assert abs(kept.gap["NLL"].value) < 1e-5
    # Coverage is the better the nearer to 0.9: its differences are of distances.
    last, fresh = (table[1].sum(0) for table in (kept.later, kept.fresh))
    value = ((fresh[:2, 0] / fresh[:2, 1] - 0.9).abs() - (last[-1, :2, 0] / last[-1, :2, 1] - 0.9).abs()).mean()
    assert kept.backward["90% coverage"].value == pytest.approx(value.item())


def test_a_learner_that_takes_further_steps_forgets_and_has_a_gap() -> None:
    torch.manual_seed(0)
    learner = bm.MAML(bm.networks.MLP(3, 6), bm.likelihoods.Categorical(), steps=5, rate=0.5).double()
    kept = evaluate_stream(learner, ClassStreams(classes(), classes=2), episodes=3, progress=False)
    assert kept.forgetting["Accuracy"].value > 0.3
    assert kept.backward["Accuracy"].value < -0.3
    assert kept.gap["NLL"].value > 0.3


def test_a_metric_that_was_not_measured() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=1, progress=False, metrics=[Accuracy()])
    with pytest.raises(ValueError, match="name: expected one of Accuracy, got 'NLL'"):
        kept.matrix("NLL")


def test_what_is_kept_shows_itself_in_one_line() -> None:
    kept = evaluate_stream(gaussians(), ClassStreams(classes()), episodes=2, progress=False)
    assert repr(kept).startswith("Retention(metrics=[NLL, Accuracy, ECE], streams=")
    assert len(repr(kept)) < 120


class Ragged(StreamSource):
    """Two tasks, of which the second has no point in the middle part, and fewer in others; labels are told by x."""

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        labels = (([0, 1, 1], [0, 1, 9]), ([2, 3, 3], [9, 9, 9]), ([4, 9, 9], [2, 3, 9]))
        return [Episode(*(self._points(torch.tensor(part), generator) for _ in range(2))) for part in labels]

    def _points(self, y: Tensor, generator: torch.Generator) -> Points:
        mask = y < 9
        x = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64) + torch.stack([y, -y], -1)
        return Points(x * mask[..., None], y * mask, mask)


@pytest.mark.parametrize("labels", ["all", "seen", "own"])
def test_metrics_among_labels_of_tasks_without_points_in_a_part(labels: Any) -> None:
    """Against one task after the other, and each task's labels by hand."""
    torch.manual_seed(0)
    learner, streams = bm.GeMCL(nn.Linear(2, 2), 2, classes=6).double().requires_grad_(False), Ragged(seed=0, length=3)
    found = evaluate_stream(
        learner, streams, episodes=3, metrics=[NLL(), Accuracy(), bm.metrics.Brier()], labels=labels, progress=False
    ).final
    log_p, right, brier = [], [], []
    for index, b in ((index, b) for index in range(3) for b in range(2)):
        support, _ = streams[index]
        mask = support.mask[b]
        told = learner(Points(support.x[b : b + 1, mask], support.y[b : b + 1, mask], mask[mask][None]))
        for part in streams.parts(index):
            own = {int(y) for given in part for y, there in zip(given.y[b], given.mask[b], strict=True) if there}
            among = {"all": set(range(6)), "seen": {int(y) for y in support.y[b][mask]}, "own": own}[labels]
            for x, y, there in zip(*(leaf[b] for leaf in part.query), strict=True):
                if there:
                    answer: Any = told(x[None, None])
                    p = torch.tensor(
                        [float(q) if label in among else 0.0 for label, q in enumerate(answer.probs[0, 0])]
                    )
                    p = p.double() / p.sum()
                    log_p.append(-p[y].log())
                    right.append(p.argmax() == y)
                    brier.append((p - torch.nn.functional.one_hot(y, 6)).square().sum())
    for name, values in (("NLL", log_p), ("Accuracy", right), ("Brier", brier)):
        assert abs(found[name].value - torch.stack(values).double().mean().item()) < 1e-6
