"""Six learners, two points: what each says of a function, and how much of its doubt more points would remove.

All are meta-trained on the same noisy sinusoids, of other heights and phases, and then told two points of a new one. `decompose`
divides the variance of a prediction: what the noise would leave if the function were known, and what is doubt about the function.

    python examples/bands.py  # three minutes or so on one core: prints a table, saves bands.png

The picture: a pane a learner, each with the two points, the 90 % band of what would be measured, the band of the function
within it, and single functions; below each, noise and doubt as standard deviations. MAML calls all that it does not know noise,
and so, nearly, do VERSA and the neural process. The doubt of ABML and DKT grows away from the points, and DKT's is nearly the
exact posterior's.
"""

import torch
from gpytorch.kernels import LinearKernel
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm
from bayesmeta.plots.axes import COLOURS

STEPS, SEED = 2000, 0
X, Y = [-3.2, 0.4], [1.6, -0.4]


def network(outputs: int = 1) -> bm.networks.MLP:
    return bm.networks.MLP(1, outputs, activation=nn.Tanh)


def learners() -> dict[str, bm.Learner]:
    gaussian, spread = bm.likelihoods.Gaussian, bm.likelihoods.HeteroscedasticGaussian
    return {
        "MAML": bm.MAML(network(), gaussian(), steps=5),
        "ABML": bm.ABML(network(), gaussian(), objective=bm.Predictive()),
        "attentive neural process": bm.NeuralProcess(bm.encoders.Attention(1, 1), bm.networks.MLP(81, 2), spread()),
        "VERSA": bm.VERSA(bm.encoders.DeepSet(40, 1, features=network().features), 1, gaussian()),
        "DKT": bm.DKT(network().features, LinearKernel(), gaussian()),
    }


def draw(posterior: bm.Posterior, name: str, above: plt.Axes, below: plt.Axes) -> None:
    x = torch.linspace(-5, 5, 200)
    bm.plots.bands(posterior, x, ax=above).set(title=name, xlabel="", ylim=(-6, 6))
    above.legend_.remove() if above.legend_ and name != "MAML" else None
    with torch.no_grad():
        _, noise, doubt = (part[0, :, 0].sqrt() for part in posterior.decompose(x))
    below.plot(x, noise, color=COLOURS[4], linestyle="--", label="noise")
    below.plot(x, doubt, color=COLOURS[2], label="doubt")
    below.set(ylim=(0, 3), xlabel="x")


def main(steps: int = STEPS, path: str = "bands.png") -> dict[str, dict[str, bm.metrics.Estimate]]:
    """Prints and returns how good each is on tasks of two points."""
    train = bm.tasks.Sinusoids(noise=0.1, shots=(1, 10))
    test = bm.tasks.Sinusoids(noise=0.1, shots=2, seed=1)
    torch.manual_seed(SEED)
    everyone = learners()
    for learner in everyone.values():
        bm.fit(learner, train, steps=steps, seed=SEED)
    asked = {**everyone, "exact posterior": test.oracle}
    figure, panes = plt.subplots(4, 3, figsize=(10, 8.5), sharex=True, height_ratios=(2, 1, 2, 1), layout="constrained")
    for place, (name, learner) in enumerate(asked.items()):
        row, column = divmod(place, 3)
        draw(learner(bm.points(X, Y)), name, panes[2 * row, column], panes[2 * row + 1, column])
    panes[1, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    rows = {name: bm.evaluate(learner, test, episodes=8) for name, learner in asked.items()}
    print(bm.metrics.summary(rows))
    return rows


if __name__ == "__main__":
    main()
