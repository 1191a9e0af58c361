"""The learners and baselines of `text.py`: each is made for one split of the classes, and takes inputs of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from gpytorch.kernels import LinearKernel, RBFKernel, ScaleKernel
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.distributions import Categorical

import bayesmeta as bm
from bayesmeta.tasks import ClassTasks
from bayesmeta.tasks.text import LabelledTexts

Array = NDArray[np.float64]
FITTED = 60
"""Tasks of training classes on which baselines fit what they can."""


class Given(NamedTuple):
    """What a learner may see: all texts, of which those of the training classes have labels."""

    data: LabelledTexts
    train: list[str]
    ways: int
    shots: int
    queries: int
    outside: int

    @property
    def labels(self) -> int:
        """Of a task, that for none of these among them."""
        return self.ways + bool(self.outside)

    def tasks(self, x: Any, **changed: Any) -> ClassTasks:
        shape: dict[str, Any] = {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "outside": self.outside,
        }
        return ClassTasks(x, self.data.labels, subset=self.train, whole=True, **{**shape, **changed})

    def known(self) -> list[str]:
        """Texts of the training classes."""
        return [text for text, label in zip(self.data.texts, self.data.labels, strict=True) if label in self.train]


class Kind(NamedTuple):
    """How a learner is made of what it may see and the vocabulary's size, and its settings."""

    make: Callable[..., bm.Learner]
    settings: dict[str, Any]
    inputs: str = "embeddings"
    none: bool = True
    """Whether it has a label for none of these."""


def categorical() -> bm.likelihoods.Likelihood:
    return bm.likelihoods.Categorical()


def prototypes(given: Given, size: int) -> bm.Learner:
    return bm.PrototypicalNetwork(nn.Identity(), given.ways, scaled=True)


def gaussians(given: Given, size: int) -> bm.Learner:
    return bm.GeMCL(nn.Identity(), 384, given.labels, isotropic=True)


def mapped(given: Given, size: int) -> bm.Learner:
    linear = nn.Linear(384, 384, bias=False)
    nn.init.eye_(linear.weight)
    return bm.GeMCL(linear, 384, given.labels, isotropic=True)


def dkt_linear(given: Given, size: int) -> bm.Learner:
    return bm.DKTClassifier(nn.Identity(), ScaleKernel(LinearKernel()), classes=given.labels)


def dkt_rbf(given: Given, size: int) -> bm.Learner:
    return bm.DKTClassifier(nn.Identity(), ScaleKernel(RBFKernel()), classes=given.labels)


def laplace(given: Given, size: int) -> bm.Learner:
    return bm.LaplaceGP(nn.Identity(), ScaleKernel(LinearKernel()), classes=given.labels)


def maml(given: Given, size: int, inner: float = 5.0, adapting: float = 5) -> bm.Learner:
    return bm.MAML(zero(nn.Linear(384, given.labels)), categorical(), steps=int(adapting), rate=inner)


def anil(given: Given, size: int, inner: float = 0.5, adapting: float = 5, width: float = 128) -> bm.Learner:
    body = nn.Sequential(nn.Linear(384, int(width)), nn.Tanh())
    head = zero(nn.Linear(int(width), given.labels))
    return bm.ANIL(body, head, categorical(), steps=int(adapting), rate=inner)


def zero(head: nn.Linear) -> nn.Linear:
    for part in head.parameters():
        nn.init.zeros_(part)
    return head


def words(given: Given, size: int, width: float = 256, layers: float = 0) -> bm.Learner:
    return bm.PrototypicalNetwork(
        bm.networks.TextEncoder(size, width=int(width), layers=int(layers)).features, given.ways, scaled=True
    )


def words_maml(
    given: Given, size: int, width: float = 64, layers: float = 0, inner: float = 0.1, adapting: float = 5
) -> bm.Learner:
    network = bm.networks.TextEncoder(size, given.labels, width=int(width), layers=int(layers))
    zero(network.head)
    return bm.MAML(network, categorical(), steps=int(adapting), rate=inner)


QUICK = {"steps": 200, "rate": 0.02, "batch": 8}
WIDE = {"steps": 600, "rate": 3e-3, "batch": 2, "ways": 20}
LEARNERS = {
    "class Gaussians": Kind(gaussians, QUICK),
    "class Gaussians, learned map": Kind(mapped, {"steps": 200, "rate": 2e-4, "batch": 8}),
    "prototypes": Kind(prototypes, QUICK, none=False),
    "DKT, linear kernel": Kind(dkt_linear, QUICK),
    "DKT, RBF kernel": Kind(dkt_rbf, QUICK),
    "Laplace GP, linear kernel": Kind(laplace, {**QUICK, "steps": 100, "batch": 4}),
    "MAML, a linear layer": Kind(maml, {**QUICK, "rate": 3e-3}),
    "ANIL": Kind(anil, {"steps": 400, "rate": 3e-3, "batch": 8}),
    "texts alone: prototypes": Kind(words, WIDE, "tokens", none=False),
    "texts alone: MAML": Kind(words_maml, {"steps": 600, "rate": 3e-3, "batch": 8}, "tokens"),
}


@cache
def tokens(texts: tuple[str, ...]) -> bm.tasks.Tokens:
    return bm.tasks.Tokens.learned(texts, size=2000)


def trained(name: str, given: Given, seed: int, **changed: float) -> tuple[bm.Learner, Tensor]:
    """A learner trained on a split's training classes, and all texts as it takes them."""
    kind = LEARNERS[name]
    settings = {**kind.settings, **changed}
    training = {key: settings.pop(key) for key in ("steps", "rate", "batch", "ways") if key in settings}
    x, size = given.data.embeddings, 0
    if kind.inputs == "tokens":
        known = tokens(tuple(given.known()))
        x, size = known.encode(given.data.texts), known.size
    assert x is not None
    torch.manual_seed(seed)
    ways = min(int(training.get("ways", given.ways)), len(given.train) - bool(given.outside))
    learner: Any = kind.make(given._replace(ways=ways), size, **settings)
    optimizer = torch.optim.Adam(learner.parameters(), lr=training["rate"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(training["steps"]))
    outside = given.outside * ways // given.ways  # one in as many
    tasks = given.tasks(x, ways=ways, outside=outside, batch=int(training["batch"]), seed=seed)
    bm.fit(
        learner,
        tasks,
        steps=int(training["steps"]),
        optimizer=optimizer,
        scheduler=scheduler,
        seed=seed,
        progress=False,
    )
    if ways != given.ways:
        learner.classes = given.labels
    return learner, x


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


@cache
def counted(texts: tuple[str, ...]) -> csr_matrix:
    return CountVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts).astype(np.float64)


def tfidf(given: Given) -> Any:
    """Words weighed by how few texts of the training classes have them; rows have norm 1."""
    counts = counted(tuple(given.data.texts))
    known = np.isin(given.data.labels, given.train)
    return TfidfTransformer(sublinear_tf=True).fit(counts[known]).transform(counts).toarray().astype(np.float32)


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
    "texts alone: TF-IDF, logistic regression": Way(Logistic, tfidf, "words"),
}


def baseline(name: str, given: Given, seed: int) -> tuple[Baseline, Tensor]:
    """A baseline with what it could fit on a split's training classes, and the rows of texts, which it takes for inputs."""
    way = BASELINES[name]
    return way.make(given, way.features(given)), torch.arange(len(given.data.texts))[:, None]
