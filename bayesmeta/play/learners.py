"""The learners of the playground: trained in seconds on sinusoids, or from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import LinearKernel, ScaleKernel
from torch import Tensor, nn

from bayesmeta.border import points
from bayesmeta.data import Points
from bayesmeta.distributions import kind, quantile
from bayesmeta.encoders import Attention
from bayesmeta.files import load
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import Gaussian, HeteroscedasticGaussian
from bayesmeta.methods import ABML, ANIL, DKT, MAML, ALPaCA, ConditionalNeuralProcess
from bayesmeta.networks import MLP
from bayesmeta.randomness import seeded
from bayesmeta.tasks import Sinusoids
from bayesmeta.tasks.source import normal, uniform
from bayesmeta.training import History, fit
from bayesmeta.wrappers import OwnScale, Standardized, Warped

__all__ = ["LEVEL", "RECIPES", "Recipe", "axes_of", "described", "from_file", "hidden_task", "shown", "trained"]

LEVEL = 0.9
"""How much of y a band holds."""
_DRAWS = 8
"""Functions that are shown."""
_TASKS = Sinusoids(noise=0.1, shots=(0, 10), batch=16)
_HIDDEN = Sinusoids(noise=_TASKS.noise, batch=1)


class Recipe(NamedTuple):
    """A learner that training makes in seconds. The settings were chosen on tasks of other seeds than a page shows."""

    name: str
    note: str
    """What it is, for a reader."""
    build: Callable[[], Learner]
    steps: int
    rate: float = 0.01


def _network(layers: int = 2) -> MLP:
    return MLP(1, 1, hidden=(40,) * layers, activation=nn.Tanh)


def _alpaca() -> Learner:
    body = _network(3)
    return OwnScale(ALPaCA(body.features, body.head, Gaussian()))


def _anil() -> Learner:
    body = _network()
    return ANIL(body.features, body.head, Gaussian(), rate=0.05)


def _neural_process() -> Learner:
    encoder = Attention(1, 1)
    return ConditionalNeuralProcess(encoder, MLP(1 + encoder.size, 2), HeteroscedasticGaussian())


RECIPES = (
    Recipe("ALPaCA", "a Bayesian last layer, with a scale for each task", _alpaca, 1000),
    Recipe(
        "DKT",
        "a Gaussian process on learned features",
        lambda: DKT(_network().features, ScaleKernel(LinearKernel()), Gaussian()),
        1500,
    ),
    Recipe("ANIL", "gradient steps on the last layer", _anil, 1000),
    Recipe("MAML", "gradient steps on all weights", lambda: MAML(_network(), Gaussian(), steps=5, rate=0.02), 800),
    Recipe("ABML", "a Gaussian over all weights, by gradient steps", lambda: ABML(_network(), Gaussian()), 400),
    Recipe("Neural process", "an encoder with attention: all doubt is in y", _neural_process, 1000, rate=0.003),
)


def trained(recipe: Recipe, *, effort: float = 1.0, on_step: Callable[[History], object] | None = None) -> Learner:
    """A recipe's learner, meta-trained on sinusoids from 0 to 10 points; torch's global generator is not touched.

    Args:
        recipe: what to build, and how long to train.
        effort: a factor of the steps.
        on_step: as in `fit`.

    Raises:
        KeyboardInterrupt: Ctrl-C during the training.
    """
    steps = max(1, round(effort * recipe.steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = recipe.build()
    optimizer = torch.optim.Adam(learner.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = fit(
        learner, _TASKS, steps=steps, optimizer=optimizer, scheduler=schedule, progress=False, on_step=on_step
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return learner


def from_file(path: str | Path) -> Learner:
    """The learner of a file that `save` wrote, which was asked once without a point and once with two.

    Raises:
        OSError, ValueError: there is no such file, it is damaged, or no learner of one input and one real target.
    """
    try:
        found = load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    if not isinstance(found, Learner):
        raise ValueError(
            f"{path}: expected a learner, got {type(found).__name__}; save it without a support, save(learner, path)"
        )
    try:
        with torch.no_grad():
            prediction = found(points([], []))([0.0])
        if kind(prediction) != "real":
            raise ValueError(f"predictions of {kind(prediction)}")
        for known in ([], [(0.0, 0.5), (1.0, 0.5)]):  # what is above 0, or below 1, may be told to all
            shown(found, known, torch.linspace(0, 1, 5))
    except Exception as error:  # a learner of other data may fail anywhere
        raise ValueError(
            f"{path}: expected a learner of one input and one real target, got {type(found).__name__} that cannot be asked "
            f"so ({_inputs(found) or error}); save one that was trained on such tasks"
        ) from error
    return found


def _inputs(learner: Learner) -> str:
    """How many inputs a learner takes that does not take one, in words; empty where that is not what is wrong."""
    for count in range(1, 33):
        x = torch.zeros(1, 1, count)
        with suppress(Exception), torch.no_grad():
            learner(Points(x, torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)))(x)
            return f"it takes {count} inputs" if count > 1 else ""
    return ""


def shown(
    learner: Learner, known: Sequence[tuple[float, float]], x: Tensor
) -> dict[str, list[float] | list[list[float]]]:
    """What a panel shows of a task: lists of M numbers, the same for the same points.

    ``low`` to ``high`` is the central interval of y that holds `LEVEL`. ``inner_low`` to ``inner_high`` is the part of it that is
    doubt about the function: narrowed about the mean to the epistemic share of the standard deviation, which is the function's
    own interval where all is normal. ``draws`` are the means of single functions.

    Args:
        learner: of one input and one real target.
        known: the task's points (x, y), none or more.
        x: where to ask, ``(M,)``.

    Raises:
        ValueError: an answer is NaN or infinite.
    """
    support = points([a for a, _ in known], [b for _, b in known])
    with torch.no_grad(), seeded(0):
        posterior = learner(support)
        prediction = posterior(x)
        low, high = quantile(prediction, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        total, _, epistemic = posterior.decompose(x, samples=64)
        mean, share = prediction.mean, (epistemic / total).sqrt().nan_to_num(0.0)
        draws = posterior.functions(_DRAWS)(x).mean
    inner = {f"inner_{name}": mean + share * (end - mean) for name, end in (("low", low), ("high", high))}
    curves = {"mean": mean, "low": low, "high": high, **inner}
    if broken := [name for name, curve in [*curves.items(), ("draws", draws)] if not curve.isfinite().all()]:
        raise ValueError(f"expected finite answers, got NaN or infinity in {broken[0]}")
    return {name: _rounded(curve.reshape(len(x))) for name, curve in curves.items()} | {
        "draws": [_rounded(draw) for draw in draws.reshape(_DRAWS, len(x))]
    }


def _rounded(values: Tensor) -> list[float]:
    """To five digits, which a screen does not show."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def described(learner: Learner) -> str:
    """The methods that a learner is made of, from the outermost in."""
    return ", ".join(dict.fromkeys(type(part).__name__ for part in learner.modules() if isinstance(part, Learner)))


