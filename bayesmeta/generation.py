"""Texts written token by token by functions of a posterior, with the doubt about each token.

A sequence y has p(y | x) = Σ_s Π_t p_s(y_t | x, y_<t) / S under S functions. So after a prefix each function counts by how likely
it made the prefix, w_s ∝ Π p_s(y_<t), and the next token has p(y_t) = Σ_s w_s p_s(y_t): the tokens' log-probabilities add up to
the sequence's, exactly. Doubt is split as by Malinin & Gales 2021, "Uncertainty Estimation in Autoregressive Structured
Prediction", https://arxiv.org/abs/2002.07650, section 3: total is the entropy of p(y_t), and epistemic the mutual information of
y_t and s. Beams are those of Sutskever, Vinyals & Le 2014, https://arxiv.org/abs/1409.3215, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.border import as_tensor, check_count
from bayesmeta.distributions import has_labels, marginals, uncertainty
from bayesmeta.networks.transformer import BEGIN, END, PADDING
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import generator

__all__ = ["Generated", "generate"]

Method: TypeAlias = Literal["greedy", "beam", "samples"]


class Generated(NamedTuple):
    """Texts for M sources of B tasks, K each, the most probable first (of `samples` in the order in which they were drawn)."""

    tokens: Tensor
    """Ids ``(B, M, K, T)``, up to `END`, and `PADDING` after it."""
    log_prob: Tensor
    """Of each text under the posterior, ``(B, M, K)``; without an end it is that of all texts that begin so."""
    total: Tensor
    """The entropy of each token before it was chosen, in nats, ``(B, M, K, T)``; 0 after the end. Its sum is the text's."""
    epistemic: Tensor
    """How much of it is disagreement of the functions, ``(B, M, K, T)``; its sum is the text's."""


