"""Times one meta-update (forward, backward, optimiser) of second-order MAML against `higher` and `torchopt`.

    python benchmarks/cost/meta_step.py                 # sinusoids, MLP 40-40, eager
    python benchmarks/cost/meta_step.py --compile       # beside it, with torch.compile (the first call takes a minute)
    python benchmarks/cost/meta_step.py --network conv4 # Omniglot shapes, Conv4-64 with batch statistics

All run in one process from the same weights on the same episode, interleaved round by round; a round takes a few updates of each
in a row, as training does. Medians are printed, and kept in results/ratios.json. Before anything is timed, the meta-gradients are
compared in float64.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta.training.gradient import MetaGradient, assign
from benchmarks.store import keep

RESULTS = Path(__file__).parents[1] / "results" / "ratios.json"
STEPS, RATE = 5, 0.01
ROUNDS = {"mlp": (10, 10), "conv4": (10, 3)}  # and the updates in a row of each


def sinusoid(dtype: torch.dtype) -> tuple[bm.MAML, nn.Module, bm.Episode, Callable[[Tensor, Tensor], Tensor]]:
    """Our learner, the same network in plain torch, 25 tasks of 10 + 10 points, the loss."""
    episode = bm.tasks.Sinusoids(batch=25, shots=10, queries=10)[0]
    learner = bm.MAML(bm.networks.MLP(1, 1), UnitGaussian(), steps=STEPS, rate=RATE).to(dtype)
    plain = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)).to(dtype)
    return learner, plain, episode, lambda outputs, y: 0.5 * F.mse_loss(outputs, y)


def conv4(dtype: torch.dtype) -> tuple[bm.MAML, nn.Module, bm.Episode, Callable[[Tensor, Tensor], Tensor]]:
    """The same for 8 tasks of 5-way 1-shot with 15 queries a class, 28 x 28 pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat(8, 1)
    support, query = (
        bm.Points(
            torch.rand(8, 5 * n, 1, 28, 28, generator=generator),
            labels.repeat(1, n),
            torch.ones(8, 5 * n, dtype=torch.bool),
        )
        for n in (1, 15)
    )
    network = bm.networks.Conv4(outputs=5, norm=bm.networks.BatchNorm)
    learner = bm.MAML(network, bm.likelihoods.Categorical(), steps=1, rate=0.4).to(dtype)
    layers: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(channels, 64, 3, padding=1, bias=False), norm, nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)).to(dtype)
    return learner, plain, bm.Episode(support, query), F.cross_entropy


class UnitGaussian(bm.likelihoods.Likelihood):
    """Half the squared error, as a likelihood: so that our outer loss is the others' and not one with a learned noise."""

    def forward(self, outputs: Tensor) -> torch.distributions.Distribution:
        from pyro.distributions import Normal

        return Normal(outputs, torch.ones_like(outputs), validate_args=False).to_event(1)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (outputs - y).square().sum(-1)


def with_higher(
    network: nn.Module, episode: bm.Episode, loss: Callable[..., Tensor], steps: int, rate: float
) -> Tensor:
    """The meta-loss the way `higher` documents it: a patched copy of the module a task."""
    import higher

    inner = torch.optim.SGD(network.parameters(), lr=rate)
    losses = []
    for task in range(len(episode.query.y)):
        with higher.innerloop_ctx(network, inner, copy_initial_weights=False, track_higher_grads=True) as (
            model,
            optimizer,
        ):
            for _ in range(steps):
                optimizer.step(loss(model(episode.support.x[task]), episode.support.y[task]))
            losses.append(loss(model(episode.query.x[task]), episode.query.y[task]))
    return torch.stack(losses).mean()


def with_torchopt(
    network: nn.Module, episode: bm.Episode, loss: Callable[..., Tensor], steps: int, rate: float
) -> Tensor:
    """The meta-loss the way `torchopt` documents it: a differentiable optimiser, reset between tasks."""
    import torchopt

    inner = torchopt.MetaSGD(network, lr=rate)
    start = torchopt.extract_state_dict(network, by="reference")
    start_inner = torchopt.extract_state_dict(inner, by="reference")
    losses = []
    for task in range(len(episode.query.y)):
        for _ in range(steps):
            inner.step(loss(network(episode.support.x[task]), episode.support.y[task]))
        losses.append(loss(network(episode.query.x[task]), episode.query.y[task]))
        torchopt.recover_state_dict(network, start)
        torchopt.recover_state_dict(inner, start_inner)
    return torch.stack(losses).mean()


