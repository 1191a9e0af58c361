"""What posteriors answer in several parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from bayesmeta.distributions import apart

__all__ = ["Decomposition", "Functions", "Joint", "refuse_copies", "refuse_gaussian", "refuse_update", "repeated"]

Functions: TypeAlias = Callable[[Any, bool], Distribution]
"""S functions, each the same whenever it is asked: of inputs, and of whether each function has inputs of its own.

Inputs are ``(B, M, *X)`` and the same for all S functions, or ``(B, S M, *X)``, M points for each function in turn. The answer's
batch is ``(S, B, M)`` either way (see `bayesmeta.distributions.apart`).
"""


def repeated(predict: Callable[[Any], Distribution], samples: int) -> Functions:
    """S times one function: of a posterior that has no doubt about it.

    Args:
        predict: what the function says at inputs ``(B, M, *X)``, batch ``(B, M)``.
        samples: S.
    """

    def ask(x: Any, own: bool) -> Distribution:
        found = predict(x)
        answers: Distribution = (
            apart(found, samples) if own else found.expand(torch.Size([samples]) + found.batch_shape)
        )
        return answers

    return ask


class Decomposition(NamedTuple):
    """The uncertainty at M inputs in two parts, each ``(B, M, *Y)``; of classes ``(B, M)``. See `Posterior.decompose`."""

    total: Tensor
    """The sum of the other two."""
    aleatoric: Tensor
    """What would remain if the task were known: the noise."""
    epistemic: Tensor
    """What more support points would remove: the doubt about the function."""


class Joint(NamedTuple):
    """What is known together of the function's values at M inputs, for Y targets, of float64. See `Posterior.joint`.

    The covariance of measurements is ``covariance + diag(noise²)``.
    """

    mean: Tensor
    """Of the function, ``(B, M, Y)``."""
    covariance: Tensor
    """Of each target's values at the inputs, without noise, ``(B, Y, M, M)``; the targets are independent."""
    noise: Tensor
    """The standard deviation of a target given the function, ``(B, M, Y)``."""


def refuse_update(got: str) -> NoReturn:
    """Raises the NotImplementedError of a posterior that cannot be told further points."""
    raise NotImplementedError(
        f"update: expected a posterior that can be told further points, got {got}; wrap the learner, "
        "Rehearsal(learner, capacity=None), which keeps points and adapts again"
    )


def refuse_copies(posterior: object) -> NoReturn:
    """Raises the NotImplementedError of a posterior that does not say what it holds of each task."""
    raise NotImplementedError(
        f"expand: expected a posterior that says what it holds of each task, got {type(posterior).__name__}; name those "
        'attributes in its class, _of_tasks = ("mean", ...)'
    )


def refuse_gaussian(posterior: object, name: str, what: str, remedy: str) -> NoReturn:
    """Raises the NotImplementedError of a posterior whose functions are not Gaussian."""
    raise NotImplementedError(
        f"{name}: expected a {what} whose functions are Gaussian, such as those of ALPaCA, DKT, ADKL and ADKF, got "
        f"{type(posterior).__name__}; {remedy}"
    )
