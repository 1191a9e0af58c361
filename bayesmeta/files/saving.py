"""Learners and posteriors in files: weights, settings, and the support of a posterior."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bayesmeta.border import check
from bayesmeta.border.checks import check_shapes
from bayesmeta.data import Points
from bayesmeta.files.blueprint import blueprint, build
from bayesmeta.files.posterior_state import posterior_state, restored
from bayesmeta.files.storage import check_target, read, write
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded

__all__ = ["check_state", "load", "save", "unusable"]


def save(
    learner: nn.Module,
    path: str | os.PathLike[str],
    *,
    support: Points | None = None,
    posterior: Posterior | None = None,
) -> None:
    """Saves a learner, or what it made of a support, atomically: weights, settings, the library's version, and a checksum.

    A posterior is a learner and a support, or a learner and what it knows of the tasks, as after updates, when there are no
    points left: the file then holds both, and `load` gives the same answers, bit by bit. It may be told further points.

    Args:
        learner: any learner, wrapped or not.
        path: of the file, whose folder exists. A file there is replaced and its mode kept; a link is refused.
        support: of B tasks, to keep the posterior ``learner(support)``. x is a tensor, or dicts, lists and tuples of tensors.
        posterior: of this learner as it is now, in the place of a support: as it is, updated or not.

    Raises:
        TypeError: the learner is none.
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder or the file may not be written.
        ValueError: the path is a folder or a link; a weight is NaN or infinite; the learner, or one within it, is kept by
            pickle alone (`baselines.Boosting`); the support is not one, or its x holds what a file that never runs code cannot;
            the posterior is of another learner, or this one was trained since.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/child.bayesmeta"
        >>> save(MAML(MLP(1, 1), Gaussian()), path, support=points([2.0, 3.5], [87.1, 99.0]))
        >>> load(path)([8.0]).mean.shape
        torch.Size([1, 1, 1])
    """
    check_target(path)
    if not isinstance(learner, nn.Module):
        got = learner if isinstance(learner, type) else type(learner).__name__
        raise TypeError(
            f"learner: expected a learner such as MAML(...), got {got}; a posterior is saved beside its learner, "
            "save(learner, path, posterior=posterior), or as the support that taught it, support=..."
        )
    for name, part in learner.named_modules():
        if getattr(part, "only_pickled", False):
            raise ValueError(
                f"learner: expected weights and settings, got {type(part).__name__}{name and f' ({name})'}, which holds "
                "objects that a file that never runs code cannot; keep it by pickle, pickle.dump(learner, file), and load only "
                "pickles that you trust"
            )
    state = learner.state_dict()
    if (name := unusable(learner, state)) is not None:
        raise ValueError(
            f"learner: expected finite weights, got NaN or infinity in {name!r}; train it anew, or go back to a checkpoint or an "
            "older file"
        )
    described = {"kind": "learner", "type": type(learner).__name__, "version": version("bayesmeta")}
    given = known = None
    if posterior is not None:
        if not isinstance(posterior, Posterior) or support is not None:
            raise ValueError(
                f"posterior: expected what learner(support) gave, and no support, got {type(posterior).__name__} and "
                f"{type(support).__name__}; pass one of the two"
            )
        known = posterior_state(posterior)
        support = Points(*tree_map(lambda leaf: torch.zeros_like(leaf[:, :1]), tuple(posterior.support)))
    if support is not None:
        check_shapes(support, "support")
        _check_plain(support.x)
        given = tree_map(
            lambda leaf: leaf.detach().cpu().clone(), tuple(support)
        )  # a view would keep all it is a view of
    if posterior is not None and known is not None and support is not None:
        _check_own(learner, posterior, known, support)
    write(
        Path(path),
        {**described, "settings": blueprint(learner), "state": state, "support": given, "posterior": known},
    )


def _check_own(learner: nn.Module, posterior: Posterior, known: Mapping[str, Any], support: Points) -> None:
    """Raises a ValueError where the learner, with what is known of the tasks, does not answer as the posterior does."""
    x = tree_map(lambda leaf: torch.full_like(leaf, 0.5 if leaf.is_floating_point() else 0), support.x)
    with torch.no_grad():
        try:
            with seeded(0):
                again = restored(learner(support), known, "posterior")
            found, expected = (_answers(asked, x, support.y) for asked in (again, posterior))
        except RuntimeError as error:  # shapes or types
            raise ValueError(
                f"posterior: expected one of this learner as it is now, got one that does not fit it ({error}); save it with the "
                "learner that made it"
            ) from error
    if not torch.allclose(found, expected, rtol=1e-5, atol=1e-6):
        raise ValueError(
            "posterior: expected one of this learner as it is now, got one that answers otherwise; save it with the learner that "
            "made it, before that is trained further"
        )


def _answers(posterior: Posterior, x: Any, y: Tensor) -> Tensor:
    with seeded(0):
        predictive: Any = posterior(x)
        log_prob: Tensor = predictive.log_prob(y)
    return log_prob


def load(path: str | os.PathLike[str], learner: nn.Module | None = None) -> Any:
    """Loads what `save` saved: a learner, or the posterior that it made of a support.

    A file is enough where the learner is made of the library's own parts, of common layers of ``torch.nn``, and of kernels, means
    and priors of gpytorch: it says by which classes of these and with which arguments to build it. Where it holds others, such as
    a network of yours, or was changed since it was built, build it the same way and pass it too. No file ever runs code.

    Args:
        path: of the file.
        learner: to load the weights into, built with the same arguments as the one that was saved; it is unchanged where an error
            is raised. Its settings, such as ``steps`` and ``rate``, are its own. A new one by the file's settings if None.

    Returns:
        The learner, if the file was saved without a support: the one that was passed, or a new one, on the CPU and in evaluation
        mode. Else the posterior, of a learner of its own. From a support it adapts again; where adaptation draws random numbers
        (`ABML`, `PACOHNN`), seed torch's generator before it as before the first time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, changed, foreign, or of a learner of another type, other names, other shapes or another
            floating type; a weight in it is NaN or infinite; or it has not all of the settings and no learner was passed.

    Example:
        >>> learner = load("maml.bayesmeta")  # doctest: +SKIP
        >>> load("own.bayesmeta", MAML(MyNetwork(), Gaussian()))  # doctest: +SKIP
    """
    content = read(Path(path), "learner", "type", "version", "settings", "state")
    source = f"{path} (by version {content['version']})"
    given = content.get("support")
    if learner is None:
        target = _built(content, source)
    elif content["type"] != type(learner).__name__:
        raise ValueError(
            f"{path}: expected a saved {type(learner).__name__}, got a {content['type']}; pass one of those, or none"
        )
    else:
        target = learner if given is None else deepcopy(learner)  # that a support does not fit is known at the end
    check_state(target, content["state"], source)
    target.load_state_dict(content["state"])
    if given is None:
        return target
    points = _as_points(given, path)
    if (known := content.get("posterior")) is None:
        posterior = target(points)
    else:
        with seeded(0):  # what is drawn is replaced
            posterior = restored(target(points), known, source)
    if learner is not None:
        learner.load_state_dict(content["state"])
    return posterior


def _built(content: Mapping[str, Any], source: str) -> nn.Module:
    """A learner of a file's settings."""
    remedy = "build the learner as it was built when it was saved, and pass it: load(path, learner)"
    settings = content["settings"]
    if isinstance(settings, str):
        raise ValueError(f"{source}: expected a learner that its file alone can give back, got {settings}; {remedy}")
    try:
        return build(settings)
    except ValueError as error:
        raise ValueError(f"{source}: expected settings of a {content['type']}, got {error}; {remedy}") from error


