"""The same meta-updates in plain JAX (vmap, grad, jit, Adam), where a JAX with CUDA is importable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import bayesmeta as bm
from benchmarks.cost.gpu_speed import SECONDS, settings, timed

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs some of the card, too


def mlp(params: Any, x: Any) -> Any:
    import jax

    *hidden, (w, b) = params
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight.T + bias)
    return x @ w.T + b


def conv4(params: Any, x: Any) -> Any:
    """With batch statistics."""
    import jax
    from jax import lax

    *blocks, (w, b) = params
    for kernel, scale, shift in blocks:
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = (x - mean) * lax.rsqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]
        x = jax.nn.relu(x)
        size = x.shape[2] // 2 * 2
        x = x[:, :, :size, :size].reshape(*x.shape[:2], size // 2, 2, size // 2, 2).max((3, 5))
    return x.reshape(len(x), -1) @ w.T + b


def squared(outputs: Any, y: Any) -> Any:
    return 0.5 * ((outputs - y) ** 2).mean()


def cross_entropy(outputs: Any, y: Any) -> Any:
    import jax

    return -jax.nn.log_softmax(outputs)[jax.numpy.arange(len(y)), y].mean()


def maml(network: Any, criterion: Any, steps: int, rate: float) -> Callable[..., Any]:
    """The loss of a task after so many inner steps."""
    import jax

    def task(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        adapted = params
        for _ in range(steps):
            slopes = jax.grad(lambda p: criterion(network(p, x), y))(adapted)
            adapted = jax.tree.map(lambda p, g: p - rate * g, adapted, slopes)
        return criterion(network(adapted, query_x), query_y)

    return task


def stepped(loss: Callable[..., Any], params: Any, data: Sequence[Any]) -> Callable[[], None]:
    """A jitted update by Adam, each from where the last one led."""
    import jax

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, first: Any, second: Any, count: Any, *data: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(params, *data)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)
        m_scale, v_scale = 1 / (1 - 0.9**count), 1 / (1 - 0.999**count)
        params = jax.tree.map(
            lambda p, m, v: p - 1e-3 * m * m_scale / (jax.numpy.sqrt(v * v_scale) + 1e-8), params, first, second
        )
        return params, first, second, value

    params = jax.tree.map(jax.numpy.array, params)  # a copy: the step takes them over
    state: Any = (params, jax.tree.map(jax.numpy.zeros_like, params), jax.tree.map(jax.numpy.zeros_like, params))
    count = 0.0

    def call() -> None:
        nonlocal state, count
        count += 1
        *state, value = step(*state, count, *data)
        value.block_until_ready()

    return call


def update(name: str, precision: str, device: str) -> dict[str, Any]:
    """Milliseconds of the jitted update, with the loss beside that of our learner."""
    try:
        import jax
    except ImportError:
        return {"skipped": "no JAX"}
    platforms = {d.platform for d in jax.devices()}
    if device == "cuda" and "gpu" not in platforms:
        return {"skipped": f"JAX {jax.__version__} sees {', '.join(sorted(platforms))} alone"}
    make, draw = settings(device)[name]
    torch.manual_seed(0)
    learner, episode = make(), draw()
    assert isinstance(learner, bm.MAML)
    convolves = "Conv4" in name
    network, criterion = (conv4, cross_entropy) if convolves else (mlp, squared)
    weights = [jax.numpy.asarray(p.detach().numpy()) for p in learner.network.parameters()]
    sizes = [3, 3, 3, 3, 2] if convolves else [2, 2, 2]
    params, at = [], 0
    for size in sizes:
        params.append(tuple(weights[at : at + size]))
        at += size
    data = [jax.numpy.asarray(t.numpy()) for t in (*episode.support[:2], *episode.query[:2])]

    task = maml(network, criterion, learner.steps, float(learner.rate))

    def loss(params: Any, *data: Any) -> Any:
        return jax.vmap(task, (None, 0, 0, 0, 0))(params, *data).mean()

    with jax.default_matmul_precision(precision):
        ours = learner.loss(episode).item() - (0 if convolves else 0.5 * math.log(2 * math.pi))  # of the density
        theirs = float(jax.jit(loss)(params, *data))
        result = timed(stepped(loss, params, data), "cpu", SECONDS[device])
    result |= {"jax": jax.__version__, "loss": theirs, "loss, ours on the CPU": ours}
    if not abs(theirs - ours) < 0.02 * abs(ours):
        result["failed"] = f"another loss, {theirs:.4g}, than ours, {ours:.4g}: the times do not compare"
    return result


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    first, many, conv, more, *_ = settings(device)
    return {
        f"{name}; {precision}": partial(update, name, precision, device)
        for precision in ("highest", "default")
        for name in (first, many, conv, more)
    }
