"""Scales on which targets are modelled: increasing maps of the user's numbers onto all real numbers.

A map onto all of them gives every density of real numbers an exact one in the user's units, by the change of variables (warped
Gaussian processes: Snelson, Rasmussen & Ghahramani 2004, https://papers.nips.cc/paper/2481-warped-gaussian-processes).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from bayesmeta.recorded import Setting

__all__ = ["BoxCox", "Log", "Log1p", "Logit", "Warp"]


class Warp(Setting, ABC):
    """An increasing map of the numbers between two bounds, themselves left out, onto all real numbers; a frozen dataclass."""

    bounds: tuple[float, float]
    """Between which numbers targets are."""
    growth: float
    """g, where the inverse grows as z^g for large z: infinite for an exponential."""
    bend: float = 0.0
    """Where on the warped scale the inverse is not smooth, if anywhere."""
    remedy: str = "give another warp"
    """What to do with targets that are not between the bounds."""

    @abstractmethod
    def __call__(self, y: Tensor) -> Tensor:
        """y on the warped scale, z."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """z in the user's units, y."""

    @abstractmethod
    def log_slope(self, y: Tensor) -> Tensor:
        """The logarithm of the warp's derivative at y."""

    @property
    def expects(self) -> str:
        """The targets that it takes, and the remedy for others, in words."""
        low, high = self.bounds
        below = "" if high == math.inf else f" and below {high:g}"
        return f"numbers above {low:g}{below} ({self.remedy})"

    def inside(self, y: Tensor) -> Tensor:
        """Whether y is between the bounds, bool."""
        low, high = self.bounds
        return (y > low) & (y < high)


@final
@dataclass(frozen=True)
class Log(Warp):
    """The logarithm, for numbers above 0 that vary by factors: incomes, concentrations, times; straight beyond `top`.

    Student's t on a logarithmic scale has no mean in the user's units, and so no CRPS: one extreme case outweighs all others.
    Beyond `top` the warp therefore goes on as its tangent there, ``log(top) + (y - top) / top``. Then means, CRPS and (above two
    degrees of freedom) variances are finite. A few times the largest training target changes little else.

    Args:
        top: up to where the warp is a logarithm, above 0; everywhere if infinite.

    Raises:
        ValueError: top is not above 0.

    Example:
        >>> Log(top=10.0)(torch.tensor([1.0, 10.0, 20.0]))
        tensor([0.0000, 2.3026, 3.3026])
    """

    top: float = math.inf

    bounds = (0.0, math.inf)
    remedy = "warps.Log1p() takes zeros, and counts are for likelihoods such as Poisson()"

    def __post_init__(self) -> None:
        _above(self, "top", 0.0)

    @property
    def growth(self) -> float:  # type: ignore[override]
        return _growth(self.top)

    @property
    def bend(self) -> float:  # type: ignore[override]
        return math.log(self.top)

    def __call__(self, y: Tensor) -> Tensor:
        return y.clamp(max=self.top).log() + _beyond(y, self.top) / self.top

    def inverse(self, z: Tensor) -> Tensor:
        y = z.clamp(max=self.bend).exp()
        return y if self.top == math.inf else y + self.top * _beyond(z, self.bend)

    def log_slope(self, y: Tensor) -> Tensor:
        return -y.clamp(max=self.top).log()


@final
@dataclass(frozen=True)
class Log1p(Warp):
    """``log(1 + y / unit)``, for numbers from 0 on that vary by factors, of which some are 0; straight beyond `top`, as `Log`.

    Predictions reach down to ``-unit``: a density knows of no zeros.

    Args:
        unit: below which differences count as they are, and above as factors; in y's unit, above 0.
        top: up to where the warp is a logarithm, above 0; everywhere if infinite.

    Raises:
        ValueError: a number is not above 0.

    Example:
        >>> Log1p(unit=10.0)(torch.tensor([0.0, 10.0, 1000.0]))
        tensor([0.0000, 0.6931, 4.6151])
    """

    unit: float = 1.0
    top: float = math.inf

    remedy = "a larger unit reaches further down, and targets of any sign need no warp"

    def __post_init__(self) -> None:
        _above(self, "unit", 0.0, finite=True)
        _above(self, "top", 0.0)

    @property
    def bounds(self) -> tuple[float, float]:  # type: ignore[override]
        return -self.unit, math.inf

    @property
    def growth(self) -> float:  # type: ignore[override]
        return _growth(self.top)

    @property
    def bend(self) -> float:  # type: ignore[override]
        return math.log1p(self.top / self.unit)

    def __call__(self, y: Tensor) -> Tensor:
        return (y.clamp(max=self.top) / self.unit).log1p() + _beyond(y, self.top) / (self.unit + self.top)

    def inverse(self, z: Tensor) -> Tensor:
        y = self.unit * z.clamp(max=self.bend).expm1()
        return y if self.top == math.inf else y + (self.unit + self.top) * _beyond(z, self.bend)

    def log_slope(self, y: Tensor) -> Tensor:
        return -(self.unit + y.clamp(max=self.top)).log()


