"""One task encoder, two learners: what a neural process has learned of sinusoids, VERSA need not learn again.

    python examples/shared_encoder.py  # a minute or more on one core: prints a table, saves shared_encoder.png

Both read a task's points with the same deep set on the same features. We train the neural process, then VERSA on top of its
encoder for a few steps, beside a VERSA that starts from nothing; and last both together, on the sum of their losses.

The picture: the NLL of each learner with its 95 % interval; VERSA on the process's encoder lies far below VERSA alone.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm

STEPS = 3000  # of the neural process
FEW = 300  # of VERSA
SEED = 0

tasks = bm.tasks.Sinusoids(noise=0.1, shots=(1, 10))
test = bm.tasks.Sinusoids(noise=0.1, shots=5, batch=100, seed=1)


def backbone() -> bm.encoders.Encoder:
    return bm.encoders.DeepSet(40, 1, features=bm.networks.MLP(1, 1, activation=nn.Tanh).features)


def neural_process(encoder: bm.encoders.Encoder) -> bm.Learner:
    return bm.NeuralProcess(
        encoder, bm.networks.MLP(40 + encoder.size + 16, 2), bm.likelihoods.HeteroscedasticGaussian()
    )


def versa(encoder: bm.encoders.Encoder) -> bm.Learner:
    return bm.VERSA(encoder, outputs=1, likelihood=bm.likelihoods.Gaussian())


class Together(bm.Learner):
    """Trains two learners on the sum of their losses; it answers as the first."""

    def __init__(self, first: bm.Learner, second: bm.Learner) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, support: bm.Points) -> bm.Posterior:
        return self.first(support)

    def loss(self, episode: bm.Episode) -> torch.Tensor:
        return self.first.loss(episode) + self.second.loss(episode)


def main() -> dict[str, dict[str, bm.metrics.Estimate]]:
    """Prints a table and gives what it printed."""
    rows = {}

    def add(name: str, learner: bm.Learner) -> None:
        rows[name] = bm.evaluate(learner, test, episodes=2)

    torch.manual_seed(SEED)
    encoder = backbone()
    process = neural_process(encoder)
    bm.fit(process, tasks, steps=STEPS, seed=SEED)
    add("neural process", process)

    second = versa(encoder)
    bm.fit(second, tasks, steps=FEW, seed=SEED)
    add("VERSA on its encoder, few steps", second)

    alone = versa(backbone())
    bm.fit(alone, tasks, steps=FEW, seed=SEED)
    add("VERSA alone, as few steps", alone)

    both = Together(process, second)
    bm.fit(both, tasks, steps=STEPS, seed=SEED)
    add("neural process, after both together", process)
    add("VERSA, after both together", second)

    print(bm.metrics.summary(rows))
    figure, pane = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for height, row in enumerate(reversed(rows.values())):
        pane.plot([row["NLL"].low, row["NLL"].high], [height, height], color="#0072b2", linewidth=2)
        pane.plot(row["NLL"].value, height, "o", color="#0072b2")
    pane.set_yticks(range(len(rows)), reversed(rows))
    pane.set(xlabel="NLL, nats")
    figure.savefig("shared_encoder.png", dpi=110)
    return rows


if __name__ == "__main__":
    main()
