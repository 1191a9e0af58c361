"""The learners of `text.py`: each is made for one split of the classes, and takes inputs of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from gpytorch.kernels import LinearKernel, RBFKernel, ScaleKernel
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.tasks import ClassTasks
from bayesmeta.tasks.text import LabelledTexts

Array = NDArray[np.floating]


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


class Weighed(nn.Module):
    """Rows of TF-IDF to features: the row, each entry times a weight that is learned, and a learned map of it beside it."""

    def __init__(self, size: int, width: int, share: float) -> None:
        super().__init__()
        self.log_weight, self.log_share = nn.Parameter(torch.zeros(size)), nn.Parameter(share * torch.ones(()))
        self.map = nn.Parameter(torch.randn(width, size) / width**0.5)

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        """The map at the first singular vectors of rows."""
        self.map.copy_(torch.svd_lowrank(rows, len(self.map))[2].T)

    def forward(self, x: Tensor) -> Tensor:
        own = F.normalize(x * self.log_weight.exp(), dim=-1)
        return torch.cat([own, self.log_share.exp() * F.normalize(own @ self.map.T, dim=-1)], -1)


def counts(given: Given, size: int, width: float = 128, share: float = -2.0) -> bm.Learner:
    return bm.PrototypicalNetwork(Weighed(size, int(width), share), given.ways, scaled=True, cosine=True)


QUICK = {"steps": 200, "rate": 0.02, "batch": 8}
WIDE = {"steps": 600, "rate": 3e-3, "batch": 2, "ways": 20}
LEARNERS = {
    "class Gaussians": Kind(gaussians, QUICK),
    "class Gaussians, learned map": Kind(mapped, {"steps": 200, "rate": 3e-4, "own": 0.02, "batch": 8}),
    "prototypes": Kind(prototypes, QUICK, none=False),
    "DKT, linear kernel": Kind(dkt_linear, QUICK),
    "DKT, RBF kernel": Kind(dkt_rbf, QUICK),
    "Laplace GP, linear kernel": Kind(laplace, {**QUICK, "steps": 100, "batch": 4}),
    "MAML, a linear layer": Kind(maml, {**QUICK, "rate": 3e-3}),
    "ANIL": Kind(anil, {"steps": 400, "rate": 3e-3, "batch": 8}),
    "texts alone: prototypes": Kind(words, WIDE, "tokens", none=False),
    "texts alone: prototypes on TF-IDF": Kind(
        counts, {"steps": 100, "rate": 1e-2, "own": 0.03, "batch": 2, "ways": 20}, "counts", none=False
    ),
    "texts alone: MAML": Kind(words_maml, {"steps": 600, "rate": 3e-3, "batch": 8}, "tokens"),
}


@cache
def tokens(texts: tuple[str, ...]) -> bm.tasks.Tokens:
    return bm.tasks.Tokens.learned(texts, size=2000)


def tfidf(given: Given) -> Array:
    """Words weighed by how few texts of the training classes have them, no text's labels known; rows have norm 1."""
    counts = counted(tuple(given.data.texts))
    known = np.isin(given.data.labels, given.train)
    found: Array = TfidfTransformer(sublinear_tf=True).fit(counts[known]).transform(counts).astype(np.float32).toarray()
    return found


@cache
def counted(texts: tuple[str, ...]) -> csr_matrix:
    return CountVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts).astype(np.float64)


def tfidf_pieces(given: Given) -> Array:
    """Two to four letters in a row, the 5,000 that are the most frequent in the training classes' texts; rows have norm 1."""
    counting = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), max_features=5000, sublinear_tf=True, dtype=np.float32
    )
    found: Array = counting.fit(given.known()).transform(given.data.texts).toarray()
    return found


def trained(name: str, given: Given, seed: int, **changed: float) -> tuple[bm.Learner, Tensor]:
    """A learner trained on a split's training classes, and all texts as it takes them."""
    kind = LEARNERS[name]
    settings = {**kind.settings, **changed}
    training = {key: settings.pop(key) for key in ("steps", "rate", "own", "batch", "ways") if key in settings}
    x, size = given.data.embeddings, 0
    if kind.inputs == "tokens":
        known = tokens(tuple(given.known()))
        x, size = known.encode(given.data.texts), known.size
    if kind.inputs == "counts":
        x = torch.from_numpy(np.concatenate([tfidf(given), tfidf_pieces(given)], 1)).div_(2**0.5)
        size = x.shape[1]
    assert x is not None
    torch.manual_seed(seed)
    ways = min(int(training.get("ways", given.ways)), len(given.train) - bool(given.outside))
    learner: Any = kind.make(given._replace(ways=ways), size, **settings)
    if kind.inputs == "counts":
        learner.features.begin(x[torch.from_numpy(np.isin(given.data.labels, given.train))])
    body = [part for part_name, part in learner.named_parameters() if part_name.startswith("features.")]
    own = [part for part_name, part in learner.named_parameters() if not part_name.startswith("features.")]
    groups = [{"params": body, "lr": training["rate"]}, {"params": own, "lr": training.get("own", training["rate"])}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
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