def generate(
    posterior: Posterior,
    source: Any,
    *,
    method: Method = "greedy",
    count: int = 1,
    samples: int = 1,
    longest: int = 64,
) -> Generated:
    """Writes a text for each source, token by token.

    Args:
        posterior: of a learner of a network with x ``{"source": ..., "prefix": (N, T)}``, such as
            `bayesmeta.networks.Transformer`, and of ``Categorical(event_dims=1)``.
        source: token ids ``(B, M, L)``, for a single task ``(M, L)``; `Tokens.encode` makes them.
        method: ``"greedy"`` takes the most probable token each time, ``"beam"`` keeps the `count` most probable beginnings, and
            ``"samples"`` draws texts, by torch's global generator.
        count: K, how many texts each source is given; 1 for greedy.
        samples: S, the number of the posterior's functions; of one that has no doubt, as MAML's, 1.
        longest: T at most, the end included; the network may take fewer.

    Raises:
        ValueError: an argument is out of range, the posterior's answers are no sequences of tokens, or a text has not ended
            when it is as long as the network takes.

    Example:
        >>> learner = MAML(Transformer(20, width=8, heads=2, layers=1), Categorical(event_dims=1))
        >>> x = {"source": torch.tensor([[4, 5]]), "prefix": torch.tensor([[1, 6, 7]])}
        >>> support = points(x, torch.tensor([[6, 7, 2]]), classes=20, event_dims=1, whole=True)
        >>> written = generate(learner(support), torch.tensor([[4, 5, 6], [5, 4, 0]]), method="beam", count=3, longest=5)
        >>> written.tokens.shape[:3], written.log_prob.shape
        (torch.Size([1, 2, 3]), torch.Size([1, 2, 3]))
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected greedy, beam or samples, got {method!r}; write it so")
    for name, value in (("count", count), ("samples", samples), ("longest", longest)):
        check_count(name, value)
    if method == "greedy" and count != 1:
        raise ValueError(f"count: expected 1 of greedy, which finds one text, got {count}; take a beam or samples")
    with torch.no_grad():
        state = _begun(_sources(posterior, source), posterior.functions(samples), count, samples)
        if method == "beam":
            state.each[..., 1:] = -1e6  # all begin alike: one of them will do
        for _ in range(longest):
            if state.ended():
                break
            state.write(_drawn if method == "samples" else _best)
    return state.generated()


def _sources(posterior: Posterior, source: Any) -> Tensor:
    """Sources as ``(B, M, L)``."""
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"posterior: expected what a learner says after a support, got {type(posterior).__name__}; call the learner, "
            "learner(support)"
        )
    known = posterior.support.x
    if not isinstance(known, dict) or set(known) != {"source", "prefix"}:
        raise ValueError(
            'posterior: expected one of a support whose x is {"source": ..., "prefix": ...}, got another, which answers with '
            "no sequences; build its support by translation_points"
        )
    given = as_tensor(source, "source")
    tasks = len(posterior.support.mask)
    given = given[None] if given.dim() == 2 else given
    words = not given.is_floating_point() and given.dtype != torch.bool
    if given.dim() != 3 or len(given) != tasks or not words or not given.shape[1]:
        raise ValueError(
            f"source: expected token ids (B, M, L) of the posterior's {tasks} tasks, got {given.dtype} {tuple(given.shape)}; "
            "encode texts by the tokenizer, Tokens.encode"
        )
    return given.to(posterior.support.mask.device)


class _State:
    """Beginnings of texts, K of each of R = B M sources.

    Args:
        ask: from prefixes ``(R K, T)`` to each function's log-probabilities of the next token, ``(S, R K, V)``.
        size: B, M and K.
        samples: S.
        device: of all.
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], size: tuple[int, int, int], samples: int, device: Any) -> None:
        self.ask, self.size = ask, size
        self.rows, self.count = size[0] * size[1], size[2]
        self.tokens = torch.full((self.rows, self.count, 1), BEGIN, device=device)
        self.each = torch.zeros(samples, self.rows, self.count, device=device)  # log p_s of what is written
        self.doubt = torch.zeros(2, self.rows, self.count, 0, device=device)

    def ended(self) -> bool:
        return bool(((self.tokens[..., -1] == END) | (self.tokens[..., -1] == PADDING)).all())

    def write(self, choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Adds a token to each."""
        functions = self.ask(self.tokens.flatten(0, 1)).unflatten(1, (self.rows, self.count))  # (S, R, K, V)
        weights = self.each.to(functions).log_softmax(0)
        following = (weights[..., None] + functions).logsumexp(0)
        total = uncertainty(torch.distributions.Categorical(logits=following, validate_args=False))
        known = (
            weights.exp() * uncertainty(torch.distributions.Categorical(logits=functions, validate_args=False))
        ).sum(0)
        doubt = torch.stack([total, (total - known).clamp(min=0)])[..., None]
        came, token = choose(self.log_prob, following)  # from which beginning, and what follows, each (R, K)

        def pick(held: Tensor) -> Tensor:  # (..., R, K, T)
            place = came[..., None].expand(*held.shape[:-3], *came.shape, held.shape[-1])
            return held.gather(-2, place)

        self.tokens = torch.cat([pick(self.tokens), token[..., None]], -1)
        self.doubt = pick(torch.cat([self.doubt, doubt], -1))
        gained = pick(functions).gather(-1, token[..., None].expand(len(functions), *token.shape, 1))
        self.each = (pick(self.each[..., None]) + gained).squeeze(-1)

    @property
    def log_prob(self) -> Tensor:
        """Of what is written, ``(R, K)``."""
        return self.each.logsumexp(0) - torch.tensor(float(len(self.each))).log().to(self.each)

    def generated(self) -> Generated:
        batch, sources, _ = self.size
        parts = (self.tokens[..., 1:], self.log_prob, *self.doubt)
        return Generated(*(part.unflatten(0, (batch, sources)) for part in parts))


def _begun(source: Tensor, functions: Callable[[Any], Distribution], count: int, samples: int) -> _State:
    repeated = source.repeat_interleave(count, 1)

    def ask(prefix: Tensor) -> Tensor:
        x = {"source": repeated, "prefix": prefix.reshape(*repeated.shape[:2], -1)}
        said = functions(x)
        if not has_labels(said) or said.event_shape != prefix.shape[-1:]:
            raise ValueError(
                f"posterior: expected answers that are a next token for each of a prefix's, got {said}; use "
                "Categorical(event_dims=1) and a network such as Transformer"
            )
        logits: Tensor = marginals(said).logits[..., -1, :]  # type: ignore[attr-defined]  # (S, B, M K, V)
        return logits.log_softmax(-1).flatten(1, 2)

    return _State(ask, (*source.shape[:2], count), samples, source.device)


def _best(log_prob: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """The K most probable of all beginnings and next tokens."""
    joint = log_prob[..., None] + following
    best = joint.flatten(1).topk(following.shape[1], 1).indices
    return best // following.shape[-1], best % following.shape[-1]


def _drawn(log_prob: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """A next token for each beginning, by its probability."""
    rows, count, _ = following.shape
    token = torch.multinomial(following.flatten(0, 1).exp(), 1, generator=generator(following.device))
    return torch.arange(count, device=following.device).expand(rows, count), token.reshape(rows, count)
