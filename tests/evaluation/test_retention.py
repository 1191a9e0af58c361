"""What is kept of streams, against learners of which it is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro.distributions import Categorical
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.evaluation import Retention, evaluate_stream
from bayesmeta.metrics import NLL, Accuracy, Coverage, Estimate
from bayesmeta.tasks import ClassStreams, ClassTasks, LinearGaussian, StreamSource

TRUST = [0.5, 0.9, 0.7, 0.6]
"""What a label's probability is when its part is so many parts old."""


class Fading:
    """Says the right label, which x is, with a probability that depends on the number of parts since it came alone."""

    def __init__(self, support: Points, ages: Tensor | None = None) -> None:
        self.ages = torch.full((6,), -1) if ages is None else ages + (ages >= 0)
        self.ages[support.y[support.mask].unique()] = 0

    def update(self, points: Points) -> Fading:
        return Fading(points, self.ages)

    def __call__(self, x: Tensor) -> Distribution:
        label = x[..., 0].round().long()
        ages = self.ages[label]
        right = torch.where(ages >= 0, torch.tensor(TRUST)[ages], 1 / 6).double()[..., None]
        wrong = (1 - right) / 5
        probabilities = torch.where(torch.arange(6) == label[..., None], right, wrong)
        return Categorical(probs=probabilities, validate_args=False)


def named(batch: int = 3) -> ClassTasks:
    """Classes whose inputs are their labels in the task, once `Labelled` has read them."""
    return ClassTasks(
        torch.zeros(60, 1), torch.arange(60) % 10, ways=6, shots=2, queries=3, batch=batch, dtype=torch.float64
    )


class Labelled(StreamSource):
    """Streams whose inputs are the labels."""

    def __init__(self, classes: Any = (1, 2, 1, 2), length: int = 10) -> None:
        super().__init__(seed=0, length=length)
        self.inner = ClassStreams(named(), classes=classes)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        parts = self.inner.draw_parts(generator)
        return [Episode(*(given._replace(x=given.y[..., None].double()) for given in part)) for part in parts]


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


def classes(batch: int = 4, ways: int = 6) -> ClassTasks:
    torch.manual_seed(0)
    centres = 2 * torch.randn(12, 3, dtype=torch.float64)
    x = centres.repeat(10, 1) + torch.randn(120, 3, dtype=torch.float64)
    return ClassTasks(x, torch.arange(120) % 12, ways=ways, shots=2, queries=4, batch=batch, dtype=torch.float64)


def gaussians(ways: int = 6) -> bm.GeMCL:
    torch.manual_seed(1)
    return bm.GeMCL(nn.Linear(3, 4), size=4, classes=ways).double()


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


class Lines(StreamSource):
    """Linear tasks of which four points come at a time."""

    def __init__(self) -> None:
        super().__init__(seed=0, length=10)
        self.inner = LinearGaussian(inputs=2, shots=12, queries=9, batch=5)

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        support, query = self.inner.draw(generator)
        return [
            Episode(
                *(Points(*(leaf[:, n * t : n * (t + 1)] for leaf in given)) for given, n in ((support, 4), (query, 3)))
            )
            for t in range(3)
        ]


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


