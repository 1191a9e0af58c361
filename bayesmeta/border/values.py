"""Values that must make sense: bytes, infinities, spreads that rounding eats, and queries like the support."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from bayesmeta.border.arrays import _unit, as_tensor, convert, is_whole

__all__ = [
    "asked_of",
    "check_amounts",
    "check_bytes",
    "check_form",
    "check_spread",
    "check_values",
    "queries",
    "readable",
]


def check_bytes(x: Tensor, dimensions: int) -> None:
    """Raises a ValueError if x holds pictures as bytes: of more than so many dimensions."""
    if x.dtype == torch.uint8 and x.dim() > dimensions:
        raise ValueError(
            "x: expected pictures of values from 0 to 1, got bytes; divide by 255, as ImageTasks does with its pictures"
        )


def check_values(values: Tensor, name: str) -> None:
    """Raises a ValueError if floating values ``(B, N, *E)`` are NaN or infinite, or so large that their squares are."""
    if not values.is_floating_point() or not values.numel():
        return
    largest = torch.finfo(values.dtype).max ** 0.5
    if torch.linalg.vector_norm(values.detach()) <= largest:  # then each is: one pass, in whatever order values lie
        return
    bad = ~(values.detach().abs() <= largest)
    if not bad.any():
        return
    task, point, *_ = place = tuple(bad.nonzero()[0].tolist())
    if values[place].isfinite():
        raise ValueError(
            f"{name}: expected numbers up to {largest:.2g}, whose squares {values.dtype} holds, got {values[place].item():.3g} "
            f"at task {task}, point {point}; {_unit(values.dtype)}"
        )
    raise ValueError(
        f"{name}: expected finite numbers, got NaN or infinity at task {task}, point {point}; "
        "drop the point or fill it in (missing points are expressed by the mask, over zeros)"
    )


def check_spread(values: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raises a ValueError if dtype cannot hold the square of the spread of data ``(n, *E)`` in all its digits.

    Variances are such squares. The spread is the range; of a constant, its size. A constant zero has none, and is fine.
    """
    about = torch.finfo(dtype)
    smallest = (about.tiny / about.eps) ** 0.5
    low, high = values.detach().double().aminmax(dim=0)
    spread = torch.where(high > low, high - low, high.abs())
    small = spread[(spread > 0) & (spread < smallest)]
    if len(small):
        raise ValueError(
            f"{name}: expected values that spread over at least {smallest:.2g}, so that {dtype} holds variances, got "
            f"{small[0].item():.3g}; {_unit(dtype)}"
        )


def readable(values: Tensor) -> bool:
    """Whether code may branch on values here: not where it is compiled or mapped, nor where CUDA captures a graph of it."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def queries(support: Tensor, x: Any, words: int | None = None) -> Tensor:
    """A user's query inputs as ``(B, M, *X)``, on the device and of the floating type of the support's ``(B, N, *X)``.

    Values are checked where they can be read. Sequences of whole numbers, such as tokens, may be longer or shorter than the
    support's; so may those of vectors, where the support's mask says that it has so many words.

    Raises:
        ValueError: x is not numbers, is of another shape, holds pictures as bytes, or a value is not finite or is lost.
    """
    batch, event = support.shape[0], support.shape[2:]
    given = as_tensor(x, "x")
    shape = tuple(given.shape)
    if not shape:
        raise ValueError(f"x: expected points, got a single number; pass a list, as in [{given.item()}]")
    if support.is_floating_point() and len(event) > 1:
        check_bytes(given, dimensions=len(event))
    if given.dim() == 1 and event == (1,):
        given = given[:, None]
    if given.dim() == 1 + len(event):
        given = given[None]
    vectors = len(event) > 1 and event[0] == words and tuple(given.shape[3:]) == tuple(event[1:])
    longer = vectors or (not support.is_floating_point() and len(event) > 0)  # the network says how many it takes
    if given.dim() == 2 + len(event) and given.shape[0] == batch and given.shape[2:] != event and not longer:
        raise ValueError(
            f"x: expected inputs of event shape {tuple(event)}, as the support has, got {tuple(given.shape[2:])}; give the same "
            "features, in the same order"
        )
    if given.dim() != 2 + len(event) or given.shape[0] != batch:
        wanted = ", ".join(["B", "M", *map(str, event)])
        raise ValueError(
            f"x: expected shape ({wanted}) with B = {batch} as the support has, got {shape}; "
            "give every task its own row of query inputs, e.g. x.expand(B, *x.shape)"
        )
    if not support.is_floating_point():
        if not is_whole(given) and given.numel():
            raise ValueError(
                f"x: expected whole numbers, as the support has them, got {given.dtype}; give both in the same form"
            )
        return given.to(support.device, support.dtype)
    if not readable(given):
        return given.to(support.device, support.dtype)
    if given.dtype != support.dtype:
        given = torch.stack(convert(given, support.dtype, "x"))
    check_values(given, "x")
    return given.to(support.device)


def check_form(support: Any, x: Any, name: str = "x") -> None:
    """Raises a ValueError where inputs are an array in the place of a dictionary, or the reverse, or lack entries."""
    known, given = (list(part) if isinstance(part, dict) else None for part in (support, x))
    if (known is None) != (given is None) or set(known or ()) != set(given or ()):
        wanted = "an array" if known is None else f"a dictionary of {known}"
        got = type(x).__name__ if given is None else f"a dictionary of {given}"
        raise ValueError(f"{name}: expected {wanted}, as the support's inputs are, got {got}; give the same inputs")
    for key in known or ():
        check_form(support[key], x[key], f"{name}[{key!r}]")


def _check_lengths(x: Any) -> None:
    """Raises a ValueError where the entries of inputs ``(B, M, ...)`` differ in points: networks might broadcast in silence."""
    if isinstance(x, Tensor):
        return
    counts = {"x" + keystr(path): leaf.shape[1] for path, leaf in tree_flatten_with_path(x)[0]}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"x: expected as many points in every entry, got {counts}; give each entry a row for every point"
        )


def asked_of(support: Any, mask: Tensor, x: Any) -> Any:
    """A user's query inputs, an array or a dictionary of such as the support's are, on its device and of its types.

    Raises:
        ValueError: they do not fit the support's inputs.
    """
    check_form(support, x)
    words = mask.shape[2] if mask.dim() == 3 else None
    asked = tree_map(partial(queries, words=words), support, x)
    _check_lengths(asked)
    return asked


def check_amounts(y: Tensor, name: str) -> None:
    """Raises a ValueError where all targets ``(n,)`` are one of two values: yes or no, of which a density says nothing."""
    if len(values := y.unique()) == 2:
        low, high = values.tolist()
        raise ValueError(
            f"{name}: expected amounts, got one of two values, {low:g} or {high:g}, in all {len(y)} rows, as of yes or no, of "
            "which densities say nothing; fit a learner with likelihoods.Bernoulli(), for 0 and 1, or with classes=[...] and "
            'Categorical(): docs/tables.md, "Yes or no"'
        )
