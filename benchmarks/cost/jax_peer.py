"""Meta-updates beside the same ones in plain JAX (vmap, grad, jit, Adam), interleaved on a CPU, with the times to compile.

    python benchmarks/cost/jax_peer.py             # MAML on an MLP and on Conv4, DKT, CNP: some three minutes of a quiet machine
    python benchmarks/cost/jax_peer.py MLP DKT     # those whose names begin so
    python benchmarks/cost/jax_peer.py --table     # prints what is there

Needs `pip install jax`. All start from the same weights on the same episode, and losses are compared before anything is timed:
the Gaussian process in float64, all else in float32. A row's updates take turns, a few each in a row; medians are kept in
results/jax_peer.json, with the seconds of the first update, which compiles, and the milliseconds that the convolutions and
products of our update would take at the rate of a large matrix product in this run.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bayesmeta as bm
from benchmarks.cost.gpu_jax import conv4, cross_entropy, maml, mlp, squared, stepped
from benchmarks.cost.gpu_speed import settings
from benchmarks.cost.meta_step import fit_update, operations, product_rate
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "jax_peer.json"
ROUNDS, ROW = 15, 5
ROWS = {  # how gpu_speed.py names them
    "MLP": "MAML, MLP 40-40, 25 tasks, 5 steps",
    "Conv4": "MAML, Conv4-64, 8 tasks, 1 step",
    "DKT": "DKT, MLP 40-40, 20 tasks",
    "CNP": "CNP, 25 tasks",
}


def layers(network: torch.nn.Module, prefix: str = "") -> list[tuple[Any, ...]]:
    """Weights and biases, or kernels, scales and shifts, a tuple a layer that has any."""
    import jax

    found = []
    for part in network.modules():
        own = [jax.numpy.asarray(p.detach().numpy()) for p in part.parameters(recurse=False)]
        if own:
            found.append(tuple(own))
    return found


def normal(y: Any, mean: Any, scale: Any) -> Any:
    import jax

    return 0.5 * ((y - mean) / scale) ** 2 + jax.numpy.log(scale) + 0.5 * math.log(2 * math.pi)


def of_dkt(learner: Any) -> tuple[Any, Callable[..., Any]]:
    """-log p(y) / n of all points of a task, by Cholesky in float64, as `DKT` has it."""
    import jax

    np = jax.numpy
    kernel = learner.kernel
    raw = [
        kernel.raw_outputscale.item(),
        kernel.base_kernel.raw_lengthscale.item(),
        learner.likelihood.log_scale.item(),
    ]
    params = [layers(learner.features), np.asarray(raw, dtype=np.float32)]

    def task(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        network, numbers = params
        h, y = np.concatenate([x, query_x]), np.concatenate([y, query_y])[:, 0].astype(np.float64)
        for weight, bias in network:
            h = jax.nn.relu(h @ weight.T + bias)
        h, (output, length, noise) = h.astype(np.float64), numbers.astype(np.float64)
        z = h / jax.nn.softplus(length)
        squares = (z**2).sum(1)
        distance = np.maximum(squares[:, None] + squares - 2 * z @ z.T, 0.0)
        gram = jax.nn.softplus(output) * np.exp(-0.5 * distance) + (1e-4 + np.exp(noise)) ** 2 * np.eye(len(y))
        factor = np.linalg.cholesky(gram)
        white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return (0.5 * white @ white + np.log(np.diag(factor)).sum()) / len(y) + 0.5 * math.log(2 * math.pi)

    return params, task


def of_cnp(learner: Any) -> tuple[Any, Callable[..., Any]]:
    """The query's NLL of the decoder's means, as `ConditionalNeuralProcess` has it."""
    import jax

    np = jax.numpy
    encoder = learner.path.encoder
    params = [
        *(layers(part) for part in (encoder.point, encoder.task, learner.path.network)),
        np.asarray(encoder.prior.detach().numpy()),
        np.asarray(learner.likelihood.log_scale.detach().numpy()),
    ]

    def task(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        point, rho, decoder, prior, noise = params
        vectors = mlp(point, np.concatenate([x, y], 1))
        code = mlp(rho, (vectors.sum(0) + prior) / (len(x) + 1))
        given = np.concatenate([query_x, np.broadcast_to(code, (len(query_x), len(code)))], 1)
        return normal(query_y, mlp(decoder, given), 1e-4 + np.exp(noise)).sum(1).mean()

    return params, task


def of_maml(learner: bm.MAML, network: Any, criterion: Any, each: int = 2) -> tuple[Any, Callable[..., Any]]:
    """Of a network whose layers have so many tensors each: a convolution three with its scale and shift, a linear one two."""
    flat = [tensor for layer in layers(learner.network) for tensor in layer]
    params = [tuple(flat[at : at + each]) for at in range(0, len(flat), each)]
    return params, maml(network, criterion, learner.steps, float(learner.rate))


PEERS: dict[str, Callable[[Any], tuple[Any, Callable[..., Any]]]] = {
    "MLP": partial(of_maml, network=mlp, criterion=squared),
    "Conv4": partial(of_maml, network=conv4, criterion=cross_entropy, each=3),
    "DKT": of_dkt,
    "CNP": of_cnp,
}


def measured(name: str) -> dict[str, Any]:
    """Milliseconds an update of each, and seconds of its first."""
    import jax

    jax.config.update("jax_enable_x64", name == "DKT")
    make, draw = settings("cuda")[ROWS[name]]
    torch.manual_seed(0)
    learner, episode = make(), draw()
    params, task = PEERS[name](learner)
    data = [jax.numpy.asarray(t.numpy()) for t in (*episode.support[:2], *episode.query[:2])]

    def loss(params: Any, *data: Any) -> Any:
        if name == "Conv4":  # mapped, it takes nine times as long as task by task
            return sum(task(params, *one) for one in zip(*data, strict=True)) / len(data[0])
        return jax.vmap(task, (None, 0, 0, 0, 0))(params, *data).mean()

    ours = learner.loss(episode).item() - (0.5 * math.log(2 * math.pi) if name == "MLP" else 0.0)  # of the density
    theirs = float(jax.jit(loss)(params, *data))
    if not abs(theirs - ours) < 1e-3 * abs(ours):
        raise SystemExit(
            f"{name}: JAX computes another loss, {theirs:.6g}, than ours, {ours:.6g}: times would mean nothing"
        )
    updates = {
        "JAX": stepped(loss, params, data),
        "eager": fit_update(copy.deepcopy(learner), episode, slices=1, threads=1),
        "compiled": fit_update(copy.deepcopy(learner), episode, slices=1, threads=1, compile=True),
    }
    threads = torch.get_num_threads()
    if name == "Conv4" and threads > 1:
        updates[f"{threads} threads"] = fit_update(copy.deepcopy(learner), episode, slices=8, threads=threads)
    first: dict[str, float] = {}
    for way, update in updates.items():
        began = time.perf_counter()
        update()
        first[way] = time.perf_counter() - began
        update()
    times: dict[str, list[float]] = {way: [] for way in updates}
    rounds, row = (3, 1) if name == "Conv4" else (ROUNDS, ROW)
    for _ in range(rounds):
        for way, update in updates.items():
            for _ in range(row):
                began = time.perf_counter()
                update()
                times[way].append(1e3 * (time.perf_counter() - began))
    medians = {way: statistics.median(values) for way, values in times.items()}
    limit = operations(lambda: learner.loss(episode)) / 1e6 / product_rate()
    versions = {"jax": jax.__version__, "torch": torch.__version__, "threads": threads}
    return {"ms": medians, "first update s": first, "ms at the rate of a product": limit, **versions}


def table(results: dict[str, Any]) -> str:
    lines = [
        "| update | JAX ms | compiled ms | eager ms | other | JAX by compiled | JAX by the fastest | first s: JAX, compiled |"
    ]
    lines.append("|---" * 8 + "|")
    for name, row in results.items():
        ms, first = row["ms"], row["first update s"]
        other = ", ".join(f"{way} {value:.1f}" for way, value in ms.items() if way not in ("JAX", "compiled", "eager"))
        fastest = min(value for way, value in ms.items() if way != "JAX")
        lines.append(
            f"| {ROWS[name]} | {ms['JAX']:.2f} | {ms['compiled']:.2f} | {ms['eager']:.2f} | {other} | "
            f"{ms['JAX'] / ms['compiled']:.2f} | {ms['JAX'] / fastest:.2f} | {first['JAX']:.1f}, {first['compiled']:.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args(argv)
    for name in () if given.table else [name for name in ROWS if any(map(name.startswith, given.names))]:
        keep(RESULTS, name, measured(name))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
