"""Few-shot pose regression from images: from some views of a new object with their angles, the angle of any other view.

    python benchmarks/accuracy/pose.py            # all of it; about 25 minutes on two cores
    python benchmarks/accuracy/pose.py --table    # prints what is there, draws docs/pose.png

COIL-20 shows 20 objects on a turntable, 72 views each (Nene, Nayar & Murase 1996; ``coil20_pose/coil20_32.npz`` in the folder
BAYESMETA_DATA). A task is an object and a zero of the angle, drawn at random, so that no absolute angle can be learned; the
target is (sin, cos). Six objects look nearly the same from the front and the back (two cars, two boxes, a mushroom, a machine: a
view half a turn away differs from a view less than three times as much as the next one, 5 degrees away). An image tells
little of which side it shows, and a trustworthy learner says so: it stays uncertain. The bowl, the pot and the bottle,
which one would call symmetric, are not so for a camera: shading and prints turn with them. The objects are cut into 4 folds; a
learner is trained on three, with images also mirrored (which is another object, turning the other way), shifted and scaled in
brightness, and tested on the fourth. Finished runs are kept in results/pose.json.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import ConstantKernel, LinearKernel, RBFKernel, ScaleKernel
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.gaussian_process.kernels import ConstantKernel as Constant
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayesmeta as bm
from bayesmeta.metrics import bootstrap
from bayesmeta.tasks.source import TaskSource
from benchmarks.store import keep, load

RESULTS = Path(__file__).parents[1] / "results" / "pose.json"
PICTURE = Path(__file__).parents[2] / "docs" / "pose.png"
FOLDS, SHOTS, OFFSETS, WIDTH = 4, (5, 10, 20), 20, 16
METRICS: list[bm.metrics.Metric] = [bm.metrics.NLL(), bm.metrics.RMSE(), bm.metrics.Coverage(0.9)]


def images() -> Tensor:
    """Views ``(20, 72, 32, 32)`` in [0, 1], one each 5 degrees."""
    path = Path(os.environ.get("BAYESMETA_DATA", ".")) / "coil20_pose" / "coil20_32.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected the views of COIL-20; set BAYESMETA_DATA to the folder of the packs")
    return torch.from_numpy(np.load(path)["images"]).float() / 255


def symmetric() -> set[int]:
    """The objects whose views half a turn apart are alike, in mean square difference of pixels."""
    views = images().flatten(2)

    def apart(steps: int) -> Tensor:
        return (views - views.roll(steps, 1)).square().mean((1, 2))

    return set((apart(36) < 3 * apart(1)).nonzero().flatten().tolist())


class Pose(TaskSource):
    """Objects with a random zero of the angle: views ``(B, N, 1, 32, 32)`` to (sin, cos) ``(B, N, 2)``.

    Args:
        views: all objects' images.
        objects: B of them are drawn, without replacement; all, in order, if batch is None.
        augment: whether to mirror, shift and brighten.
    """

    def __init__(
        self, views: Tensor, objects: list[int], shots: int | tuple[int, int], batch: int | None, augment: bool
    ) -> None:
        super().__init__(seed=0, length=1_000_000)
        self.views, self.objects, self.shots, self.batch, self.augment = views, objects, shots, batch, augment

    def draw(self, generator: torch.Generator) -> bm.Episode:
        order = torch.randperm(len(self.objects), generator=generator)[: self.batch]
        chosen = torch.tensor(self.objects)[order] if self.batch else torch.tensor(self.objects)
        count = len(chosen)
        x = self.views[chosen][:, :, None]  # (B, 72, 1, 32, 32)
        angle = torch.arange(72) * (2 * math.pi / 72) + 2 * math.pi * torch.rand(count, 1, generator=generator)
        if self.augment:
            mirrored = torch.rand(count, generator=generator) < 0.5
            x = torch.where(mirrored[:, None, None, None, None], x.flip(-1), x)
            angle = torch.where(mirrored[:, None], -angle, angle)
            x = x * (0.7 + 0.6 * torch.rand(count, 1, 1, 1, 1, generator=generator))
            rows, columns = torch.randint(-2, 3, (2,), generator=generator).tolist()
            x = x.roll((rows, columns), (-2, -1))
        low, high = (self.shots, self.shots) if isinstance(self.shots, int) else self.shots
        shots = torch.randint(low, high + 1, (count,), generator=generator)
        everything = bm.Points(x, torch.stack([angle.sin(), angle.cos()], -1), torch.ones(count, 72, dtype=torch.bool))
        return bm.data.split(everything, shots, 24 if self.augment else None, generator)


def body() -> tuple[bm.networks.Conv4, int]:
    network = bm.networks.Conv4(1, 4, width=WIDTH, image_size=32)
    return network, network.head.in_features


def dense() -> tuple[nn.Sequential, int]:
    """Convolutions, then 32 smooth features: a kernel's lengthscale means more in few dimensions."""
    network, width = body()
    return nn.Sequential(network.features, nn.Linear(width, 32), nn.Tanh()), 32


