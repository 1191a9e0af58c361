"""The task-encoder backbone: what a support says about its task, as a vector; shared by learners that need one.

An encoder takes `Points` of B tasks. It is invariant to their order and to padding, and defined for an empty support: a
learned pseudo-point, the prior, stands among the points. With a second argument x it says what the task says about
each query point: for attention that depends on x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.data import Points, check_count
from bayesmeta.distributions import apart
from bayesmeta.functional import Mapped, map_tasks
from bayesmeta.networks import MLP, check_network

__all__ = [
    "Attention",
    "ClassPooling",
    "DeepSet",
    "Encoder",
    "HeadDecoder",
    "Pooling",
    "Relation",
    "TaskNetwork",
    "check_encoder",
]


class Encoder(Mapped, ABC):
    """`Points` of B tasks to encodings ``(B, R)``, or ``(B, M, R)`` at queries x.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes W where y holds labels.
        size: R.
        features: any network from x ``(N, *X)`` to features ``(N, inputs)``, such as ``Conv4().features``.

    Raises:
        ValueError: at a call, where x or y has another size than `inputs` or `targets` say.
    """

    classwise = False
    """Whether it encodes each class by itself, ``(B, W, R)``."""

    def __init__(self, inputs: int, targets: int, size: int, features: nn.Module | None) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("targets", targets), ("size", size)):
            check_count(name, value)
        self.features = nn.Identity() if features is None else features
        check_network(self.features, "features")
        self.inputs = inputs
        self.targets = targets
        self.size = size

    def __call__(self, points: Points | Tensor, x: Any = None) -> Tensor:
        if isinstance(points, Points) and points.mask.dim() > 2:
            raise ValueError(
                f"mask: expected a mask of points (B, N), as {type(self).__name__} encodes targets as a whole, got one "
                f"of their entries, {tuple(points.mask.shape)}; leave out points that are seen in part"
            )
        encoding: Tensor = super().__call__(points, x)
        return encoding

    def forward(self, points: Points | Tensor, x: Any = None) -> Tensor:
        return self.encode(points) if x is None else self.tell(points, self.embed(x))

    def knows(self, points: Points) -> Points | Tensor:
        """What it needs of points in their place: sums over them where it has such (see `Pooling`), else the points."""
        return points

    @abstractmethod
    def encode(self, points: Any) -> Tensor:
        """The encoding of each task, ``(B, R)``."""

    def tell(self, points: Any, embedded: Tensor) -> Tensor:
        """What the points say about each query, ``(B, M, R)``, from the queries' features ``(B, M, inputs)``."""
        encoding = self.encode(points)
        return encoding[:, None].expand(-1, embedded.shape[1], *encoding.shape[1:])

    def embed(self, x: Any) -> Tensor:
        """The features of x ``(B, N, *X)``: ``(B, N, inputs)``."""
        embedded: Tensor = x
        if not isinstance(self.features, nn.Identity):
            embedded = map_tasks(self.features, x, network=self, strategy=self.strategy)
        if embedded.dim() != 3 or embedded.shape[-1] != self.inputs:
            remedy = f"build the encoder with inputs={embedded.shape[-1]}, or with other features"
            if embedded.dim() != 3:
                remedy = "give the encoder features=, a network that ends in one row a point, such as Conv4().features"
            raise ValueError(
                f"x: expected {self.inputs} features a point ({type(self).__name__}(inputs={self.inputs})), got shape "
                f"{tuple(embedded.shape)}; {remedy}"
            )
        return embedded

    def pairs(self, points: Points) -> Tensor:
        """Features and targets of each point, ``(B, N, inputs + targets)``; labels as one-hot vectors."""
        return torch.cat([self.embed(points.x), self._targets(points)], -1)

    def _targets(self, points: Points) -> Tensor:
        y = points.y
        if not y.is_floating_point():
            return self.one_hot(points)
        if y.dim() != 3 or y.shape[-1] != self.targets:
            raise ValueError(
                f"y: expected {self.targets} targets a point ({type(self).__name__}(targets={self.targets})), got shape "
                f"{tuple(y.shape)}; build the encoder with as many targets as y has"
            )
        return y

    def one_hot(self, points: Points) -> Tensor:
        """Labels as vectors ``(B, N, W)``, zero where nothing is observed."""
        y, name = points.y, type(self).__name__
        if y.is_floating_point():
            raise ValueError(
                f"y: expected labels 0 to {self.targets - 1}, got {y.dtype}; build the points with "
                f"points(x, y, classes={self.targets})"
            )
        wrong = y[(y < 0) | (y >= self.targets)]
        if len(wrong):
            raise ValueError(
                f"y: expected labels 0 to {self.targets - 1}, got {int(wrong[0])}; number each task's classes from 0, or build "
                f"{name} for as many classes as there are"
            )
        parameter = next(self.parameters())
        return F.one_hot(y, self.targets).to(parameter) * points.mask[..., None]