def axes_of(learners: Sequence[Learner]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where to look at learners: at the data that a `Standardized` one was scaled by, else at the sinusoids.

    Inputs that are spread evenly fill the axis of x: they reach √3 standard deviations. On a warped scale that of y is where 95 %
    of a normal's are, as ends further out would be those of a few cases.
    """
    for learner in learners:
        warped = [part for part in learner.modules() if isinstance(part, Warped)]
        warps = {inner: part.warp for part in warped for inner in part.modules()}
        for part in learner.modules():
            if isinstance(part, Standardized):
                warp = warps.get(part)
                x = part.x_loc + part.x_scale * part.x_scale.new_tensor([-1, 1]) * 3**0.5
                y = part.y_loc + part.y_scale * part.y_scale.new_tensor([-1, 1]) * (2 if warp else 3)
                return _ends(x), _ends(warp.inverse(y) if warp else y)
    return (-5.0, 5.0), (-6.0, 6.0)


def _ends(values: Tensor) -> tuple[float, float]:
    low, high = values.tolist()
    return low, high


def hidden_task(seed: int, x: Tensor, count: int = 30) -> dict[str, Any]:
    """A sinusoid of no one's knowledge: ``points`` as they will be seen, with their noise, and ``truth`` at x ``(M,)``.

    Example:
        >>> task = hidden_task(0, torch.linspace(-5, 5, 3))
        >>> len(task["points"]), len(task["truth"])
        (30, 3)
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = _HIDDEN.support_range
    asked = low + (high - low) * uniform(1, count, 1, generator=generator)
    y = _HIDDEN.targets(torch.cat([asked, x.reshape(1, -1, 1)], 1), generator).flatten()
    seen = y[:count] + _HIDDEN.noise * normal(count, generator=generator)
    return {
        "points": [list(pair) for pair in zip(_rounded(asked.flatten()), _rounded(seen), strict=True)],
        "truth": _rounded(y[count:]),
    }
