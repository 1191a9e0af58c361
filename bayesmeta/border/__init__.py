"""Where users' values enter: arrays, points and their checks."""

from bayesmeta.border.arrays import as_inputs, as_numbers, as_tensor, convert, is_whole, stack
from bayesmeta.border.checks import (
    check,
    check_count,
    check_function,
    check_not_negative,
    check_positive,
    check_probability,
    check_shapes,
)
from bayesmeta.border.parts import check_parts
from bayesmeta.border.points import points
from bayesmeta.border.values import (
    asked_of,
    check_amounts,
    check_bytes,
    check_form,
    check_spread,
    check_values,
    queries,
    readable,
)

__all__ = [
    "as_inputs",
    "as_numbers",
    "as_tensor",
    "asked_of",
    "check",
    "check_amounts",
    "check_bytes",
    "check_count",
    "check_form",
    "check_function",
    "check_not_negative",
    "check_parts",
    "check_positive",
    "check_probability",
    "check_shapes",
    "check_spread",
    "check_values",
    "convert",
    "is_whole",
    "points",
    "queries",
    "readable",
    "stack",
]
