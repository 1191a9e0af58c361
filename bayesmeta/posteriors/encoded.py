"""Posteriors that are read from an encoding of the support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from bayesmeta.answers import Functions
from bayesmeta.data import Points
from bayesmeta.encoders import Encoder
from bayesmeta.functional import Frozen
from bayesmeta.likelihoods import Likelihood
from bayesmeta.posterior import Posterior
from bayesmeta.posteriors.sampled import Outputs
from bayesmeta.posteriors.transformed import check_pointwise

__all__ = ["Encoded", "told"]


class Encoded(Posterior):
    """A posterior that is read from what an encoder knows of the support: from sums over its points, where it has such.

    Updates then add to the sums: exact, and of the same size after any number of points. With an encoder that has none, such as
    `Attention`, there are no updates.

    Args:
        known: of the support, by the encoder (see `Encoder.knows`).
        infer: the parameters of the functions, from what is known; of modules as they were, since updates need it.
        tell: what the encoder knows of further points; of modules as they were.
        draw: makes S functions, from what is known, the parameters, and S. For B tasks at once to equal B one by one, noise is
            shared over the tasks.
        likelihood: maps outputs to distributions.
        support: what was learned from.
        samples: S, how many draws a prediction averages unless the call says; 1 for a posterior whose draws are all equal.
        inferred: from what is known of the support, where it is computed already.
    """

    _of_tasks = ("known", "inferred")

    def __init__(
        self,
        known: Any,
        infer: Callable[[Any], Any],
        tell: Callable[[Points], Tensor],
        draw: Callable[[Any, Any, int], Outputs],
        likelihood: Likelihood,
        support: Points,
        *,
        samples: int = 64,
        inferred: Any = None,
    ) -> None:
        super().__init__(support, samples)
        self.known, self.inferred = known, inferred
        self.infer, self.tell, self.draw = infer, tell, draw
        self.likelihood = Frozen(likelihood)

    def _functions(self, samples: int) -> Functions:
        outputs = self.draw(self.known, self.inferred, samples)
        return lambda x, own: self.likelihood(outputs(x, own))

    def _updated(self, points: Points) -> Posterior:
        if not isinstance(self.known, Tensor):
            return super()._updated(points)
        later = self._later()
        later.known = self.known.double() + self.tell(points).double()
        later.inferred = self.infer(later.known)
        return later


def told(encoder: Encoder, points: Points) -> Any:
    """What an encoder knows of further points.

    Raises:
        NotImplementedError: its features of a point depend on the points beside it.
    """
    check_pointwise(encoder)
    return encoder.knows(points)
