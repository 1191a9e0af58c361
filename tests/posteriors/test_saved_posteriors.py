"""Posteriors that were told further points, in files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_contract import build, episode
from test_update import CONSTANT, PAIRS, PRIOR, REFUSED, adapted, answers, made, some, updated
from torch import nn

import bayesmeta as bm

UPDATED = [pair for pair in PAIRS if pair not in REFUSED]
SIZED = [pair for pair in PAIRS if pair[0] in CONSTANT | PRIOR]


@pytest.mark.parametrize(("name", "likelihood"), PAIRS)
def test_it_answers_the_same_and_is_told_further_points(name: str, likelihood: str, tmp_path: Path) -> None:
    learner = made(name, likelihood)
    if (name, likelihood) in REFUSED:
        learner = bm.Rehearsal(learner)
    first, second = some(likelihood, 3, seed=5), some(likelihood, 2, seed=6)
    posterior = updated(adapted(learner, episode(likelihood).support), first)
    bm.save(learner, tmp_path / "a", posterior=posterior)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    loaded = bm.load(tmp_path / "a", learner)
    assert torch.equal(torch.get_rng_state(), before)
    same, near = {"rtol": 0, "atol": 0}, {"rtol": 1e-12, "atol": 1e-12}
    close = near if "Dense" in name else same  # pixels lie otherwise in memory
    torch.testing.assert_close(answers(loaded, likelihood), answers(posterior, likelihood), **close)
    later = [answers(updated(each, second), likelihood) for each in (loaded, posterior)]
    # Weights from a file are not in training: of a logit's loss torch.func then sums the slope in another order than autograd.
    torch.testing.assert_close(*later, **(near if (name, likelihood) == ("MAML", "yes or no") else close))


def test_what_was_drawn_for_all_tasks_is_kept(tmp_path: Path) -> None:
    """Priors that are drawn at each call."""
    network = bm.networks.MLP(2, 1, hidden=(4,), activation=nn.Tanh)
    inner = bm.PACOHNN(network, bm.likelihoods.Gaussian(), tasks=3, hyper_posterior="variational", weights=2, steps=2)
    learner = bm.Rehearsal(inner.double())
    posterior = adapted(learner, episode("gaussian").support)
    bm.save(learner, tmp_path / "a", posterior=posterior)
    loaded = bm.load(tmp_path / "a", learner)
    assert torch.equal(answers(loaded, "gaussian"), answers(posterior, "gaussian"))


@pytest.mark.parametrize(("name", "likelihood"), SIZED)
def test_the_files_bytes_do_not_grow_with_the_stream(name: str, likelihood: str, tmp_path: Path) -> None:
    learner = made(name, likelihood)
    with torch.no_grad():
        posterior = learner(episode(likelihood).support).update(some(likelihood, 10, seed=5))
        bm.save(learner, tmp_path / "few", posterior=posterior)
        for seed in range(10):
            posterior = posterior.update(some(likelihood, 1000, seed=seed))
        bm.save(learner, tmp_path / "many", posterior=posterior)
    assert (tmp_path / "few").stat().st_size == (tmp_path / "many").stat().st_size


def test_a_new_process_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, activation=nn.Tanh)
    inner = bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian())
    learner = bm.Standardized(inner, x_loc=1.0, x_scale=2.0, y_loc=3.0, y_scale=4.0)
    with torch.no_grad():
        posterior = learner(bm.points([0.0, 1.0], [0.0, 1.0])).update(bm.points([2.0], [0.5]))
        bm.save(learner, tmp_path / "a", posterior=posterior)
        program = (
            "import bayesmeta as bm, torch\n"
            f"posterior = bm.load({str(tmp_path / 'a')!r})\n"
            "later = posterior.update(bm.points([-1.0], [2.0]))\n"
            f"torch.save([p([0.5, 2.5]).mean.detach() for p in (posterior, later)], {str(tmp_path / 'found')!r})\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
        later = posterior.update(bm.points([-1.0], [2.0]))
        found = torch.load(tmp_path / "found", weights_only=True)
        expected: list[Any] = [p([0.5, 2.5]).mean for p in (posterior, later)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_posterior_of_another_learner_is_refused(tmp_path: Path) -> None:
    learner = build("ALPaCA", "gaussian")
    posterior = learner(episode("gaussian").support).update(some("gaussian", 3, seed=5))
    with pytest.raises(ValueError, match="posterior: expected what a posterior of this learner holds"):
        bm.save(build("MAML", "gaussian"), tmp_path / "a", posterior=posterior)
    with pytest.raises(ValueError, match=r"posterior: expected what learner\(support\) gave, and no support"):
        bm.save(learner, tmp_path / "a", posterior=posterior, support=episode("gaussian").support)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.1)
    with pytest.raises(ValueError, match="posterior: expected one of this learner as it is now, got one that answers"):
        bm.save(learner, tmp_path / "a", posterior=posterior)
    assert not (tmp_path / "a").exists()


def test_a_posterior_in_the_place_of_its_learner_is_refused(tmp_path: Path) -> None:
    posterior = bm.ALPaCA(nn.Identity(), nn.Linear(1, 1), bm.likelihoods.Gaussian())(bm.points([0.0], [0.0]))
    with pytest.raises(
        TypeError, match=r"learner: expected a learner such as MAML.*save.learner, path, posterior=posterior."
    ):
        bm.save(posterior, tmp_path / "file")  # type: ignore[arg-type]