class Pooling(Encoder, ABC):
    """An encoder that knows of points no more than sums over them, to which those of further points can be added.

    In the place of points it takes the sums of `knows`: ``(B, R + 1)``, or ``(B, W, R + 1)`` by class, of vectors and of ones.
    """

    prior: Tensor

    @abstractmethod
    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        """The sum of the points' vectors, ``(B, R)`` or ``(B, W, R)``, and their number, ``(B, 1)`` or ``(B, W, 1)``."""

    def knows(self, points: Points) -> Tensor:
        total, count = self.add_up(points)
        return torch.cat([total, count.to(total)], -1)

    def encode(self, points: Points | Tensor) -> Tensor:
        if isinstance(points, Points):
            return self._mean(*self.add_up(points))
        return self._mean(*points.to(self.prior).split([self.size, 1], -1))

    def _mean(self, total: Tensor, count: Tensor) -> Tensor:
        """Over the points and the pseudo-point."""
        return (total + self.prior) / (count + 1)


def check_encoder(encoder: Encoder, *, classwise: bool) -> None:
    """Raises an error if something is no encoder, or one that encodes classes where that is of no use."""
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder: expected an encoder such as DeepSet(1, 1), got {type(encoder).__name__}")
    if encoder.classwise and not classwise:
        raise ValueError(
            f"encoder: expected one vector a task, got {type(encoder).__name__}, which encodes each class by itself; "
            "pass DeepSet or Attention"
        )


@final
class DeepSet(Pooling):
    """ρ((Σ_n φ(x_n, y_n) + prior) / (N + 1)): a mean over the points and a learned pseudo-point.

    Zaheer et al. 2017, "Deep Sets", theorem 2, https://arxiv.org/abs/1703.06114. The pseudo-point lets the mean tell few points
    from many.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes where y holds labels.
        size: R.
        hidden: widths of the hidden layers of φ; ρ has one of size R.
        features: see `Encoder`.

    Example:
        >>> DeepSet(1, 1)(points([0.0, 1.0], [0.0, 1.0])).shape
        torch.Size([1, 64])
    """

    def __init__(
        self,
        inputs: int,
        targets: int,
        size: int = 64,
        *,
        hidden: Sequence[int] = (64, 64),
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, targets, size, features)
        self.point = MLP(inputs + targets, size, hidden=hidden)
        self.prior = nn.Parameter(0.1 * torch.randn(size))
        self.task = MLP(size, size, hidden=(size,))

    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        mask = points.mask[..., None]
        return (self.point(self.pairs(points)) * mask).sum(1), mask.sum(1)

    def encode(self, points: Points | Tensor) -> Tensor:
        encoding: Tensor = self.task(super().encode(points))
        return encoding


