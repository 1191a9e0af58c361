"""Tensor functions of one task, and the one place where they are mapped over B tasks.

Functions here see plain tensors and pytrees. Randomness is drawn outside and passed in.
"""

from bayesmeta.functional.copying import unfollowed
from bayesmeta.functional.descent import Gradient, Objective, clamped, descend, first_order, second_order
from bayesmeta.functional.frozen import Frozen, adaptable, call, redrawn, run
from bayesmeta.functional.mapping import Mapped, Strategy, chosen_strategy, each_by_itself, map_tasks
from bayesmeta.functional.solvers import conjugate_gradient, hessian_product, stein_direction
from bayesmeta.functional.vectors import Params, ravel, unravel, with_bias

__all__ = [
    "Frozen",
    "Gradient",
    "Mapped",
    "Objective",
    "Params",
    "Strategy",
    "adaptable",
    "call",
    "chosen_strategy",
    "clamped",
    "conjugate_gradient",
    "descend",
    "each_by_itself",
    "first_order",
    "hessian_product",
    "map_tasks",
    "ravel",
    "redrawn",
    "run",
    "second_order",
    "stein_direction",
    "unfollowed",
    "unravel",
    "with_bias",
]