def contenders(
    setting: Callable[..., tuple[bm.MAML, nn.Module, bm.Episode, Callable[..., Tensor]]], dtype: torch.dtype
) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """Each contender's module and its meta-loss, all from the same weights on the same episode."""
    learner, plain, episode, loss = setting(dtype)
    plain.load_state_dict(dict(zip(plain.state_dict(), learner.network.state_dict().values(), strict=True)))
    episode = bm.move(episode, learner)
    higher_net, torchopt_net = plain, copy.deepcopy(plain)
    return {
        "bayesmeta": (learner, lambda: learner.loss(episode)),
        "higher": (higher_net, lambda: with_higher(higher_net, episode, loss, learner.steps, learner.rate)),
        "torchopt": (torchopt_net, lambda: with_torchopt(torchopt_net, episode, loss, learner.steps, learner.rate)),
    }


def compare_gradients(setting: Callable[..., object]) -> None:
    """Stops with an error unless all contenders give the same meta-gradient in float64."""
    gradients = {}
    for name, (module, loss) in contenders(setting, torch.float64).items():  # type: ignore[arg-type]
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients[name] = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), parameters)])
    reference = gradients["bayesmeta"]
    for name, gradient in gradients.items():
        error = ((gradient - reference).norm() / reference.norm()).item()
        print(f"meta-gradient of {name}: relative difference {error:.1e}")
        if error > 1e-8:
            raise SystemExit(f"{name} computes another meta-gradient: a timing would mean nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "conv4"], default="mlp")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # of the other libraries
    setting = {"mlp": sinusoid, "conv4": conv4}[arguments.network]
    rounds, row = ROUNDS[arguments.network]

    torch.manual_seed(0)
    compare_gradients(setting)
    entries = contenders(setting, torch.float32)
    updates: dict[str, Callable[[], None]] = {}
    learner, episode = entries["bayesmeta"][0], setting(torch.float32)[2]
    assert isinstance(learner, bm.Learner)
    if arguments.compile:
        updates["bayesmeta, compiled"] = fit_update(copy.deepcopy(learner), episode, slices=1, threads=1, compile=True)
    if arguments.network == "conv4":
        updates["bayesmeta, 2 threads"] = fit_update(copy.deepcopy(learner), episode, slices=8, threads=2)
    for name, (module, loss) in entries.items():
        updates[name] = make_update(loss, torch.optim.Adam(module.parameters(), lr=1e-3, fused=True))
    times: dict[str, list[float]] = {name: [] for name in updates}
    for name, update in updates.items():
        start = time.perf_counter()
        for _ in range(3):
            update()
        print(f"{name}: first three updates took {time.perf_counter() - start:.1f} s")
    for _ in range(rounds):
        for name, update in updates.items():
            for _ in range(row):
                start = time.perf_counter()
                update()
                times[name].append(time.perf_counter() - start)

    rate = product_rate()
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    fastest = min(medians["higher"], medians["torchopt"])
    print(
        f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {rounds} rounds"
    )
    for name, median in medians.items():
        print(f"{name:<22}{median:10.2f} ms   {fastest / median:6.2f} x the faster of higher and torchopt")
    work = operations(entries["bayesmeta"][1]) / 1e6
    shares = {name: work / median / rate for name, median in medians.items() if name.startswith("bayesmeta")}
    for name, share in shares.items():
        print(f"{name}: {share:.0%} of the rate of a matrix product in this run, {rate:.0f} GFLOP/s")
    keep(RESULTS, arguments.network, {"ms": medians, "share of a matrix product's rate": shares})


def operations(loss: Callable[[], Tensor]) -> int:
    """The floating-point operations of convolutions and matrix products in a loss and its gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def product_rate() -> float:
    """GFLOP/s of a product of two 2,000 x 2,000 matrices, the median of 9."""
    a, times = torch.rand(2000, 2000), []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 16 / statistics.median(times[1:])


def fit_update(learner: bm.Learner, episode: bm.Episode, **settings: Any) -> Callable[[], None]:
    """The update that ``fit(..., slices=, threads=, compile=)`` makes, with the optimiser that it makes."""
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3, fused=True)
    meta_gradient = MetaGradient(learner, list(learner.parameters()), **settings)

    def update() -> None:
        assign(meta_gradient(episode)[1], meta_gradient.parameters)
        optimizer.step()

    return update


def make_update(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def update() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return update


if __name__ == "__main__":
    main()
