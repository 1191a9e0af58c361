"""Few-shot growth curves: forecasting a pig's weight from three to five weighings, with honest uncertainty.

Each pig is a task. We meta-train on some pigs, then meet others of which we know 3 to 5 points, and ask for the rest.
Beside the meta-learners stand what one would use otherwise: a Gaussian process per pig, which knows nothing of the
other pigs, and a regression pooled over all pigs, which knows nothing of this one.

    python examples/growth_curves.py  # a few minutes on one core: prints a table, saves growth_curves.png

The picture: the weights of three pigs by week, each known by three weighings, with 90 % bands of three learners. Nearly all
weighings that were asked for lie in them; ALPaCA's bands widen away from those that are known.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from matplotlib import pyplot as plt
from pyro.distributions import Normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

import bayesmeta as bm

FAMILY = "dietox"  # 72 pigs, weight in kg by week; "chickweight" and "oxboys" work as well
FRACTIONS = (0.5, 0.1)  # of pigs to train on and to validate on; the rest are tested
STEPS = 1000
SHOTS = (3, 5)
EPISODES = 5  # divisions of each test pig's points into known and asked for
SEED = 0

train = bm.tasks.Longitudinal(FAMILY, split="train", fractions=FRACTIONS, batch=16, shots=SHOTS, seed=SEED)


def network() -> bm.networks.MLP:
    return bm.networks.MLP(1, 1, hidden=(40, 40), activation=torch.nn.Tanh)


LEARNERS: dict[str, Callable[[], bm.Learner]] = {
    "MAML": lambda: bm.MAML(network(), bm.likelihoods.Gaussian(), steps=5, rate=0.05),
    "Meta-SGD": lambda: bm.MetaSGD(network(), bm.likelihoods.Gaussian(), steps=3, rate=0.05),
    "Reptile": lambda: bm.Reptile(network(), bm.likelihoods.Gaussian(), steps=8, rate=0.05),
    "ALPaCA": lambda: bm.ALPaCA((body := network()).features, body.head, bm.likelihoods.Gaussian()),
    "ABML": lambda: bm.ABML(network(), bm.likelihoods.Gaussian()),
    "PLATIPUS": lambda: bm.PLATIPUS(network(), bm.likelihoods.Gaussian()),
    "Attentive NP": lambda: bm.NeuralProcess(
        bm.encoders.Attention(1, 1), bm.networks.MLP(81, 2), bm.likelihoods.HeteroscedasticGaussian()
    ),
    "CNP": lambda: bm.ConditionalNeuralProcess(
        bm.encoders.DeepSet(1, 1), bm.networks.MLP(65, 2), bm.likelihoods.HeteroscedasticGaussian()
    ),
    "VERSA": lambda: bm.VERSA(bm.encoders.DeepSet(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
    "LEO": lambda: bm.LEO(bm.encoders.Relation(40, 1, features=network().features), 1, bm.likelihoods.Gaussian()),
    "BMAML": lambda: bm.BMAML(network(), bm.likelihoods.Gaussian()),
}
PICTURED = ("MAML", "ALPaCA", "ABML")


def gaussian_process(support: bm.Points) -> Callable[[torch.Tensor], Normal]:
    """A scikit-learn Gaussian process for each pig by itself, its hyperparameters fitted to the pig's own points."""
    processes = []
    for x, y, mask in zip(*support, strict=True):
        kernel = ConstantKernel() * RBF(3.0, (0.5, 30.0)) + WhiteKernel(0.1, (1e-4, 1.0))
        process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, normalize_y=True, random_state=SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # three points leave the optimiser at its bounds
            processes.append(process.fit(x[mask].numpy(), y[mask].numpy().ravel()))

    def predict(x: torch.Tensor) -> Normal:
        rows = [process.predict(row.numpy(), return_std=True) for process, row in zip(processes, x, strict=True)]
        return normal(np.stack([mean for mean, _ in rows]), np.stack([scale for _, scale in rows]))

    return predict


