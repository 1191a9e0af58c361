"""Each learner on the card in float32 and under bfloat16 autocast, against the CPU in float64, from the same random numbers."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor

import bayesmeta as bm

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import test_contract as contract
from same_draws import SameDraws

S = 6
CLOSE = {"loss": 1e-3, "gradient": 1e-2, "log_prob": 1e-3, "decompose": 1e-2, "fit": 1e-2}
"""The largest relative difference to float64."""
BFLOAT = 0.1


def seeded(function: Callable[[], Any]) -> Any:
    with SameDraws():
        return function()


def difference(ours: Tensor, exact: Tensor) -> float:
    """‖ours - exact‖ / ‖exact‖."""
    exact = exact.detach().double().cpu()
    return float((ours.detach().double().cpu() - exact).norm() / exact.norm().clamp(min=1e-6))


class Checks:
    """Checks one after the other: what each found, and what is wrong with it."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.wrong: dict[str, str] = {}

    def __call__(self, name: str, check: Callable[[], Any]) -> None:
        try:
            value = check()
        except Exception as error:
            lines = " ".join(str(error).split())[:300]
            self.wrong[name] = f"{type(error).__name__}: {lines}"
            return
        if value is not None:
            self.found[name] = value
            bound = BFLOAT if name.startswith("bfloat16") else CLOSE.get(name, 1e-5)
            if not value <= bound:
                self.wrong[name] = f"{value:.2g} > {bound:g}"

    def result(self) -> dict[str, Any]:
        return {**self.found, "wrong": self.wrong}


