"""CUDA graphs: of compiled updates (what ``mode="reduce-overhead"`` switches on), and captured from the eager loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import bayesmeta as bm
from bayesmeta.training.gradient import MetaGradient
from benchmarks.cost.gpu_speed import SECONDS, settings, timed


def prepared(name: str, device: str) -> tuple[bm.Learner, bm.Episode]:
    make, draw = settings(device)[name]
    torch.manual_seed(0)
    learner = make().to(device)
    learner.strategy = "vmap"
    return learner, bm.move(draw(), learner)


def flat(slopes: Any) -> torch.Tensor:
    return torch.cat([slope.flatten() for slope in slopes if slope is not None])


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def trees(name: str, device: str) -> dict[str, Any]:
    """Gradients of `fit(compile=True)` as replayed graphs: after updates in between they must be the eager ones."""
    from torch._inductor import config

    learner, episode = prepared(name, device)
    twin = copy.deepcopy(learner)
    said: list[str] = []
    with config.patch({"triton.cudagraphs": True}):
        ours, eager = (
            MetaGradient(each, list(each.parameters()), 1, 1, say=said.append, compile=compiled)
            for each, compiled in ((learner, True), (twin, False))
        )
        optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
        for _ in range(4):  # recorded at the second call, replayed then
            for parameter, slope in zip(ours.parameters, ours(episode)[1], strict=True):
                parameter.grad = slope
            optimizer.step()
        twin.load_state_dict(learner.state_dict())
        loss, slopes = ours(episode)
        expected_loss, expected = eager(episode)
        result = timed(lambda: ours(episode), device, SECONDS[device])
    result["loss, relative error"] = error(loss, expected_loss)
    result["gradient, relative error"] = error(flat(slopes), flat(expected))
    if not result["gradient, relative error"] < 1e-2:
        result["failed"] = "another gradient than the eager one"
    return result | ({"said": said} if said else {})


def captured(name: str, device: str) -> dict[str, Any]:
    """The eager loss and its gradient as one graph, which costs no launches: what is left is the card's own time."""
    learner, episode = prepared(name, device)
    parameters = list(learner.parameters())

    def step() -> tuple[torch.Tensor, ...]:
        loss = learner.loss(episode)
        return (loss.detach(), *torch.autograd.grad(loss, parameters))

    if device == "cpu":
        step()
        return {"skipped": "graphs are a card's"}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.01)
    result = timed(graph.replay, device, SECONDS[device])
    result["gradient, relative error"] = error(flat(outputs[1:]), flat(step()[1:]))
    return result


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    first, many, conv, _, resnet, dkt, cnp, *_, group = settings(device)
    return {
        **{
            f"{name}; captured": partial(captured, name, device)
            for name in (first, many, group, conv, resnet, dkt, cnp)
        },
        **{f"{name}; compiled": partial(trees, name, device) for name in (first, cnp, group, many)},
    }
