"""A learner as calls of constructors: what a file holds of its settings, and how it is built again.

A blueprint is numbers, texts and tensors, never code: a list of parts, each the public name of a class and its arguments, among
which earlier parts are named by their places. Only classes of the lists below are ever called. The library's own parts know what
they were built with (`bayesmeta.recorded`); torch's and gpytorch's keep it in attributes of the same names. As neither is certain
to tell all, a blueprint is followed before it is given out: it is one only if what it builds is the same learner.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import gpytorch
import torch
from torch import Tensor, nn

from bayesmeta.networks import BatchNorm, GroupNorm
from bayesmeta.recorded import Arguments, Named, Recorded, Setting, kept, spelled

__all__ = ["blueprint", "build"]

_LAYERS = [
    "Linear",
    "Bilinear",
    "Identity",
    "Flatten",
    "Unflatten",
    "Sequential",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "MaxPool1d",
    "MaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Upsample",
    "LayerNorm",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Embedding",
    "Dropout",
    "Dropout2d",
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "CELU",
    "SELU",
    "GELU",
    "SiLU",
    "Mish",
    "Softplus",
    "Softsign",
    "Sigmoid",
    "LogSigmoid",
    "Tanh",
    "Hardtanh",
    "Hardswish",
    "Hardsigmoid",
    "Tanhshrink",
    "Softmax",
    "LogSoftmax",
]
"""Of torch.nn."""


@cache
def _kinds() -> dict[str, type[Any]]:
    """The classes that a file may name, by their public names."""
    found: dict[str, type[Any]] = {f"torch.nn.{name}": getattr(nn, name) for name in _LAYERS}
    for package, base in (
        (gpytorch.kernels, gpytorch.kernels.Kernel),
        (gpytorch.means, gpytorch.means.Mean),
        (gpytorch.priors, gpytorch.priors.Prior),
        (gpytorch.constraints, gpytorch.constraints.Interval),
    ):
        for name in package.__all__:
            if isinstance(kind := getattr(package, name), type) and issubclass(kind, base):
                found[f"{package.__name__}.{name}"] = kind
    own: list[type[Any]] = [BatchNorm, GroupNorm, *_below(Recorded), *_below(Setting)]
    return found | {f"bayesmeta.{kind.__name__}": kind for kind in own if kind.__module__.startswith("bayesmeta.")}


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


class _Unknown(Exception):
    """What stands in a blueprint's way."""


def blueprint(learner: nn.Module) -> dict[str, Any] | str:
    """How to build a learner again, but for its weights: a blueprint, or why there is none, as a text."""
    try:
        writer = _Writer()
        writer.part(learner, "")
        dtype = next((p.dtype for p in learner.parameters() if p.is_floating_point()), torch.float32)
        plan = {"parts": writer.parts, "dtype": str(dtype), "set": []}
        try:
            built = build(plan)
        except ValueError as error:
            raise _Unknown(str(error)) from error
        plan["set"] = [(path, name, writer.value(value, name)) for path, name, value in _differences(learner, built)]
    except _Unknown as reason:
        return str(reason)
    return plan


class _Writer:
    """Lists a module's parts, each after those that it is built from."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.places: dict[int, int] = {}
        self.names = {spelled(kind): name for name, kind in _kinds().items()}

    def part(self, module: nn.Module, argument: str) -> int:
        """The place of a module in the list."""
        if id(module) not in self.places:
            name = self.name(spelled(type(module)), argument)
            given = module._built_with if isinstance(module, Recorded) else _read(module)
            described = {
                "kind": name,
                "positional": [
                    self.value(value, f"argument {place} of {name}") for place, value in enumerate(given[0])
                ],
                "named": {key: self.value(value, f"{key} of {name}") for key, value in given.named.items()},
                "frozen": [key for key, parameter in module.named_parameters() if not parameter.requires_grad],
            }
            self.places[id(module)] = len(self.parts)
            self.parts.append(described)
        return self.places[id(module)]

    def name(self, full: str, argument: str) -> str:
        if full not in self.names:
            raise _Unknown(f"{full}{argument and f' ({argument})'}, which is no part that a file may name")
        return self.names[full]

    def value(self, value: Any, argument: str) -> Any:
        if isinstance(value, nn.Module):
            return {"part": self.part(value, argument)}
        if isinstance(value, Named):
            return {"class": self.name(value.name, argument)}
        if isinstance(value, tuple):
            return tuple(self.value(part, argument) for part in value)
        if isinstance(value, Setting):
            name = self.name(spelled(type(value)), argument)
            return {"setting": name, "named": vars(kept(value))}
        return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _read(module: nn.Module) -> Arguments:
    """The arguments of a part of torch's or gpytorch's, from its attributes."""
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    for kind in type(module).__mro__:
        if "__init__" not in vars(kind):
            continue
        _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        for each in parameters:
            if each.kind is each.VAR_POSITIONAL:
                positional = tuple(getattr(module, each.name, module.children()))
            elif each.kind is not each.VAR_KEYWORD and each.name not in ("device", "dtype"):
                value = _attribute(module, each.name)
                if (
                    isinstance(each.default, bool) and value is not NotImplemented
                ):  # which a layer keeps as the tensor that it asks for, or None
                    value = value is not None and value is not False
                if isinstance(value, (Tensor, nn.Module)) or (isinstance(value, _SETTING) and value != each.default):
                    named[each.name] = value
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break  # else the rest goes to the class above
    return Arguments(positional, named)


_SETTING = (bool, int, float, str, tuple, type(None), Setting)


_KEPT_AS = {
    (gpytorch.means.ConstantMean, "constant_prior"): "mean_prior",
    (gpytorch.priors.UniformPrior, "a"): "low",
    (gpytorch.priors.UniformPrior, "b"): "high",
}
"""Arguments that are attributes of other names."""


def _attribute(module: nn.Module, name: str) -> Any:
    """What a module keeps of an argument, a constraint under the raw parameter's name; NotImplemented where it keeps none."""
    if isinstance(module, gpytorch.means.LinearMean) and name == "input_size":
        return module.weights.shape[-2]
    if isinstance(module, gpytorch.kernels.RFFKernel) and name == "num_dims":
        return module.randn_weights.shape[-2]
    name = _KEPT_AS.get((type(module), name), name)
    return getattr(module, name, getattr(module, f"raw_{name}", NotImplemented))