def pooled_regression(support: bm.Points) -> Callable[[torch.Tensor], Normal]:
    """One cubic curve through all training pigs, with the spread of the pigs around it."""
    x, y = train.points.x[train.points.mask].numpy(), train.points.y[train.points.mask].numpy()
    curve = make_pipeline(PolynomialFeatures(3), LinearRegression()).fit(x, y)
    spread = np.std(y - curve.predict(x))

    def predict(x: torch.Tensor) -> Normal:
        mean = curve.predict(x.reshape(-1, 1).numpy()).reshape(x.shape[:2])
        return normal(mean, np.full_like(mean, spread))

    return predict


def normal(mean: np.ndarray, scale: np.ndarray) -> Normal:
    """Means and standard deviations (B, M) as predictions of one target."""
    return Normal(torch.as_tensor(mean).float()[..., None], torch.as_tensor(scale).float()[..., None]).to_event(1)


def picture(learners: dict[str, bm.Learner], path: str) -> None:
    """The predictive bands of three unseen pigs, each known by three points."""
    test = bm.tasks.Longitudinal(FAMILY, split="test", fractions=FRACTIONS, shots=3, seed=SEED + 1)
    episode = bm.Episode(*(bm.Points(*(leaf[:3] for leaf in points)) for points in test[0]))
    x = torch.linspace(1, 12, 100)[:, None].expand(3, 100, 1)
    figure, axes = plt.subplots(
        len(learners), 3, figsize=(10, 2.6 * len(learners)), sharex=True, sharey=True, squeeze=False
    )
    for row, (name, learner) in zip(axes, learners.items(), strict=True):
        with torch.no_grad():
            predictive = learner(episode.support)(x)
        low, middle, high = (bm.distributions.quantile(predictive, p)[..., 0] for p in (0.05, 0.5, 0.95))
        for pig, ax in enumerate(row):
            ax.fill_between(x[pig, :, 0], low[pig], high[pig], color="#56b4e9", alpha=0.4, lw=0, label="90 % band")
            ax.plot(x[pig, :, 0], middle[pig], color="#0072b2", label="median")
            for points, style in ((episode.support, "ko"), (episode.query, "k+")):
                mask = points.mask[pig]
                label = "known" if points is episode.support else "asked for"
                ax.plot(points.x[pig, mask, 0], points.y[pig, mask, 0], style, ms=5, label=label)
            ax.set_title(f"{name}, pig {test.names[pig]}", fontsize=10)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("week")
    figure.supylabel("weight (kg)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> dict[int, dict[str, dict[str, bm.metrics.Estimate]]]:
    """Prints a table for each number of shots and gives what it printed: shots, learner, metric."""
    learners = {}
    for name, make in LEARNERS.items():
        torch.manual_seed(SEED)
        learners[name] = bm.Standardized.from_tasks(make(), train)
        print(f"meta-training {name} on {len(train.names)} pigs", flush=True)
        bm.fit(learners[name], train, steps=STEPS, seed=SEED)
    tables = {}
    for shots in SHOTS:
        test = bm.tasks.Longitudinal(FAMILY, split="test", fractions=FRACTIONS, shots=shots, seed=SEED)
        everyone = {**learners, "GP per pig": gaussian_process, "pooled regression": pooled_regression}
        rows = {name: bm.evaluate(learner, test, episodes=EPISODES) for name, learner in everyone.items()}
        tables[shots] = rows
        print(
            f"\n{len(test.names)} unseen pigs, {shots} points each known (NLL in nats, RMSE in kg; 95 % intervals over pigs)"
        )
        print(bm.metrics.summary(rows))
    picture({name: learners[name] for name in PICTURED}, "growth_curves.png")
    print("\nsaved growth_curves.png")
    return tables


if __name__ == "__main__":
    main()