@final
class Attention(Encoder):
    """A transformer over the points; queries attend to the points of every layer, and not to each other.

    The set encoder of Kim et al. 2019, "Attentive Neural Processes", https://arxiv.org/abs/1901.05761, in the form of Nguyen &
    Grover 2022 (TNP-D), "Transformer Neural Processes", https://arxiv.org/abs/2207.04179. A learned token, the prior, stands
    among the points, and is the encoding of the task.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes where y holds labels.
        size: R, a multiple of `heads`.
        layers: of self-attention.
        heads: of each layer.
        features: see `Encoder`.

    Example:
        >>> encoder, support = Attention(1, 1), points([0.0, 1.0], [0.0, 1.0])
        >>> encoder(support).shape, encoder(support, torch.zeros(1, 5, 1)).shape
        (torch.Size([1, 64]), torch.Size([1, 5, 64]))
    """

    def __init__(
        self,
        inputs: int,
        targets: int,
        size: int = 64,
        *,
        layers: int = 2,
        heads: int = 4,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, targets, size, features)
        check_count("layers", layers)
        check_count("heads", heads)
        if size % heads:
            raise ValueError(
                f"size: expected a multiple of the {heads} heads, got {size}; e.g. {heads * (size // heads + 1)}"
            )
        self.prior = nn.Parameter(0.1 * torch.randn(size))
        self.point = MLP(inputs + targets, size, hidden=(size,))
        self.query = MLP(inputs, size, hidden=(size,))
        self.layers = nn.ModuleList(_Layer(size, heads) for _ in range(layers))

    def encode(self, points: Points) -> Tensor:
        tokens, mask = self._tokens(points)
        for layer in self.layers:
            tokens = layer(tokens, tokens, mask)
        return tokens[:, 0]

    def tell(self, points: Points, embedded: Tensor) -> Tensor:
        tokens, mask = self._tokens(points)
        queries: Tensor = self.query(embedded)
        for layer in self.layers:
            queries, tokens = layer(queries, tokens, mask), layer(tokens, tokens, mask)
        return queries

    def _tokens(self, points: Points) -> tuple[Tensor, Tensor]:
        """The prior and the points as tokens ``(B, 1 + N, R)``, and which of them are there."""
        prior = self.prior.expand(len(points.mask), 1, -1)
        there = torch.ones_like(points.mask[:, :1])
        return torch.cat([prior, self.point(self.pairs(points))], 1), torch.cat([there, points.mask], 1)


