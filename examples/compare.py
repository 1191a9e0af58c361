"""Which learner can be trusted? MAML, ABML, a Bayesian last layer and an ensemble on noisy sinusoids, on one page.

    python examples/compare.py  # about four minutes on one core: writes compare.html and compare.png

Each is meta-trained on tasks of five points and then asked about new ones of which it knows two: fewer than it is used to,
which is where trust is lost. Beside them stands the exact Bayes answer, which no learner can beat. ABML is shown as it is,
and with a temperature fitted on validation tasks.

The picture: above, what MAML and a Bayesian last layer say of a sinusoid that they know by two points; MAML's band is as wide
at these as far from them. Below, calibration curves of three learners around the diagonal, and a histogram of ABML's ranks,
high at both ends.
"""

from __future__ import annotations

import torch
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm

STEPS, EPISODES = 1500, 20


def network() -> bm.networks.MLP:
    return bm.networks.MLP(1, 1, activation=nn.Tanh)


def alpaca() -> bm.Learner:
    body = network()
    return bm.ALPaCA(body.features, body.head, bm.likelihoods.Gaussian())


def draw(learners: dict[str, bm.Learner], calibrated: bm.Learner, test: bm.tasks.Sinusoids) -> None:
    figure, panes = plt.subplots(2, 2, figsize=(9.5, 7), layout="constrained")
    support = bm.points([-2.0, 1.0], [2.1, -2.0])
    for pane, name in zip(panes[0], ("MAML", "ALPaCA"), strict=True):
        x = torch.linspace(-5, 5, 200)
        bm.plots.bands(learners[name](support), x, ax=pane).set(title=name, ylim=(-6, 6))
    shown = {"ABML": learners["ABML"], "ABML, calibrated": calibrated, "ALPaCA": learners["ALPaCA"]}
    for name, learner in shown.items():
        bm.plots.calibration(learner, test, episodes=EPISODES, label=name, ax=panes[1, 0])
    bm.plots.pit(learners["ABML"], test, episodes=EPISODES, label="ABML", ax=panes[1, 1])
    figure.savefig("compare.png", dpi=110)


def main() -> bm.report.Comparison:
    torch.manual_seed(0)
    train = bm.tasks.Sinusoids(noise=0.1, shots=5)
    validation, test = (bm.tasks.Sinusoids(noise=0.1, shots=2, seed=seed) for seed in (1, 2))
    learners: dict[str, bm.Learner] = {
        "MAML": bm.MAML(network(), bm.likelihoods.Gaussian(), steps=5),
        "ensemble of 3 MAMLs": bm.Ensemble([bm.MAML(network(), bm.likelihoods.Gaussian(), steps=2) for _ in range(3)]),
        "ABML": bm.ABML(network(), bm.likelihoods.Gaussian()),
        "ALPaCA": alpaca(),
    }
    for name, learner in learners.items():
        print(name)
        bm.fit(learner, train, steps=STEPS)
    calibrated = bm.Calibrated.from_tasks(learners["ABML"], validation, episodes=EPISODES)
    print(f"\nABML's standard deviations should be {calibrated.temperature:.2f} times what they are.\n")

    everything = {**learners, "ABML, calibrated": calibrated, "exact": test.oracle}
    found = bm.compare(everything, test, episodes=EPISODES, page="compare.html", progress=False)
    print(found)
    draw(learners, calibrated, test)
    print("\nwrote compare.html and compare.png")
    return found


if __name__ == "__main__":
    main()
