"""Intervals that hold what they promise: conformal regions on a table of countries, whatever the learner.

Life expectancy of 142 countries, a country a task, of which three years are known. A Bayesian last layer with one noise for all
countries has the wrong shape: most countries are smoother than that, and some had wars. `Conformal` asks countries that were
held out by what factor the intervals must grow or shrink, so that a point of a new country is inside as often as promised.

    python examples/conformal.py  # ten seconds or so on one core: prints a table, saves conformal.png

The picture: left, the share of new countries' points inside against the share promised, which conformal intervals keep to and
the learner's own do not; right, one country's known years with both intervals.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm

STEPS, SEED, SHOTS = 800, 0, 3
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BLUE, ORANGE = bm.plots.axes.COLOURS[:2]


def countries(split: str, **options: object) -> bm.tasks.Longitudinal:
    return bm.tasks.Longitudinal("gapminder", split=split, fractions=(0.4, 0.3), shots=SHOTS, seed=SEED, **options)


def main(steps: int = STEPS, path: str = "conformal.png") -> dict[float, tuple[float, bm.metrics.Estimate]]:
    """Prints and returns what the learner's own and conformal intervals hold at each level."""
    train, validation, test = countries("train", batch=16), countries("validation"), countries("test")
    torch.manual_seed(SEED)
    network = bm.networks.MLP(1, 1, activation=nn.Tanh)
    learner = bm.Standardized.from_tasks(bm.ALPaCA(network.features, network.head, bm.likelihoods.Gaussian()), train)
    bm.fit(learner, train, steps=steps, seed=SEED)

    found = {}
    print("promised   its own            conformal")
    for level in LEVELS:
        own = bm.evaluate(learner, test, episodes=5, metrics=[bm.metrics.Coverage(level)])
        regions = bm.Conformal.from_tasks(learner, validation, level=level, episodes=5)
        found[level] = (next(iter(own.values())), regions.coverage(test, episodes=5))
        print(f"{level:8.0%}   {found[level][0]}   {found[level][1]}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    left.plot([0.45, 1], [0.45, 1], color="#777777", linestyle=":", label="kept")
    for place, name, colour in ((0, "its own", ORANGE), (1, "conformal", BLUE)):
        held = [found[level][place] for level in LEVELS]
        bars = [[h.value - h.low for h in held], [h.high - h.value for h in held]]
        left.errorbar(
            LEVELS, [h.value for h in held], bars, marker="o", markersize=4, capsize=2, color=colour, label=name
        )
    left.set(xlabel="promised", ylabel="held, by countries that are new")
    left.legend(frameon=False)
    known, asked = (bm.Points(*(leaf[:1] for leaf in points)) for points in test[0])
    years = torch.linspace(float(asked.x.min()), float(asked.x.max()), 100)
    with torch.no_grad():
        for factor, name, colour in ((1.645, "its own, 90 %", ORANGE), (None, "conformal, 90 %", BLUE)):
            regions = bm.Conformal.from_tasks(learner, validation, level=0.9, episodes=5)
            low, high = bm.Conformal(learner, factor or regions.threshold)(known).interval(years)
            right.plot(years, low[0, :, 0], color=colour, label=name)
            right.plot(years, high[0, :, 0], color=colour)
    for points, style, name in ((asked, "k+", "asked"), (known, "ko", "known")):
        right.plot(points.x[0, points.mask[0], 0], points.y[0, points.mask[0], 0], style, markersize=5, label=name)
    right.set(xlabel="year", ylabel="life expectancy", title=test.names[0])
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
