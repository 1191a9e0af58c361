"""Learners of a kernel, built as documented, on vectors of 10, 100 and 1,000 features, beside the nearest centroid.

    python benchmarks/accuracy/kernel_starts.py          # ten minutes of one core
    python benchmarks/accuracy/kernel_starts.py --table  # prints what is there

40 classes of vectors x = 2 C[class] + noise, C and noise standard normal; 30 classes to learn from, 10 for the test. Classes: 5
ways, 1 shot, accuracy. Real targets: each of a task's 5 classes has a value of its own, N(0, 1), of which 3 points are known with
noise of 0.1; the score is R², the share of the variance explained. The nearest centroid knows which known points belong together;
the learners of real targets do not. Every finished run is kept in results/kernel_starts.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor, nn

import bayesmeta as bm
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "kernel_starts.json"
FEATURES = (10, 100, 1000)
WAYS, SHOTS, QUERIES, NOISE = 5, 3, 5, 0.1
STEPS = 200


def rbf() -> Kernel:
    return ScaleKernel(RBFKernel())


CLASSIFIERS: dict[str, Callable[[], bm.Learner]] = {
    "DKTClassifier": lambda: bm.DKTClassifier(nn.Flatten(), rbf(), classes=WAYS),
    "DKTClassifier, elbo": lambda: bm.DKTClassifier(nn.Flatten(), rbf(), classes=WAYS, objective=bm.ELBO()),
    "DKTClassifier, Matern": lambda: bm.DKTClassifier(nn.Flatten(), ScaleKernel(MaternKernel()), classes=WAYS),
    "DKTClassifier, RQ": lambda: bm.DKTClassifier(nn.Flatten(), ScaleKernel(RQKernel()), classes=WAYS),
    "LaplaceGP": lambda: bm.LaplaceGP(nn.Flatten(), rbf(), classes=WAYS),
    "PolyaGammaGP": lambda: bm.PolyaGammaGP(nn.Flatten(), rbf(), classes=WAYS),
}
REGRESSORS: dict[str, Callable[[int], bm.Learner]] = {
    "DKT": lambda _: bm.DKT(nn.Identity(), rbf(), bm.likelihoods.Gaussian()),
    "DKT, Matern": lambda _: bm.DKT(nn.Identity(), ScaleKernel(MaternKernel()), bm.likelihoods.Gaussian()),
    "ADKL": lambda inputs: bm.ADKL(
        bm.encoders.DeepSet(inputs, 1), bm.networks.MLP(inputs + 64, 40), rbf(), bm.likelihoods.Gaussian()
    ),
    "ADKF": lambda _: bm.ADKF(nn.Identity(), rbf(), bm.likelihoods.Gaussian()),
    "PACOH": lambda _: bm.PACOH(nn.Identity(), rbf(), bm.likelihoods.Gaussian(), tasks=8 * STEPS),
}


def vectors(features: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, features, generator=generator)
    labels = torch.arange(800) % 40
    return 2 * centres[labels] + torch.randn(800, features, generator=generator), labels


def classes(features: int, subset: range) -> bm.tasks.ImageTasks:
    x, y = vectors(features)
    return bm.tasks.ImageTasks(x[:, :, None, None], y, subset=subset, ways=WAYS, shots=1, queries=QUERIES, batch=8)


class Values(torch.utils.data.Dataset[bm.Episode]):
    """Tasks of 5 classes, each with a value of its own; points lie by class, the known ones first."""

    def __init__(self, features: int, subset: range) -> None:
        x, _ = vectors(features)
        self.x = x.unflatten(0, (20, 40)).transpose(0, 1)[list(subset)]  # (classes, 20, features)

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, i: int) -> bm.Episode:
        generator = torch.Generator().manual_seed(i)

        def task() -> tuple[Tensor, Tensor]:
            chosen = torch.randperm(len(self.x), generator=generator)[:WAYS]
            points = torch.stack([torch.randperm(20, generator=generator)[: SHOTS + QUERIES] for _ in chosen])
            value = torch.randn(WAYS, 1, 1, generator=generator)
            noise = NOISE * torch.randn(WAYS, SHOTS + QUERIES, 1, generator=generator)
            return self.x[chosen[:, None], points], value + noise

        x, y = (torch.stack(leaf) for leaf in zip(*[task() for _ in range(8)], strict=True))
        parts = [(leaf[:, :, :SHOTS].flatten(1, 2), leaf[:, :, SHOTS:].flatten(1, 2)) for leaf in (x, y)]
        made = [bm.Points(a, b, torch.ones(a.shape[:2], dtype=torch.bool)) for a, b in zip(*parts, strict=True)]
        return bm.Episode(*made)


def explained(predict: Callable[[bm.Episode], Tensor], tasks: Values) -> float:
    episodes = [tasks[900 + i] for i in range(20)]
    errors = torch.cat([(predict(one) - one.query.y).flatten() for one in episodes])
    return 1 - errors.square().mean().item() / torch.cat([one.query.y.flatten() for one in episodes]).var().item()


def nearest(episode: bm.Episode) -> Tensor:
    """The mean known value of the class whose centroid is nearest."""
    x, y = (leaf.unflatten(1, (WAYS, SHOTS)).mean(2) for leaf in episode.support[:2])
    chosen = torch.cdist(episode.query.x, x).argmin(-1)
    return y.gather(1, chosen[..., None])


def accuracy(learner: bm.Learner, features: int) -> float:
    return bm.evaluate(learner, classes(features, range(30, 40)), episodes=20)["Accuracy"].value


def run(name: str, features: int) -> float:
    torch.manual_seed(0)
    if name in CLASSIFIERS:
        learner = CLASSIFIERS[name]()
        bm.fit(learner, classes(features, range(30)), steps=STEPS, progress=False)
        return accuracy(learner, features)
    learner = REGRESSORS[name](features)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    bm.fit(learner, Values(features, range(30)), steps=STEPS, optimizer=optimizer, progress=False)
    with torch.no_grad():
        return explained(lambda one: learner(one.support)(one.query.x).mean, Values(features, range(30, 40)))


def centroid(kind: str, features: int) -> float:
    if kind == "accuracy":
        return accuracy(bm.PrototypicalNetwork(nn.Flatten(), classes=WAYS), features)
    return explained(nearest, Values(features, range(30, 40)))


def table(results: dict[str, float]) -> str:
    lines = []
    for kind, names in (("accuracy", CLASSIFIERS), ("R²", REGRESSORS)):
        lines += [f"| {kind} | " + " | ".join(f"{n:,} features" for n in FEATURES) + " |", "|---" * 4 + "|"]
        for name in (f"nearest centroid, {kind}", *names):
            cells = [f"{results[key]:.3f}" if (key := f"{name}; {n}") in results else "" for n in FEATURES]
            lines.append("| " + " | ".join([name.split(", ac")[0].split(", R²")[0], *cells]) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    if not parser.parse_args().table:
        torch.set_num_threads(1)
        for n in FEATURES:
            for kind in ("accuracy", "R²"):
                keep(RESULTS, f"nearest centroid, {kind}; {n}", centroid(kind, n))
            for name in (*CLASSIFIERS, *REGRESSORS):
                if f"{name}; {n}" not in load(RESULTS):
                    keep(RESULTS, f"{name}; {n}", run(name, n))
                    print(f"{name}; {n}", load(RESULTS)[f"{name}; {n}"], flush=True)
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