def check_state(learner: nn.Module, state: Any, source: str) -> None:
    """Raises a ValueError where a state is not one of this learner, or holds weights that are not finite.

    Args:
        learner: that the state is for.
        state: what a file holds in the place of ``learner.state_dict()``.
        source: the file, for messages.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{source}: expected weights by name, got {type(state).__name__}; save the learner again")
    mine = learner.state_dict()
    wanted, found = _shapes(mine), _shapes(state)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{source}: expected {name!r} of shape {wanted.get(name, 'none')}, got {found.get(name, 'none')}; build the "
                "learner with the arguments of the one that was saved"
            )
    for name, value in mine.items():
        if isinstance(value, Tensor) and value.dtype != state[name].dtype:
            raise ValueError(
                f"{source}: expected {name!r} in {value.dtype}, as the learner has it, got {state[name].dtype}; convert the "
                f"learner first, learner.to({state[name].dtype}), and back after it is loaded if need be"
            )
    if (broken := unusable(learner, state)) is not None:
        raise ValueError(
            f"{source}: expected finite weights, got NaN or infinity in {broken!r}; go back to an older file"
        )


def unusable(learner: nn.Module, state: Mapping[str, Any]) -> str | None:
    """The first name of a state's parameters that are not finite, or of its buffers that hold NaN: those may be infinite."""
    parameters = {name for name, _ in learner.named_parameters(remove_duplicate=False)}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.layout == torch.strided:
            wrong = ~torch.isfinite(value) if name in parameters else torch.isnan(value)
            if wrong.any():
                return name
    return None


def _as_points(given: Any, path: str | os.PathLike[str]) -> Points:
    """What a file holds as a support, checked."""
    if not isinstance(given, tuple) or len(given) != 3 or not all(isinstance(t, Tensor) for t in tree_leaves(given)):
        raise ValueError(f"{path}: expected a support's x, y and mask, got something else; save the posterior again")
    support = Points(*given)
    check(support, f"{path}: support")
    return support


def _check_plain(x: Any) -> None:
    """Raises a ValueError where x holds anything but tensors in dicts, lists and tuples."""
    if type(x) in (dict, list, tuple):
        for part in x.values() if isinstance(x, dict) else x:
            _check_plain(part)
    elif not isinstance(x, Tensor):
        raise ValueError(
            f"support.x: expected tensors in dicts, lists and tuples, got {type(x).__name__}, which a file that never runs code "
            "cannot hold; make a dict of it"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each tensor in a state, and what it is if it is no usual one."""
    return {
        name: list(value.shape) if isinstance(value, Tensor) and value.layout == torch.strided else type(value).__name__
        for name, value in state.items()
    }
