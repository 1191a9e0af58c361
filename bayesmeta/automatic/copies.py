"""Copies of one learner, with weights of their own, trained and asked at once.

A step of a small learner costs what its few hundred operations cost to start, whatever their size: C copies in one batch take
little longer than one. `torch.func.vmap` maps over the copies; a Gaussian process, which it does not take, has each task's kernel
parameters instead (`GaussianProcess(parameters=...)`), those of the task's copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from bayesmeta.data import Episode, Points
from bayesmeta.functional import Params, call
from bayesmeta.gaussian_process import GaussianProcess
from bayesmeta.learner import Learner
from bayesmeta.likelihoods import nll, standard_deviation
from bayesmeta.methods import DKT
from bayesmeta.posteriors import Scaled
from bayesmeta.wrappers.own_scale import OwnScale, degrees

__all__ = ["Copies"]


class Copies:
    """C learners that differ in their weights alone.

    Args:
        learners: C of one class and shape; of Gaussian processes, ``OwnScale(DKT(...))`` with a `LinearMean`.
        build: makes another one: copied kernels would no longer share what gpytorch's own share, and could not be saved.

    Attributes:
        weights: of all copies, ``(C, P)``, a leaf that requires a gradient.
        single: which of the P are numbers with a meaning of their own, of noise, kernels and degrees of freedom, ``(P,)`` bool.
    """

    def __init__(self, learners: Sequence[Learner], build: Callable[[], Learner]) -> None:
        self.build, self.template = build, learners[0]
        self.shapes = {name: parameter.shape for name, parameter in self.template.named_parameters()}
        rows = [nn.utils.parameters_to_vector(learner.parameters()) for learner in learners]
        self.weights = torch.stack(rows).detach().requires_grad_()
        alone = {name: "raw_" in name or name.rpartition(".")[2] in ("log_scale", "log_df") for name in self.shapes}
        self.single = torch.cat([torch.full((size.numel(),), alone[name]) for name, size in self.shapes.items()])

    def state(self, weights: Tensor) -> Params:
        """Weights ``(C, P)`` by name, ``(C, ...)`` each."""
        parts = weights.split([size.numel() for size in self.shapes.values()], 1)
        return {
            name: part.reshape(len(weights), *size)
            for (name, size), part in zip(self.shapes.items(), parts, strict=True)
        }

    def learner(self, copy: int, weights: Tensor) -> Learner:
        """One of the copies by itself, with weights ``(C, P)``, in evaluation mode."""
        with torch.random.fork_rng([]):
            found = self.build()
        nn.utils.vector_to_parameters(weights[copy].detach().clone(), found.parameters())
        return found.eval()

    def nll(self, episode: Episode) -> Tensor:
        """Of each copy's own tasks, whose tensors are ``(C, B, ...)``: the query's NLL a point, ``(C, B)``."""
        state = self.state(self.weights)
        if isinstance(self.template, OwnScale) and isinstance(self.template.learner, DKT):
            return _nll_of_processes(self.template.learner, state, episode)
        asked = _Asked(self.template)
        found: Tensor = vmap(lambda own, given: call(asked, own, given))(
            {f"learner.{name}": value for name, value in state.items()}, episode
        )
        return found


class _Asked(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Episode) -> Tensor:
        return nll(self.learner(episode.support)(episode.query.x), episode.query)


def _nll_of_processes(process: DKT, state: Params, episode: Episode) -> Tensor:
    """The same of Student-t processes with a linear mean: C B tasks at once, each with the kernel of its copy."""
    copies, tasks = episode.query.mask.shape[:2]

    def of_tasks(value: Tensor) -> Tensor:
        return value.repeat_interleave(tasks, 0)

    def under(prefix: str) -> Params:
        start = f"learner.{prefix}."
        return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}

    def embedded(given: Points) -> tuple[Points, Tensor]:
        weights = under("features")
        h = given.x.flatten(1, 2)  # (C, B N, D)
        h = vmap(lambda own, x: call(process.features, own, x))(weights, h) if weights else h
        linear = under("mean")
        mean = h @ linear["weights"] + linear["bias"][:, None]  # (C, B N, 1)
        flat, shape = Points(*(leaf.flatten(0, 1) for leaf in given)), given.mask.shape
        mean = mean.reshape(copies * tasks, shape[2], 1)
        return Points(h.reshape(copies * tasks, shape[2], -1), flat.y - mean * flat.mask[..., None], flat.mask), mean

    (support, _), (query, _) = embedded(episode.support), embedded(episode.query)
    kernel = {name: of_tasks(value) for name, value in under("kernel").items()}
    noise = of_tasks(standard_deviation(state["learner.likelihood.log_scale"]))
    posterior = Scaled(
        GaussianProcess(process.kernel, None, noise, support, kernel),
        of_tasks(degrees(state["log_df"]))[:, None, None].double(),
        support,
    )
    return nll(posterior._predictive(query.x), query).unflatten(0, (copies, tasks))