class _Layer(nn.Module):
    """A pre-norm transformer layer in which x attends to the tokens."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key_value = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)
        self.mlp = MLP(size, size, hidden=(2 * size,))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        query = self.query(self.before_attention(x))
        key, value = self.key_value(self.before_attention(tokens)).chunk(2, -1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x))


@final
class ClassPooling(Pooling):
    """The encoding of each class ``(B, W, R)``: a mean over the features of its points and a learned pseudo-point.

    It does not depend on how classes are numbered beyond the order of its rows.

    Args:
        inputs: the number of features of x, after `features` if given.
        classes: W.
        size: R.
        hidden: widths of the hidden layers that map features to R.
        features: see `Encoder`.

    Example:
        >>> ClassPooling(2, classes=3)(points(torch.rand(4, 2), [0, 1, 2, 0], classes=3)).shape
        torch.Size([1, 3, 64])
    """

    classwise = True

    def __init__(
        self,
        inputs: int,
        classes: int,
        size: int = 64,
        *,
        hidden: Sequence[int] = (64,),
        features: nn.Module | None = None,
    ) -> None:
        super().__init__(inputs, classes, size, features)
        self.point = MLP(inputs, size, hidden=hidden)
        self.prior = nn.Parameter(0.1 * torch.randn(size))

    def add_up(self, points: Points) -> tuple[Tensor, Tensor]:
        member = self.one_hot(points)  # (B, N, W)
        return member.mT @ self.point(self.embed(points.x)), member.sum(1)[..., None]


@final
class Relation(Encoder):
    """Pairs of points, each compared by a relation network, and their mean: the encoder of LEO.

    Rusu et al. 2019, eq. 2, https://arxiv.org/abs/1807.05960. With ``classes=True`` the encoding is ``(B, W, R)``: for each class
    the mean over pairs of a point of the class and any point. Else it is ``(B, R)``: the mean over all pairs of points, with
    their targets. The prior enters as one more pair.

    Args:
        inputs: the number of features of x, after `features` if given.
        targets: the number of targets, or of classes W where y holds labels.
        size: R.
        classes: whether to encode each class by itself.
        features: see `Encoder`.

    Example:
        >>> Relation(2, 3, classes=True)(points(torch.rand(4, 2), [0, 1, 2, 0], classes=3)).shape
        torch.Size([1, 3, 64])
    """

    def __init__(
        self, inputs: int, targets: int, size: int = 64, *, classes: bool = False, features: nn.Module | None = None
    ) -> None:
        super().__init__(inputs, targets, size, features)
        self.classwise = classes
        self.point = nn.Linear(inputs if classes else inputs + targets, size)
        self.relation = MLP(2 * size, size, hidden=(2 * size, 2 * size))
        self.prior = nn.Parameter(0.1 * torch.randn(size))

    def encode(self, points: Points) -> Tensor:
        code = self.point(self.embed(points.x) if self.classwise else self.pairs(points))  # (B, N, R)
        count = code.shape[1]
        first, second = code[:, :, None].expand(-1, -1, count, -1), code[:, None].expand(-1, count, -1, -1)
        there = points.mask[:, None, :, None]
        related = (self.relation(torch.cat([first, second], -1)) * there).sum(2) / there.sum(2).clamp(
            min=1
        )  # (B, N, R)
        member = self.one_hot(points) if self.classwise else points.mask[..., None].to(code)  # (B, N, W or 1)
        encoding = (member.mT @ related + self.prior) / (member.sum(1)[..., None] + 1)
        return encoding if self.classwise else encoding[:, 0]


@final
class HeadDecoder(nn.Module):
    """From a task's encoding to a Gaussian over the weights of its linear head: mean and scale, ``(..., *O, inputs + 1)``.

    The last weight of each output is its bias. From a classwise encoding ``(..., W, R)`` each class's row is decoded by itself.

    Args:
        encoder: whose encodings it reads; the head's features are the encoder's.
        outputs: the number of the head's outputs, *O.
        size: of the encodings, where it is not the encoder's.
        hidden: widths of hidden layers.

    Raises:
        ValueError: the encoder is classwise and has not as many classes as outputs.
    """

    def __init__(self, encoder: Encoder, outputs: int, *, size: int | None = None, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        if encoder.classwise and encoder.targets != outputs:
            raise ValueError(
                f"outputs: expected {encoder.targets}, as many as the encoder has classes, got {outputs}; "
                "build the encoder and the learner with the same W"
            )
        check_count("outputs", outputs)
        self.classwise = encoder.classwise
        self.shape = (outputs, encoder.inputs + 1)
        rows = 1 if encoder.classwise else outputs
        self.weights = MLP(size or encoder.size, 2 * rows * (encoder.inputs + 1), hidden=hidden)

    def forward(self, encoding: Tensor) -> tuple[Tensor, Tensor]:
        leading = encoding.shape[: -2 if self.classwise else -1]
        mean, raw = self.weights(encoding).reshape(*leading, *self.shape, 2).unbind(-1)
        return mean, (raw - 4.0).clamp(-9.0, 0.0).exp()  # starts narrow, as the weights' scales of other methods do


@final
class TaskNetwork(nn.Module):
    """A network that reads the task beside x: the features of x, the encoding of the support there, and a latent if given.

    With an encoder that encodes each class by itself, the network is asked once for each class, with that class's encoding
    and latent, and answers with the class's logit: so it does not depend on how classes are numbered.

    Args:
        encoder: of the support.
        network: from ``encoder.inputs + encoder.size`` features, and the latent's entries, to outputs; to one of them, the
            logit, for a classwise encoder.

    Example:
        >>> network = TaskNetwork(DeepSet(1, 1), MLP(1 + 64, 2))
        >>> network(points([0.0, 1.0], [0.0, 1.0]), torch.zeros(1, 5, 1)).shape
        torch.Size([1, 5, 2])
    """

    def __init__(self, encoder: Encoder, network: nn.Module) -> None:
        super().__init__()
        check_encoder(encoder, classwise=True)
        check_network(network)
        self.encoder = encoder
        self.network = network

    def forward(self, support: Points | Tensor, x: Any, z: Tensor | None = None, own: bool = False) -> Tensor:
        """From x ``(B, M, *X)`` and z ``(..., B, Z)``, or ``(..., B, W, Z)`` for a classwise encoder, to ``(..., B, M, *O)``.

        With `own`, z is ``(S, B, ...)`` and x ``(B, S M, *X)``: M points for each latent in turn. In the place of a support it
        takes what the encoder `knows` of it.
        """
        embedded = self.encoder.embed(x)
        told = self.encoder.tell(support, embedded)  # (B, M, R) or (B, M, W, R)
        if self.encoder.classwise:
            embedded = embedded[:, :, None].expand(*told.shape[:-1], -1)
        told = torch.cat([embedded, told], -1)
        if z is not None:
            told = apart(told, len(z)) if own else told
            z = z.unsqueeze(-3 if self.encoder.classwise else -2)
            batch = torch.broadcast_shapes(z.shape[:-1], told.shape[:-1])
            told = torch.cat([told.expand(*batch, -1), z.expand(*batch, -1)], -1)
        outputs: Tensor = self.network(told)
        if not self.encoder.classwise:
            return outputs
        if outputs.shape[-1] != 1:
            raise ValueError(
                f"network: expected one output, a class's logit, beside {type(self.encoder).__name__}, which encodes each class "
                f"by itself, got {outputs.shape[-1]}; build it with outputs=1"
            )
        return outputs.squeeze(-1)