def test_it_leaves_the_learner_and_the_random_numbers_as_they_were() -> None:
    learner = bm.ABML(bm.networks.MLP(2, 1), bm.likelihoods.Gaussian(), steps=1)
    learner.train()
    state = torch.random.get_rng_state()
    found = [evaluate_stream(learner, Lines(), episodes=1, progress=False) for _ in range(2)]
    torch.testing.assert_close(found[0].matrix("NLL"), found[1].matrix("NLL"), equal_nan=True, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert learner.training
    assert torch.is_grad_enabled()


def test_any_learner_by_rehearsal() -> None:
    learner = bm.Rehearsal(bm.DKTClassifier(nn.Identity(), RBFKernel(), classes=6)).double()
    kept = evaluate_stream(learner, ClassStreams(classes(batch=2), classes=3), episodes=1, progress=False)
    assert abs(kept.gap["NLL"].value) < 1e-9
    with pytest.raises(NotImplementedError, match="update: expected"):
        evaluate_stream(
            bm.PLATIPUS(bm.networks.MLP(3, 6), bm.likelihoods.Categorical()).double(),
            ClassStreams(classes(batch=2)),
            episodes=1,
            progress=False,
        )


class Interrupted(Exception):
    pass


class Stops(Lines):
    """Streams whose reading fails once: when the learner is to be told the second."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 5  # three streams are checked, and the first looked at, before that

    def parts(self, index: int) -> list[Episode]:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().parts(index)


def drawing() -> bm.ABML:
    """A learner whose predictions are random."""
    torch.manual_seed(0)
    return bm.ABML(bm.networks.MLP(2, 1), bm.likelihoods.Gaussian(), steps=1)


def test_an_evaluation_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    given: dict[str, Any] = {"episodes": 3, "at": [0], "progress": False}
    expected = evaluate_stream(drawing(), Lines(), **given)
    with pytest.raises(Interrupted):
        evaluate_stream(drawing(), Stops(), checkpoint=tmp_path, **given)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "stream-0.bayesmeta"]
    kept = tmp_path / "stream-0.bayesmeta"
    written = kept.stat().st_mtime_ns
    for _ in range(2):  # and again when all is there
        found = evaluate_stream(drawing(), Lines(), checkpoint=tmp_path, **given)
        for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
    assert kept.stat().st_mtime_ns == written
    more = evaluate_stream(drawing(), Lines(), checkpoint=tmp_path, **{**given, "episodes": 4})
    assert torch.equal(more.later[0][:15], expected.later[0])  # five tasks a stream


def test_a_checkpoint_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"learner": gaussians(), "streams": ClassStreams(classes(), classes=2)}
    given |= {"episodes": 1, "progress": False, "metrics": [NLL()], "checkpoint": tmp_path}
    evaluate_stream(**given)
    other = gaussians()
    with torch.no_grad():
        other.log_new += 1
    wider = gaussians()
    wider.classes = 8
    for change, message in (
        ({"learner": other}, "whose checksum of the weights is"),
        ({"learner": wider}, "whose learner.classes is 6, got 8"),
        ({"learner": Fading}, "whose learner is 'GeMCL', got 'Fading'"),
        ({"metrics": [Accuracy()]}, "whose metrics is 'NLL', got 'Accuracy'"),
        ({"metrics": None}, "whose metrics is 'NLL', got 'NLL, Accuracy, ECE'"),
        ({"at": [0]}, r"whose times\[1\] is 1, got 2"),
        ({"labels": "own"}, "whose labels is 'all', got 'own'"),
        ({"seed": 1}, "whose seed is 0, got 1"),
        ({"together": False}, "whose together is True, got False"),
        ({"streams": ClassStreams(classes(), classes=1)}, r"whose times\[3\] is None, got 3"),
        ({"streams": ClassStreams(classes(batch=3), classes=2)}, "streams of .* whose number 0 differs"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint: expected the .*{message}"):
            evaluate_stream(**{**given, **change})
    file = tmp_path / "stream-0.bayesmeta"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="the file is truncated or changed"):
        evaluate_stream(**given)


class Broken(Labelled):
    """An episode that the parts do not make, or parts of another number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __getitem__(self, index: int) -> Episode:
        found = super().__getitem__(index)
        if self.kind == "lacks points":
            return found._replace(query=Points(*(leaf[:, 1:] for leaf in found.query)))
        return found._replace(support=found.support._replace(y=found.support.y.flip(1)))


class Unequal(Labelled):
    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        parts = super().draw_parts(generator)
        return parts if generator.initial_seed() % 2 else parts[:3]


def without_update(support: Points) -> Any:
    return lambda x: Categorical(torch.ones(*x.shape[:2], 6))


def small() -> bm.Learner:
    return bm.PrototypicalNetwork(nn.Linear(1, 2), classes=4).double()


def lines() -> dict[str, Any]:
    learner = bm.ALPaCA(nn.Identity(), nn.Linear(2, 1), bm.likelihoods.Gaussian())
    return {"learner": learner, "streams": Lines(), "labels": "own"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"streams": Broken("lacks points")}, ValueError, r"streams: expected parts that join .* streams\[0\] holds"),
        ({"streams": Broken("other labels")}, ValueError, r"streams: expected parts that join .* streams\[0\] holds"),
        ({"streams": Unequal(), "episodes": 10}, ValueError, r"streams: expected as many parts in each, got [34] in"),
        ({"streams": named()}, TypeError, "streams: expected a source of streams, .* got ClassTasks"),
        ({"episodes": 11}, ValueError, "episodes: expected 1 to 10"),
        ({"at": [4]}, ValueError, "at: expected numbers of parts, 0 to 3, got 4"),
        ({"at": [-1]}, ValueError, "at: expected a whole number of at least 0, got -1"),
        ({"labels": "mine"}, ValueError, "labels: expected 'all', 'seen' or 'own', got 'mine'"),
        ({"learner": without_update}, TypeError, "learner: expected one whose posteriors can be .* by function, without"),
        ({"learner": small()}, ValueError, "y: expected labels 0 to 3, .* got 5"),
        (lines(), TypeError, "labels: expected predictions of one label a point"),
    ],
)  # fmt: skip
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"learner": Fading, "streams": Labelled(), "episodes": 1, "progress": False, **options}
    with pytest.raises(error, match=message):
        evaluate_stream(**given)


class Untold(Exception):
    pass


def never(support: Points) -> Any:
    raise Untold


class LateLabel(Labelled):
    """Streams of which the last has a label for which there is no room."""

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        parts = super().draw_parts(generator)
        if generator.initial_seed() == self._generator(2).initial_seed():
            parts[-1] = Episode(*(given._replace(y=given.y + 1) for given in parts[-1]))
        return parts


class Strange(Labelled):
    """Streams of which the last has a part of other features."""

    def parts(self, index: int) -> list[Episode]:
        parts = super().parts(index)
        if index == 2:
            parts[1] = Episode(*(given._replace(x=given.x.repeat(1, 1, 2)) for given in parts[1]))
        return parts


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        (Unequal(), "streams: expected as many parts in each"),
        (Strange(), r"parts\[1\]\.support: expected tasks, features and targets as part 0 has them"),
        (Broken("other labels"), "streams: expected parts that join"),
    ],
)
def test_all_streams_are_checked_before_a_learner_is_told_of_any(streams: Labelled, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_stream(never, streams, episodes=10, progress=False)  # type: ignore[arg-type]
    with pytest.raises(Untold):
        evaluate_stream(never, Labelled(), episodes=3, progress=False)


def test_a_label_of_the_last_stream_for_which_there_is_no_room_costs_no_work() -> None:
    with pytest.raises(ValueError, match=r"y: expected labels 0 to 5, .* got 6"):
        evaluate_stream(Fading, LateLabel(), episodes=3, progress=False)


def test_a_metric_that_was_not_measured() -> None:
    kept = evaluate_stream(Fading, Labelled(), episodes=1, progress=False, metrics=[Accuracy()])
    with pytest.raises(ValueError, match="name: expected one of Accuracy, got 'NLL'"):
        kept.matrix("NLL")