def gradient(learner: bm.Learner, loss: Tensor) -> Tensor:
    slopes = torch.autograd.grad(loss, list(learner.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def check_learner(
    make: Callable[[torch.dtype], bm.Learner], draw: Callable[[torch.dtype], bm.Episode], device: str
) -> dict[str, Any]:
    """Everything that a user does with a learner."""
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = False  # convolutions of 10 bits, torch's default, are no float32
    checks = Checks()
    exact, given = make(torch.float64), draw(torch.float64)
    ours, here = make(torch.float32).to(device), draw(torch.float32)
    there = bm.move(here, ours)
    support, query = there

    def on_device(*tensors: Tensor) -> None:
        for tensor in tensors:
            expect(tensor.device.type == device, f"a tensor on {tensor.device}")
            expect(bool(tensor.isfinite().all()), "a tensor that is not finite")

    exact_loss = seeded(lambda: exact.loss(given))
    slope = gradient(exact, exact_loss)
    exact_log_prob = seeded(lambda: exact(given.support)(given.query.x).log_prob(given.query.y))

    checks("loss", lambda: difference(seeded(lambda: ours.loss(there)), exact_loss))
    checks("gradient", lambda: difference(gradient(ours, seeded(lambda: ours.loss(there))), slope))
    # the points on the CPU, as a user has them: support and inputs are moved
    checks(
        "log_prob",
        lambda: difference(seeded(lambda: ours(here.support)(here.query.x).log_prob(query.y)), exact_log_prob),
    )

    def draws() -> None:
        posterior = ours(support)
        predictive, functions = posterior(query.x), posterior.draws(query.x, S)
        expect(functions.batch_shape == (S, *predictive.batch_shape), f"draws of shape {tuple(functions.batch_shape)}")
        on_device(predictive.sample(), functions.sample(), functions.log_prob(query.y), predictive.log_prob(query.y))

    checks("draws", draws)

    def decompose() -> float:
        parts = seeded(lambda: ours(support).decompose(here.query.x))
        on_device(*parts)
        expected = seeded(lambda: exact(given.support).decompose(given.query.x))
        return difference(torch.stack(parts), torch.stack(expected))

    checks("decompose", decompose)

    def files() -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "learner"
            bm.save(ours, path, support=support)
            other = make(torch.float32)
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.add_(0.01)
            on_cpu, on_card = (
                seeded(lambda to=to: bm.load(path, other.to(to))(query.x).log_prob(query.y.to(to)))  # type: ignore[misc]
                for to in ("cpu", device)
            )
        on_device(on_card)
        expect(on_cpu.device.type == "cpu", "a learner of the CPU that answers elsewhere")
        expected = seeded(lambda: ours(support)(query.x).log_prob(query.y))
        expect(difference(on_cpu, expected) <= CLOSE["log_prob"], "another answer on the CPU")
        return difference(on_card, expected)

    checks("save and load", files)

    def evaluate() -> None:
        scores = bm.evaluate(ours, [here], episodes=1)  # type: ignore[arg-type]
        expect(all(torch.isfinite(torch.tensor(score.value)) for score in scores.values()), f"{scores}")

    checks("evaluate", evaluate)

    def low(quantity: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return seeded(quantity)

    checks("bfloat16 loss", lambda: difference(low(lambda: ours.loss(there)), exact_loss))
    checks("bfloat16 gradient finite", lambda: on_device(gradient(ours, low(lambda: ours.loss(there)))))
    checks(
        "bfloat16 log_prob",
        lambda: difference(low(lambda: ours(support)(query.x).log_prob(query.y)), exact_log_prob),
    )

    def fit() -> float:
        def losses(learner: bm.Learner, episode: bm.Episode) -> torch.Tensor:
            tasks: Any = [episode] * 3
            return torch.tensor(seeded(lambda: bm.fit(learner, tasks, steps=3, seed=5, progress=False)).losses)

        expected = losses(exact, given)
        found = losses(ours, here)
        on_device(*ours.parameters())
        return difference(found, expected)

    checks("fit", fit)
    return checks.result()


def check_wrappers(name: str, likelihood: str, device: str) -> dict[str, Any]:
    """Wrappers built around a learner that is on the card already, from tasks that are on the CPU."""
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = False  # convolutions of 10 bits, torch's default, are no float32
    checks = Checks()
    episode = contract.episode(likelihood, torch.float32)
    tasks: Any = [episode] * 3
    make: dict[str, Callable[[bm.Learner], Any]] = {
        "Standardized": lambda learner: bm.Standardized.from_tasks(learner, tasks),
        "Calibrated": lambda learner: bm.Calibrated.from_tasks(learner, tasks, episodes=3),
        "Ensemble": lambda learner: bm.Ensemble([learner, learner]),
        "Calibrated(Standardized)": lambda learner: bm.Calibrated.from_tasks(
            bm.Standardized.from_tasks(learner, tasks), tasks, episodes=3
        ),
        "Conformal": lambda learner: bm.Conformal.from_tasks(learner, tasks, level=0.5, episodes=3),
        "Conformal(Calibrated(Ensemble))": lambda learner: bm.Conformal.from_tasks(
            bm.Calibrated.from_tasks(bm.Ensemble([learner, learner]), tasks, episodes=3), tasks, level=0.5, episodes=3
        ),
    }

    def wrapped(wrapper: str) -> None:
        learner = make[wrapper](contract.build(name, likelihood, torch.float32).to(device))
        posterior = learner(episode.support)
        if isinstance(learner, bm.Conformal):
            found = (
                posterior.classes(episode.query.x) if likelihood == "classes" else posterior.interval(episode.query.x)
            )
            answers = [found] if isinstance(found, Tensor) else list(found)
            learner.coverage(tasks, episodes=1)
        else:
            answers = [posterior(episode.query.x).log_prob(episode.query.y.to(device))]
            answers += posterior.decompose(episode.query.x, 8)
            bm.fit(learner, tasks, steps=2, progress=False)
            answers += learner.parameters()
        for answer in answers:
            expect(answer.device.type == device, f"a tensor on {answer.device}")
            expect(bool(answer.isfinite().all()), "a tensor that is not finite")

    for wrapper in make:
        checks(wrapper, partial(wrapped, wrapper))
    return checks.result()


def pictures(dtype: torch.dtype) -> bm.Episode:
    numbers = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat(2, 2)
    support, query = (
        bm.Points(torch.rand(2, 6, 1, 28, 28, generator=numbers).to(dtype), labels, torch.ones(2, 6, dtype=torch.bool))
        for _ in range(2)
    )
    return bm.Episode(support, query)


def convolutional(name: str, dtype: torch.dtype) -> bm.Learner:
    torch.manual_seed(1)
    norm = bm.networks.BatchNorm if "batch" in name else bm.networks.GroupNorm
    network = bm.networks.Conv4(outputs=3, width=16, norm=norm)
    if name.startswith("PrototypicalNetwork"):
        return bm.PrototypicalNetwork(network.features, classes=3).to(dtype)
    if name.startswith("LaplaceGP"):
        return bm.LaplaceGP(network.features, ScaleKernel(RBFKernel()), classes=3).to(dtype)
    learner = bm.MAML(network, bm.likelihoods.Categorical(), steps=2, rate=0.1)
    learner.strategy = "loop" if "loop" in name else "vmap"
    return learner.to(dtype)


def entries(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """The learners' first likelihoods, what is built on the card, convolutions, then the other likelihoods."""
    cases = [case.values for case in contract.CASES]
    first = dict(reversed(cases))
    every = {
        f"{name}, {likelihood}": partial(
            check_learner, partial(contract.build, name, likelihood), partial(contract.episode, likelihood), device
        )
        for name, likelihood in sorted(cases, key=lambda case: first[case[0]] != case[1])
    }
    pictured = (
        "MAML, Conv4 batch norm, vmap",
        "MAML, Conv4 batch norm, loop",
        "MAML, Conv4 group norm, vmap",
        "MAML, Conv4 group norm, loop",
        "PrototypicalNetwork, Conv4",
        "LaplaceGP, Conv4",
    )
    wrappers = {
        f"wrappers on the card: {name}, {likelihood}": partial(check_wrappers, name, likelihood, device)
        for name, likelihood in (("MAML", "gaussian"), ("ABML", "classes"), ("DKT", "gaussian"))
    }
    return {
        **wrappers,
        **{name: partial(check_learner, partial(convolutional, name), pictures, device) for name in pictured},
        **every,
    }