def dkt_rbf() -> bm.Learner:
    return bm.DKT(dense()[0], ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian())


def dkt_linear() -> bm.Learner:
    features, width = dense()
    return bm.DKT(features, LinearKernel(ard_num_dims=width) + ConstantKernel(), bm.likelihoods.Gaussian())


def adkf() -> bm.Learner:
    return bm.ADKF(dense()[0], ScaleKernel(RBFKernel()), bm.likelihoods.Gaussian())


def neural_process() -> bm.Learner:
    features, width = dense()
    encoder = bm.encoders.Attention(width, 2, 64, features=features)
    return bm.ConditionalNeuralProcess(
        encoder, bm.networks.MLP(width + 64, 4), bm.likelihoods.HeteroscedasticGaussian()
    )


def maml() -> bm.Learner:
    return bm.MAML(body()[0], bm.likelihoods.HeteroscedasticGaussian(), steps=3, rate=0.05)


# The learner, and its meta-updates: about three minutes of one core.
LEARNERS: dict[str, tuple[Callable[[], bm.Learner], int]] = {
    "DKT, RBF": (dkt_rbf, 600),
    "DKT, linear": (dkt_linear, 600),
    "ADKF": (adkf, 400),
    "TNP": (neural_process, 600),
    "MAML": (maml, 200),
}


def per_task(support: bm.Points) -> Callable[[Tensor], Distribution]:
    """A scikit-learn Gaussian process on the pixels of each task by itself."""
    fitted = []
    for x, y, mask in zip(*support, strict=True):
        kernel = Constant(1.0, (1e-2, 1e1)) * RBF(5.0, (1e-1, 1e2)) + WhiteKernel(0.1, (1e-4, 1e1))
        fitted.append(GaussianProcessRegressor(kernel).fit(x[mask].flatten(1).numpy(), y[mask].numpy()))

    def predict(x: Tensor) -> Distribution:
        rows = [
            model.predict(views.flatten(1).numpy(), return_std=True) for model, views in zip(fitted, x, strict=True)
        ]
        mean, scale = (torch.from_numpy(np.stack(part)).float() for part in zip(*rows, strict=True))
        return torch.distributions.Independent(Normal(mean, scale), 1)

    return predict


def nothing(support: bm.Points) -> Callable[[Tensor], Distribution]:
    """What one knows without looking: an angle is anywhere."""
    return lambda x: torch.distributions.Independent(
        Normal(torch.zeros(*x.shape[:2], 2), torch.full((*x.shape[:2], 2), 0.5**0.5)), 1
    )


BASELINES: dict[str, Callable[[bm.Points], Callable[[Tensor], Distribution]]] = {
    "GP per task": per_task,
    "any angle": nothing,
}
NAMES = [*LEARNERS, *BASELINES]


