"""A transformer's sequences: their probabilities add up to 1, padding changes nothing, and nothing sees what comes later."""

from __future__ import annotations

import pytest
import torch
from sequences_support import LIKELIHOOD, prefixes, short_texts, transformer
from torch import Tensor

import bayesmeta as bm
from bayesmeta.networks import BEGIN, END, PADDING, Transformer


def test_probabilities_of_all_short_texts_add_up_to_one() -> None:
    y = short_texts(6, 4)
    assert len(y) == sum(3**size for size in range(5))
    x = {"source": torch.tensor([[3, 5, 4]]).expand(len(y), -1), "prefix": prefixes(y)}
    support = bm.points(x, y, classes=6, event_dims=1, whole=True, dtype=torch.float64)
    for learner in (
        bm.MAML(transformer(), LIKELIHOOD, steps=2),
        bm.ANIL(transformer().features, transformer().head, LIKELIHOOD),
    ):
        log_prob = learner(support)(x).log_prob(y)
        torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, rtol=0)
        assert log_prob.exp().max() < 0.9


def test_padding_changes_nothing() -> None:
    y = torch.tensor([[3, 4, END, PADDING], [5, END, PADDING, PADDING], [4, 4, 3, END]])
    source = torch.tensor([[3, 4, PADDING], [5, PADDING, PADDING], [3, 3, 3]])
    body = transformer()
    logits = body({"source": source, "prefix": prefixes(y)})
    found = LIKELIHOOD(logits)
    each = found.base_dist.log_prob(y)
    assert (each[y == PADDING] == 0).all()  # exactly

    def filled(tokens: Tensor) -> Tensor:
        return torch.cat([tokens, torch.full((3, 5), PADDING)], 1)

    longer = LIKELIHOOD(body({"source": filled(source), "prefix": prefixes(filled(y))})).base_dist.log_prob(filled(y))
    assert (longer[:, 4:] == 0).all()
    torch.testing.assert_close(longer[:, :4], each, atol=1e-13, rtol=0)  # sums of other lengths round otherwise
    gradient = torch.autograd.grad(found.log_prob(y).sum(), list(body.parameters()))
    again = torch.autograd.grad(longer.sum(), list(body.parameters()))
    for one, other in zip(gradient, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_what_is_written_does_not_see_what_comes_later() -> None:
    body, source = transformer(), torch.tensor([[3, 4]])
    one, other = (
        body({"source": source, "prefix": torch.tensor([[BEGIN, 3, *rest]])}) for rest in ([4, 5, END], [5, 3, 3])
    )
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


def test_the_source_is_read_in_its_order() -> None:
    body, prefix = transformer(), torch.tensor([[BEGIN, 3]])
    one, other = (body({"source": torch.tensor([[*source]]), "prefix": prefix}) for source in ((3, 4), (4, 3)))
    assert not torch.allclose(one, other)


def test_nothing_to_read_is_finite() -> None:
    empty = {"source": torch.full((2, 3), PADDING), "prefix": torch.full((2, 3), PADDING)}
    assert transformer()(empty).isfinite().all()


@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_second_derivatives_are_right(strategy: str) -> None:
    y = torch.tensor([[3, END, PADDING], [4, 5, END]])
    x = {"source": torch.tensor([[3, 4, 5], [5, 5, PADDING]]), "prefix": prefixes(y)}
    given = bm.points(x, y, classes=6, event_dims=1, mask=y != PADDING, whole=True, dtype=torch.float64)
    learner = bm.MAML(transformer(layers=1), LIKELIHOOD, steps=2, rate=0.1)
    learner.strategy = strategy  # type: ignore[assignment]
    episode = bm.Episode(given, given)
    weight = learner.network.features.places
    slope = torch.autograd.grad(learner.loss(episode), weight)[0]
    for place in ((0, 0, 1), (0, 2, 3), (1, 1, 0)):
        with torch.no_grad():
            found = []
            for step in (1e-5, -2e-5):
                weight[place] += step
                found.append(learner.loss(episode))
            weight[place] += 1e-5
        torch.testing.assert_close(slope[place], (found[0] - found[1]) / 2e-5, atol=1e-8, rtol=1e-5)


def test_queries_may_be_longer_than_supports() -> None:
    x = {"source": torch.tensor([[3, 4]]), "prefix": torch.tensor([[BEGIN, 3]])}
    support = bm.points(x, torch.tensor([[3, END]]), classes=6, event_dims=1, whole=True)
    posterior = bm.MAML(Transformer(6, width=8, heads=2, layers=1, longest=12), LIKELIHOOD)(support)
    asked = {"source": torch.full((5, 7), 4), "prefix": torch.full((5, 9), 3)}
    assert posterior(asked).event_shape == (9,)
    assert posterior.functions(2)(asked).batch_shape == (2, 1, 5)
    with pytest.raises(
        ValueError, match=r"x\['source'\]: expected at most 12 tokens, of Transformer\(longest=12\), got 13"
    ):
        posterior({"source": torch.full((5, 13), 4), "prefix": torch.full((5, 9), 3)})


def test_bad_input_is_refused() -> None:
    body = Transformer(6, width=8, heads=2, layers=1)
    source = torch.tensor([[3, 4]])
    with pytest.raises(ValueError, match=r"x: expected token ids from 0 to 5, of Transformer\(6\), got others"):
        body({"source": source, "prefix": torch.tensor([[BEGIN, 6]])})
    support = bm.points({"source": source, "prefix": source + 5}, source, classes=6, event_dims=1, whole=True)
    with pytest.raises(ValueError, match="encode with the tokenizer that the network was built for"):
        bm.MAML(body, LIKELIHOOD)(support)
    with pytest.raises(ValueError, match=r"x\['source'\]: expected token ids, torch.long, got torch.float32"):
        body({"source": source.float(), "prefix": source})
    with pytest.raises(ValueError, match=r'x: expected \{"source"'):
        body({"source": source})
    with pytest.raises(ValueError, match=r'x: expected \{"source".*got Tensor'):
        body(source)
    with pytest.raises(ValueError, match="width: expected a multiple of the 3 heads, got 8"):
        Transformer(6, width=8, heads=3)
    with pytest.raises(ValueError, match="more tokens than the 3 without text"):
        Transformer(3)
    for number in (10.5, "10", None, True):
        with pytest.raises(ValueError, match="vocabulary, width, heads, layers and longest: expected whole numbers"):
            Transformer(number)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x\['source'\]: expected token ids, torch.long, got list"):
        body({"source": [[3, 4]], "prefix": source})
    with pytest.raises(ValueError, match=r"x\['prefix'\]: expected token ids, torch.long, got torch.bool"):
        body({"source": source, "prefix": source > 3})
    with pytest.raises(ValueError, match=r"x: expected a prefix for each source, got \(1, 2\) and \(3, 2\)"):
        body({"source": source, "prefix": source.expand(3, -1)})
