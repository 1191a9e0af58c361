"""Throwaway copies of a module's structure, with other tensors in them."""

from __future__ import annotations

import gc
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from types import CellType, CodeType, FrameType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from bayesmeta.functional.vectors import Params

__all__ = ["Copier", "unfollowed"]

_PLAIN = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
_UNUSED = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_state_dict_hooks"}
_UNUSED |= {"_built_with", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"}
"""Attributes of every module that its forward has no use for, or that are copied by themselves."""


class Copier:
    """Copies a module's structure, sharing all that is no module and no replaced tensor.

    Attributes are followed too: lists, dicts and sets of layers, bound methods, hooks, and functions that close over a module or
    a tensor of the tree get the copy's in their place. What is not followed `unfollowed` finds.

    Args:
        root: the module whose structure is copied.
        weights: tensors by the names of its parameters and buffers, in whose place they are in the copy.
        instead: types of layers, and those that their copies have.

    Raises:
        KeyError: a name is none of the module's, or one under which a tied tensor is not known first.
    """

    def __init__(self, root: nn.Module, weights: Params, instead: Mapping[type, type] = MappingProxyType({})) -> None:
        self.weights, self.instead = dict(weights), instead
        self.made: dict[int, Any] = {}
        """By the id of what the original has: what the copy has in its place."""
        self.kinds: set[type] = set()
        later: list[tuple[nn.Module, str, Any]] = []
        self.root = self._copy(root, "", later)
        for made, name, value in later:  # when all of the tree is known
            object.__setattr__(made, name, self.follow(value))
        if self.weights:
            left = sorted(self.weights)
            raise KeyError(f"weights: expected names of the module's parameters or buffers, got {left}")

    def _copy(self, module: nn.Module, prefix: str, later: list[tuple[nn.Module, str, Any]]) -> nn.Module:
        if id(module) in self.made:
            found: nn.Module = self.made[id(module)]
            return found
        kind = type(module)
        self.kinds.add(kind)
        made: nn.Module = object.__new__(self.instead.get(kind, kind))
        self.made[id(module)] = made
        state, given = vars(made), vars(module)
        state.update(given)
        for name, value in given.items():
            if type(value) not in _PLAIN and name not in _UNUSED and (type(value) not in _FOLLOWED or value):
                later.append((made, name, value))
        later.extend((made, name, getattr(module, name)) for name in _slots(kind) if hasattr(module, name))  # type: ignore[arg-type]
        for name in ("_parameters", "_buffers"):
            state[name] = {key: self._tensor(prefix + key, value) for key, value in given[name].items()}
        state["_modules"] = {
            key: None if child is None else self._copy(child, f"{prefix}{key}.", later)
            for key, child in given["_modules"].items()
        }
        return made

    def _tensor(self, name: str, own: Tensor | None) -> Tensor | None:
        """What stands under a name: the given tensor, and the same one wherever its original is tied to."""
        if own is None:
            return None
        found: Tensor = self.made.setdefault(id(own), self.weights.get(name, own))
        if name in self.weights and self.weights.pop(name) is not found:
            raise KeyError(
                f"weights: expected tied tensors by the first of their names, got {name!r}; see named_parameters()"
            )
        return found

    def follow(self, value: Any) -> Any:
        """The value, or its copy where it holds a module or a tensor that has one."""
        copy = _follower(type(value))  # type: ignore[arg-type]
        if copy is not None and id(value) not in self.made:
            copy(self, value)
        return self.made.get(id(value), value)

    def _settle(self, value: Any, made: Any, changed: bool) -> None:
        self.made[id(value)] = made if changed else value

    def _mapping(self, value: dict[Any, Any]) -> None:
        made = self.made[id(value)] = value.copy()  # of its type; known before it is filled, as it may hold itself
        parts = [(self.follow(key), self.follow(part)) for key, part in value.items()]
        changed = any(
            new[0] is not key or new[1] is not part for new, (key, part) in zip(parts, value.items(), strict=True)
        )
        made.clear()
        made.update(parts)
        self._settle(value, made, changed)

    def _list(self, value: Any) -> None:
        made = self.made[id(value)] = value.copy()
        parts = [self.follow(part) for part in value]
        made.clear()
        made.extend(parts)
        self._settle(value, made, any(new is not old for new, old in zip(parts, value, strict=True)))

    def _tuple(self, value: Any) -> None:
        parts = [self.follow(part) for part in value]
        made = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        self._settle(value, made, any(new is not old for new, old in zip(parts, value, strict=True)))

    def _method(self, value: MethodType) -> None:
        owner = self.follow(value.__self__)
        self._settle(value, MethodType(value.__func__, owner), owner is not value.__self__)

    def _function(self, value: FunctionType) -> None:
        old = value.__closure__ or ()
        cells = tuple(CellType() for _ in old)
        made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        self.made[id(value)] = made  # known before its closure is, which may hold it
        changed = False
        for cell, new in zip(old, cells, strict=True):
            for content in _contents(cell):
                new.cell_contents = self.follow(content)
                changed = changed or (new.cell_contents is not content and content is not value)
        made.__defaults__, made.__kwdefaults__ = self.follow(value.__defaults__), self.follow(value.__kwdefaults__)
        changed = (
            changed or made.__defaults__ is not value.__defaults__ or made.__kwdefaults__ is not value.__kwdefaults__
        )
        made.__dict__.update(value.__dict__)
        self._settle(value, made, changed)

    def _partial(self, value: partial[Any]) -> None:
        parts = self.follow(value.func), self.follow(value.args), self.follow(value.keywords)
        changed = parts[0] is not value.func or parts[1] is not value.args or parts[2] is not value.keywords
        self._settle(value, partial(parts[0], *parts[1], **parts[2]), changed)

    def _reference(self, value: ref[Any]) -> None:
        target = value()
        found = None if target is None else self.made.get(id(target), target)
        self._settle(value, value if found is None else ref(found), found is not target)


_FOLLOWED: dict[type, Callable[[Copier, Any], None]] = {
    dict: Copier._mapping,
    OrderedDict: Copier._mapping,
    defaultdict: Copier._mapping,
    list: Copier._list,
    deque: Copier._list,
    tuple: Copier._tuple,
    set: Copier._tuple,
    frozenset: Copier._tuple,
    MethodType: Copier._method,
    FunctionType: Copier._function,
    partial: Copier._partial,
    ref: Copier._reference,
}


@cache
def _follower(kind: Any) -> Callable[[Copier, Any], None] | None:
    """How values of a type are copied: as one of the above, or a subclass of it that is copied as that is."""
    return next((_FOLLOWED[base] for base in kind.__mro__ if base in _FOLLOWED), None)


@cache
def _slots(kind: Any) -> tuple[str, ...]:
    names = [name for base in kind.__mro__ for name in _as_tuple(vars(base).get("__slots__", ()))]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _as_tuple(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _contents(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return []


_LIMIT = 20_000
"""Objects that are looked at behind an attribute; what lies further is trusted."""


def unfollowed(root: nn.Module) -> tuple[str, str] | None:
    """An attribute that reaches a layer or a weight of the module as a copy does not follow, and how: None if none does.

    Through an object of another class, say, or as a view of a weight: a task's weights would not be there.
    """
    tree: dict[int, Any] = {}
    storages: set[int] = set()
    for module in root.modules():
        tree[id(module)] = module
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                tree[id(tensor)] = tensor
                storages |= _storage(tensor)
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if name in _UNUSED or name.startswith(("_forward", "_backward")):
                continue
            if how := _reached(value, tree, storages):
                return f"{path}.{name}".removeprefix("."), how
    return None


def _reached(start: Any, tree: dict[int, Any], storages: set[int]) -> str | None:
    seen: set[int] = set()
    waiting: list[tuple[Any, str]] = [(start, "")]  # a value, and the first thing on the way to it that is not followed
    while waiting and len(seen) < _LIMIT:
        value, through = waiting.pop()
        if id(value) in tree:
            if through:
                return f"through {through}"
            continue
        if isinstance(value, Tensor):
            if storages & _storage(value):
                return "a view of a weight"
            continue
        if id(value) in seen or isinstance(value, (type, ModuleType, CodeType, FrameType, str, bytes, int, float)):
            continue
        seen.add(id(value))
        followed = _follower(type(value)) is not None  # type: ignore[arg-type]
        children = _parts(value) if followed else _held(value)
        waiting.extend((child, through or ("" if followed else type(value).__name__)) for child in children)
    return None


def _parts(value: Any) -> Iterator[Any]:
    """What a value holds that a copy follows."""
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _contents(cell)
        yield from (value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, ref):
        yield value()
    elif isinstance(value, dict):
        yield from (part for pair in value.items() for part in pair)
    else:
        yield from value


def _held(value: Any) -> list[Any]:
    """What any other object holds, but for its class."""
    return [held for held in gc.get_referents(value) if not isinstance(held, type)]


def _storage(tensor: Tensor) -> set[int]:
    """Where a tensor's numbers lie, if anywhere."""
    try:
        place = tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or of a transform
        return set()
    return {place} - {0}
