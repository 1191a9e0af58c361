"""Generated texts: the log-probabilities they come with, the best of all, and their frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from sequences_support import LIKELIHOOD, prefixes, short_texts, transformer
from torch import Tensor

import bayesmeta as bm
from bayesmeta.distributions import mixture
from bayesmeta.networks import END, PADDING, Transformer

SOURCE = torch.tensor([[3, 4, 5], [5, PADDING, PADDING]])


def learned(learner: bm.Learner) -> bm.Posterior:
    y = torch.tensor([[3, 4, END], [5, END, PADDING]])
    x = {"source": SOURCE, "prefix": prefixes(y)}
    support = bm.points(x, y, classes=6, event_dims=1, mask=y != PADDING, whole=True, dtype=torch.float64)
    return learner(support)


def doubtful() -> bm.Posterior:
    """A posterior of several functions."""
    torch.manual_seed(0)
    return learned(bm.Ensemble([bm.MAML(transformer(), LIKELIHOOD, steps=k) for k in (0, 3)]))


def log_probs(functions: object, y: Tensor) -> Tensor:
    """Of each text under each function, at each source: ``(S, sources, texts)``."""
    x = {
        "source": SOURCE.repeat_interleave(len(y), 0)[None],
        "prefix": prefixes(y).repeat(len(SOURCE), 1)[None],
    }
    found: Tensor = functions(x).log_prob(y.repeat(len(SOURCE), 1)[None])  # type: ignore[operator]
    return found.unflatten(-1, (len(SOURCE), len(y)))[:, 0]


@pytest.mark.parametrize("method", ["greedy", "beam", "samples"])
@pytest.mark.parametrize("samples", [1, 5])
def test_log_probabilities_are_the_posteriors(method: str, samples: int) -> None:
    posterior = doubtful()
    torch.manual_seed(1)
    functions = posterior.functions(samples)
    torch.manual_seed(1)  # the same functions again
    count = 1 if method == "greedy" else 4
    found = bm.generate(posterior, SOURCE, method=method, count=count, samples=samples, longest=4)  # type: ignore[arg-type]
    y = found.tokens[0].flatten(0, 1)
    by_source = log_probs(functions, y).unflatten(-1, (2, count))  # (S, asked source, source of the text, K)
    expected = (by_source.logsumexp(0) - math.log(samples)).diagonal(dim1=0, dim2=1).mT
    torch.testing.assert_close(found.log_prob[0], expected)


def test_a_wide_beam_finds_the_most_probable_of_all_texts() -> None:
    posterior, y = learned(bm.MAML(transformer(), LIKELIHOOD)), short_texts(6, 4)
    best = log_probs(posterior.functions(1), y)[0].topk(5, -1)
    found = bm.generate(posterior, SOURCE, method="beam", count=100, longest=4)
    torch.testing.assert_close(found.log_prob[0, :, :5], best.values)
    assert torch.equal(found.tokens[0, :, :5], y[best.indices])
    torch.testing.assert_close(found.log_prob.exp().sum(-1)[0, 0], torch.tensor(1.0).double(), atol=0.05, rtol=0)


def test_greedy_is_a_beam_of_one() -> None:
    posterior = learned(bm.MAML(transformer(), LIKELIHOOD))
    one, other = (bm.generate(posterior, SOURCE, method=how, longest=6) for how in ("greedy", "beam"))  # type: ignore[arg-type]
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second)


def test_samples_have_the_frequencies_that_log_probabilities_say() -> None:
    """A chi-square test of 5,000 texts over those that are expected five times or more and the rest.

    It fails by chance once in 10,000 seeds, of which this is one.
    """
    posterior, y = learned(bm.MAML(transformer(), LIKELIHOOD)), short_texts(6, 3)
    torch.manual_seed(0)
    count = 5_000
    drawn = bm.generate(posterior, SOURCE, method="samples", count=count, longest=3).tokens[0]
    expected = log_probs(posterior.functions(1), y)[0].detach().exp() * count
    power = 6 ** torch.arange(3)
    for source in range(2):
        place = ((y @ power)[:, None] == (drawn[source] @ power)).int()
        assert (place.sum(0) == 1).all()
        often = expected[source] >= 5
        seen = torch.cat([place.sum(1)[often], place.sum(1)[~often].sum()[None]]).double()
        wanted = torch.cat([expected[source][often], expected[source][~often].sum()[None]])
        seen, wanted = (torch.cat([part[:-2], part[-2:].sum()[None]]) for part in (seen, wanted))
        statistic = float(((seen - wanted).square() / wanted).sum())
        freedom = len(wanted) - 1
        tail = torch.special.gammaincc(torch.tensor(freedom / 2).double(), torch.tensor(statistic / 2).double())
        assert tail > 5e-5, (statistic, freedom)


def test_doubt_is_the_functions_disagreement() -> None:
    posterior = doubtful()
    found = bm.generate(posterior, SOURCE, samples=6, longest=5)
    assert (found.epistemic >= 0).all()
    assert (found.epistemic <= found.total + 1e-12).all()
    assert found.epistemic.max() > 1e-4
    assert (found.total[found.tokens == PADDING] == 0).all()
    torch.manual_seed(2)
    first = posterior.functions(6)({"source": SOURCE, "prefix": torch.ones(2, 1, dtype=torch.long)})
    torch.manual_seed(2)
    again = bm.generate(posterior, SOURCE, samples=6, longest=1)
    total, known = (bm.distributions.uncertainty(d) for d in (mixture(first), first))
    torch.testing.assert_close(again.total[0, :, 0], total[0])
    torch.testing.assert_close(again.epistemic[0, :, 0], (total - known.mean(0))[0])
    certain = bm.generate(learned(bm.MAML(transformer(), LIKELIHOOD)), SOURCE, samples=3, longest=5)
    assert certain.epistemic.max() < 1e-12


def test_sources_of_several_tasks_are_written_as_one_by_one() -> None:
    y = torch.tensor([[[3, 4, END]], [[5, 5, END]]])
    x = [{"source": SOURCE[b : b + 1], "prefix": prefixes(y[b])} for b in range(2)]
    learner = bm.MAML(transformer(), LIKELIHOOD, steps=3, rate=0.5)
    both = learner(bm.points(x, list(y), classes=6, event_dims=1, whole=True, dtype=torch.float64))
    written = bm.generate(both, SOURCE[None].expand(2, -1, -1), method="beam", count=2, longest=4)
    for b in range(2):
        alone = learner(bm.points(x[b], y[b], classes=6, event_dims=1, whole=True, dtype=torch.float64))
        one = bm.generate(alone, SOURCE, method="beam", count=2, longest=4)
        torch.testing.assert_close(one.log_prob[0], written.log_prob[b])


def test_bad_input_is_refused() -> None:
    posterior = learned(bm.MAML(transformer(), LIKELIHOOD))
    with pytest.raises(ValueError, match="method: expected greedy, beam or samples, got 'best'"):
        bm.generate(posterior, SOURCE, method="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count: expected 1 of greedy"):
        bm.generate(posterior, SOURCE, count=2)
    with pytest.raises(ValueError, match="source: expected token ids"):
        bm.generate(posterior, torch.rand(2, 3))
    with pytest.raises(ValueError, match="source: expected token ids"):
        bm.generate(posterior, SOURCE[None].expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"expected at most 12 tokens.* generate with longest=12"):
        bm.generate(learned(bm.MAML(never_ending(), LIKELIHOOD)), SOURCE, longest=20)
    other = bm.MAML(bm.networks.MLP(1, 2), bm.likelihoods.Categorical())(bm.points([0.0], [0], classes=2))
    with pytest.raises(ValueError, match="posterior: expected one of a support whose x is"):
        bm.generate(other, SOURCE)
    with pytest.raises(ValueError, match=r"posterior: expected what .* got MAML; call the learner, learner\(support\)"):
        bm.generate(bm.MAML(transformer(), LIKELIHOOD), SOURCE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"source: expected token ids.* got torch\.bool"):
        bm.generate(posterior, SOURCE > 3)


def never_ending() -> Transformer:
    body = transformer()
    with torch.no_grad():
        body.head.linear.bias[END] = -100
    return body