def build(plan: Any) -> nn.Module:
    """Follows a blueprint, on the CPU and in evaluation mode; torch's global generators are left as they were.

    Raises:
        ValueError: it is none, or of another version.
    """
    types = {str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    made: list[nn.Module] = []

    def value(given: Any) -> Any:
        if isinstance(given, Mapping):
            if "setting" in given:
                found: Any = _kinds()[given["setting"]](**given["named"])
                return found
            return made[given["part"]] if "part" in given else _kinds()[given["class"]]
        return tuple(value(part) for part in given) if isinstance(given, (list, tuple)) else given

    try:
        with torch.inference_mode(False), torch.random.fork_rng([]), torch.device("cpu"):
            for part in plan["parts"]:
                arguments = {name: value(given) for name, given in part["named"].items()}
                module = _kinds()[part["kind"]](*value(part["positional"]), **arguments)
                for name in part["frozen"]:
                    module.get_parameter(name).requires_grad_(False)
                made.append(module)
            learner = made[-1].to(types[plan["dtype"]])
            for path, name, given in plan["set"]:
                if not isinstance(getattr(learner.get_submodule(path), name), _SETTING):
                    raise TypeError(f"{name} of {path!r} is no setting")
                setattr(learner.get_submodule(path), name, value(given))
    except Exception as error:
        raise ValueError(f"settings that build no learner here ({type(error).__name__}: {error})") from error
    return learner.eval()


_INTERNAL = {*vars(nn.Module()), "_built_with"}


def _differences(learner: nn.Module, built: nn.Module) -> list[tuple[str, str, Any]]:
    """The settings in which a learner differs from what its blueprint builds: what was set since, by path and name.

    Raises:
        _Unknown: they differ in more.
    """
    mine, theirs = _inventory(learner), _inventory(built)
    for name in mine | theirs:
        if mine.get(name) != theirs.get(name):
            raise _Unknown(
                f"a learner that was changed since it was built: {name} is {mine.get(name)}, not {theirs.get(name)}"
            )
    found = []
    for path, module in learner.named_modules():
        other = built.get_submodule(path)
        for name in (vars(module).keys() | vars(other).keys()) - _INTERNAL:
            value, given = (_comparable(getattr(each, name, None)) for each in (module, other))
            if value != given:
                if not (isinstance(value, _SETTING) and isinstance(given, _SETTING)):
                    raise _Unknown(
                        f"a learner that was changed since it was built: {name} of {path!r} is {value}, not {given}"
                    )
                found.append((path, name, value))
    return found


def _inventory(learner: nn.Module) -> dict[str, Any]:
    """All that `_differences` compares and no blueprint could set: parts, shapes, what is trained, hooks."""
    found: dict[str, Any] = {}
    for path, module in learner.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[f"the part {path!r}"] = spelled(type(module)) + (f" with {hooks} hooks" if hooks else "")
    for name, parameter in learner.named_parameters():
        found[f"the weight {name!r}"] = (tuple(parameter.shape), parameter.dtype, parameter.requires_grad)
    kept = learner.state_dict()
    for name, buffer in learner.named_buffers():
        found[f"the buffer {name!r}"] = (tuple(buffer.shape), buffer.dtype, None if name in kept else buffer.tolist())
    return found


def _comparable(value: Any) -> Any:
    """A setting as it is; of what is none, all that tells it from another: a function's name, or its type."""
    if isinstance(value, (list, tuple)):
        return tuple(_comparable(part) for part in value)
    if value is None or isinstance(value, (bool, int, float, str, Setting)):
        return value
    return Named(spelled(value if hasattr(value, "__qualname__") and hasattr(value, "__module__") else type(value)))
