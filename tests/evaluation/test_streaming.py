"""Learners told of streams: what is left as it was, what goes on, and what is refused before work is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpytorch.kernels import RBFKernel
from pyro.distributions import Categorical
from streams_support import Fading, Labelled, Lines, classes, gaussians, named
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import bayesmeta as bm
from bayesmeta import Episode, Points
from bayesmeta.evaluation import evaluate_stream
from bayesmeta.metrics import NLL, Accuracy
from bayesmeta.tasks import ClassStreams, DriftingSinusoids


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


class Untaught(Labelled):
    """Streams of which the first part asks about a label that comes later."""

    def draw_parts(self, generator: torch.Generator) -> list[Episode]:
        first, *others = super().draw_parts(generator)
        return [first._replace(query=first.query._replace(y=first.query.y + 5)), *others]


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
        ({"at": 3}, ValueError, r"at: expected numbers of parts, 0 to 3, got 3; give a list of them, \[3\]"),
        ({"episodes": 2.5}, ValueError, "episodes: expected 1 to 10 .* got 2.5"),
        ({"episodes": True}, ValueError, "episodes: expected 1 to 10 .* got True"),
        ({"streams": Untaught(), "labels": "seen"}, ValueError, "labels: expected queries of labels that .* got label 5"),
        ({"checkpoint": ""}, ValueError, "checkpoint: expected a folder, got ''"),
        ({"checkpoint": __file__}, ValueError, "checkpoint: expected a folder, for one file a stream, got .*py"),
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


def test_a_checkpoint_of_another_oracle_is_refused(tmp_path: Path) -> None:
    """Methods have the same name whatever they are of."""
    streams, noisy = (DriftingSinusoids(steps=3, batch=1, noise=noise) for noise in (0.1, 0.5))
    given: dict[str, Any] = {"episodes": 1, "progress": False, "checkpoint": tmp_path}
    found = evaluate_stream(streams.oracle, streams, **given)
    again = evaluate_stream(streams.oracle, streams, **given)
    assert again.final["NLL"].value == found.final["NLL"].value
    with pytest.raises(ValueError, match=r"whose object is 'DriftingSinusoids\(steps=3, batch=1\)', got .*0.5"):
        evaluate_stream(noisy.oracle, streams, **given)


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
