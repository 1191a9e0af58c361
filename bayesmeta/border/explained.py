"""What torch says of values that do not fit a network, in the user's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils._pytree import tree_leaves

from bayesmeta.data import Points

__all__ = ["explained"]


@contextmanager
def explained(given: Points, name: str) -> Iterator[None]:
    """Says of labels and of whole inputs what torch says of indices and types."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        said, tokens = str(error), [leaf for leaf in tree_leaves(given.x) if not leaf.is_floating_point()]
        if tokens and ("dtype" in said or "not implemented for 'Long'" in said or "scalar type" in said):
            raise ValueError(
                f"{name}.x: expected floating inputs, with which the network computes, got {tokens[0].dtype} ({error}); begin "
                "the network with nn.Embedding, or build the points without whole=True"
            ) from error
        if "tensor for argument #1 'indices'" in said:
            raise ValueError(
                f"{name}.x: expected whole numbers, which the network looks up, got floating ones ({error}); build the points "
                "with whole=True"
            ) from error
        if tokens and ("out of bounds" in said or "out of range" in said) and given.y.is_floating_point():
            raise ValueError(
                f"{name}.x: expected whole numbers from 0 to one less than the network's embedding has rows, got up to "
                f"{max(int(leaf.max()) for leaf in tokens)} ({error}); number them from 0, or build a larger embedding"
            ) from error
        if given.y.is_floating_point() or ("out of bounds" not in said and "out of range" not in said):
            raise
        also = " (or tokens in x that the network's embedding has)" if tokens else ""
        raise ValueError(
            f"{name}.y: expected labels from 0 to one less than the learner's classes{also}, got others ({error}); number each "
            "task's classes from 0, or build the network with as many outputs"
        ) from error
