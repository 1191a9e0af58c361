"""What `text.py` compares with: predictors without meta-learning, with a temperature by tasks of the training classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.distributions import Categorical

import bayesmeta as bm
from benchmarks.accuracy.text_learners import Array, Given, tfidf, tfidf_pieces

FITTED = 60
"""Tasks of training classes on which baselines fit what they can."""


class Baseline:
    """What one would use without meta-learning: logits of each task by itself, of rows of a matrix of all texts.

    Logits are divided by a temperature, and a label for none of these has a constant one; both by the NLL on training classes.
    """

    def __init__(self, given: Given, features: Any) -> None:
        self.given, self.features = given, features
        self.temperature, self.none = torch.ones(()), torch.zeros(())
        rows = torch.arange(len(given.data.texts))[:, None]
        tasks = given.tasks(rows, batch=1, seed=77)
        episodes = [tasks[i] for i in range(FITTED)]
        logits = [self.logits(one.support, one.query.x) for one in episodes]
        found = torch.cat(logits, 1), torch.cat([one.query.y for one in episodes], 1)
        self._fit(*found)

    def _fit(self, logits: Tensor, y: Tensor) -> None:
        log_temperature, none = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature, none], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            self.temperature, self.none = log_temperature.exp(), none
            loss: Tensor = -self._labels(logits).log_prob(y).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        self.temperature, self.none = self.temperature.detach(), self.none.detach()

    def _labels(self, logits: Tensor) -> Categorical:
        logits = logits / self.temperature
        if self.given.outside:
            logits = torch.cat([logits, self.none.expand(*logits.shape[:-1], 1)], -1)
        return Categorical(logits=logits)

    def logits(self, support: bm.Points, x: Tensor) -> Tensor:
        """``(B, M, W)``."""
        found = [
            self.adapted(self.features[rows.numpy()], y.numpy(), self.features[asked.numpy()])
            for rows, y, asked in zip(support.x[..., 0], support.y, x[..., 0], strict=True)
        ]
        return torch.from_numpy(np.stack(found)).float()

    def adapted(self, known: Any, y: Any, asked: Any) -> Array:
        raise NotImplementedError

    def __call__(self, support: bm.Points) -> Callable[[Tensor], Categorical]:
        return lambda x: self._labels(self.logits(support, x))


class Logistic(Baseline):
    """scikit-learn's logistic regression with its own settings."""

    def adapted(self, known: Any, y: Any, asked: Any) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = LogisticRegression(max_iter=1000).fit(known, y)
        scores: Array = fitted.decision_function(asked)
        return np.stack([-scores / 2, scores / 2], -1) if scores.ndim == 1 else scores


class LogisticAsItIs(Logistic):
    """The same without a temperature, as one finds it."""

    def _fit(self, logits: Tensor, y: Tensor) -> None:
        """As scikit-learn gives it."""


class Centroid(Baseline):
    """The class whose mean has the largest cosine with the text."""

    def adapted(self, known: Any, y: Any, asked: Any) -> Array:
        classes = [np.asarray(known[y == label].mean(0)).ravel() for label in np.unique(y)]
        means = np.stack([mean / np.linalg.norm(mean) for mean in classes])
        return np.asarray(asked @ means.T) * 10.0


def embedded(given: Given) -> Any:
    assert given.data.embeddings is not None
    return given.data.embeddings.numpy()


class Way(NamedTuple):
    """How a baseline is made."""

    make: type[Baseline]
    features: Callable[[Given], Any]
    inputs: str = "embeddings"
    none: bool = True


BASELINES = {
    "logistic regression": Way(LogisticAsItIs, embedded, none=False),
    "logistic regression, fitted temperature": Way(Logistic, embedded),
    "nearest centroid, fitted temperature": Way(Centroid, embedded),
    "texts alone: TF-IDF, nearest centroid": Way(Centroid, tfidf, "words"),
    "texts alone: TF-IDF of pieces of words, nearest centroid": Way(Centroid, tfidf_pieces, "words"),
    "texts alone: TF-IDF, logistic regression": Way(Logistic, tfidf, "words"),
}


def baseline(name: str, given: Given, seed: int) -> tuple[Baseline, Tensor]:
    """A baseline with what it could fit on a split's training classes, and the rows of texts, which it takes for inputs."""
    way = BASELINES[name]
    return way.make(given, way.features(given)), torch.arange(len(given.data.texts))[:, None]