def run(name: str, fold: int) -> dict[str, Any]:
    views, began = images(), time.perf_counter()
    tested = list(range(fold, 20, FOLDS))
    predictor: Any = BASELINES.get(name)
    if name in LEARNERS:
        torch.manual_seed(fold)
        build, steps = LEARNERS[name]
        predictor = build()
        optimizer = Adam(predictor.parameters(), 2e-3)
        trained = [item for item in range(20) if item not in tested]
        bm.fit(
            predictor,
            Pose(views, trained, (3, 20), 6, augment=True),
            steps=steps,
            optimizer=optimizer,
            scheduler=CosineAnnealingLR(optimizer, steps),
            seed=fold,
        )
    seconds = time.perf_counter() - began
    rows: dict[str, Any] = {}
    for shots in SHOTS:
        tasks = Pose(views, tested, shots, None, augment=False)
        for offset in range(OFFSETS):
            support, query = tasks[offset]
            with torch.no_grad():
                predictive = predictor(support)(query.x)
            for metric in METRICS:
                found = rows.setdefault(str(shots), {}).setdefault(metric.name, torch.zeros(len(tested), 2))
                found += metric.statistic(predictive, query)
            spread = predictive.stddev.mean((1, 2))
            found = rows[str(shots)].setdefault("spread", torch.zeros(len(tested)))
            found += spread / OFFSETS
    rows = {shots: {metric: value.tolist() for metric, value in row.items()} for shots, row in rows.items()}
    return {"seconds": seconds, "objects": tested, "rows": rows}


def collect(results: dict[str, Any], name: str, shots: int, metric: str) -> tuple[Tensor, Tensor]:
    """Rows of all objects, and which of them are symmetric."""
    runs = [results[f"{name}; {fold}"] for fold in range(FOLDS)]
    rows = torch.cat([torch.tensor(row["rows"][str(shots)][metric]) for row in runs])
    alike = symmetric()
    return rows, torch.tensor([item in alike for row in runs for item in row["objects"]])


def table(results: dict[str, Any]) -> str:
    lines = []
    done = [name for name in NAMES if all(f"{name}; {fold}" in results for fold in range(FOLDS))]
    for shots in SHOTS:
        lines += [f"\n### {shots} views of a new object\n"]
        lines += [
            "| | NLL | RMSE | 90% coverage | NLL, front like back | its coverage | spread | spread, front like back |"
        ]
        lines += ["|---" * 8 + "|"]
        for name in done:
            cells = []
            for same, metrics in ((False, METRICS), (True, [METRICS[0], METRICS[2]])):
                for metric in metrics:
                    rows, symmetric = collect(results, name, shots, metric.name)
                    cells.append(str(bootstrap(metric, rows[symmetric == same])))
            spread, symmetric = collect(results, name, shots, "spread")
            cells += [f"{spread[~symmetric].mean():.2f}", f"{spread[symmetric].mean():.2f}"]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    times = {name: np.mean([results[f"{name}; {fold}"]["seconds"] for fold in range(FOLDS)]) for name in done}
    lines.append("\nSeconds to train: " + ", ".join(f"{name} {value:.0f}" for name, value in times.items()))
    if done:
        draw(results, done)
    return "\n".join(lines)


def draw(results: dict[str, Any], names: list[str]) -> None:
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, len(names), figsize=(2.3 * len(names), 3.2), sharex=True, sharey=True)
    for pane, name in zip(panes, names, strict=True):
        spread, symmetric = collect(results, name, 20, "spread")
        squares, _ = collect(results, name, 20, "RMSE")
        error = (squares[:, 0] / squares[:, 1]).sqrt()
        pane.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        for chosen, colour, label in ((~symmetric, "#0072b2", "others"), (symmetric, "#d55e00", "front like back")):
            pane.scatter(spread[chosen], error[chosen], s=28, color=colour, alpha=0.75, label=label, linewidths=0)
        pane.set(title=name, xlim=(0, 1), ylim=(0, 1))
        pane.spines[["top", "right"]].set_visible(False)
    panes[0].set_ylabel("error of an object (RMSE)")
    figure.supxlabel("stated spread (mean standard deviation), 20 views known", fontsize=10)
    panes[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    for name in [] if arguments.table else arguments.learners:
        for fold in range(FOLDS):
            key = f"{name}; {fold}"
            if key not in load(RESULTS):
                keep(RESULTS, key, run(name, fold))
    print(table(load(RESULTS)))


if __name__ == "__main__":
    main()