@final
@dataclass(frozen=True)
class Logit(Warp):
    """The log odds of a number between two others: shares, percentages, scores.

    Args:
        low: below all targets.
        high: above all targets.

    Raises:
        ValueError: the two are not finite, or not in this order.

    Example:
        >>> Logit(0.0, 100.0)(torch.tensor([50.0, 90.0]))
        tensor([0.0000, 2.1972])
    """

    low: float = 0.0
    high: float = 1.0

    growth = 0.0
    remedy = "widen low and high, so that no target lies on them"

    def __post_init__(self) -> None:
        _above(self, "low", -math.inf, finite=True)
        _above(self, "high", self.low, finite=True)

    @property
    def bounds(self) -> tuple[float, float]:  # type: ignore[override]
        return self.low, self.high

    def __call__(self, y: Tensor) -> Tensor:
        return (y - self.low).log() - (self.high - y).log()

    def inverse(self, z: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * z.sigmoid()

    def log_slope(self, y: Tensor) -> Tensor:
        return math.log(self.high - self.low) - (y - self.low).log() - (self.high - y).log()


@final
@dataclass(frozen=True)
class BoxCox(Warp):
    """A power, and below `unit` a logarithm: ``((y / unit)^power - 1) / power``, and ``log(y / unit)``.

    Of Box & Cox 1964, https://doi.org/10.1111/j.2517-6161.1964.tb00553.x, the part above 1: below it theirs ends at -1 / power,
    so that a normal would have mass where no target is. A power of 0 is the logarithm; 1 is straight above `unit`.

    Args:
        power: from 0 on; 0.5 for square roots.
        unit: where the two parts meet, in y's unit: a typical small target, above 0.

    Raises:
        ValueError: the power is below 0, or the unit not above 0.

    Example:
        >>> BoxCox(0.5)(torch.tensor([1.0, 4.0, 9.0]))
        tensor([0., 2., 4.])
    """

    power: float
    unit: float = 1.0

    bounds = (0.0, math.inf)
    remedy = Log.remedy

    def __post_init__(self) -> None:
        _above(self, "power", -math.ulp(0.0), finite=True)
        _above(self, "unit", 0.0, finite=True)

    @property
    def growth(self) -> float:  # type: ignore[override]
        return 1 / self.power if self.power else math.inf

    def __call__(self, y: Tensor) -> Tensor:
        ratio = y / self.unit
        below, above = ratio.clamp(max=1.0).log(), ratio.clamp(min=1.0).log()
        return below + ((self.power * above).expm1() / self.power if self.power else above)

    def inverse(self, z: Tensor) -> Tensor:
        above = z.clamp(min=0.0)
        above = (self.power * above).log1p() / self.power if self.power else above
        return self.unit * (z.clamp(max=0.0) + above).exp()

    def log_slope(self, y: Tensor) -> Tensor:
        return (self.power * (y / self.unit).clamp(min=1.0).log()) - y.log()


def _above(warp: Warp, name: str, least: float, *, finite: bool = False) -> None:
    """Keeps a setting as a float, or raises a ValueError where it is none above the least."""
    given: Any = getattr(warp, name)
    try:
        value = float(given)
    except (TypeError, ValueError, RuntimeError):  # no number
        value = math.nan
    if not value > least or (finite and value == math.inf):
        wanted = "a finite number" if least == -math.inf else f"a {'finite ' * finite}number above {least:g}"
        wanted = "a number from 0 on" if name == "power" else wanted
        raise ValueError(f"{name}: expected {wanted}, got {given!r}; it is in the unit of the targets")
    object.__setattr__(warp, name, value)


def _growth(top: float) -> float:
    return math.inf if top == math.inf else 1.0


def _beyond(values: Tensor, end: float) -> Tensor:
    return (values - end).clamp(min=0.0)
