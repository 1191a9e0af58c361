"""Alphabets one after the other: what a learner still knows of the first when it has met the last, and how sure it is.

A learner of class Gaussians is meta-trained on Omniglot's thirty background alphabets. Then it meets the other twenty, one after
the other: 10 drawings of each of their 659 characters, told once and never again. After each alphabet it is asked about further
drawings of all characters so far, among all of them. Beside it stands a learner on the same features that takes gradient steps
on what is new, as one would without anything better.

    python examples/alphabets.py  # two minutes or more on one core: prints a table, saves alphabets.png

It reads Omniglot from the folder `omniglot` in `$BAYESMETA_DATA`; `bm.tasks.Omniglot(download=True)` fetches it for you.

The picture: accuracy and NLL about all alphabets so far, where class Gaussians fall slowly and gradient steps at once; below,
what is still known of each alphabet after each further one, a square a learner, of which that of gradient steps is dark but for
its diagonal.
"""

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn

import bayesmeta as bm
from bayesmeta.evaluation import Retention, evaluate_stream
from bayesmeta.tasks.omniglot import omniglot_folder

SHOTS, QUERIES = 10, 5
STEPS = 1500
STREAMS = 3
RATE = 0.03  # of the gradient steps
SEED = 0


def alphabets() -> bm.tasks.ClassStreams:
    """Streams of the twenty alphabets in their order; people's drawings are drawn anew for each."""
    bm.tasks.Omniglot(split="evaluation")  # says what to do where the drawings are not there
    with np.load(omniglot_folder() / "omniglot28.npz") as file:
        there = file["split"] == 1
        images, names = file["images"][there], file["alphabet"][there]
    characters = np.arange(len(names))
    tasks = bm.tasks.ImageTasks(
        images.reshape(-1, 28, 28),
        characters.repeat(20),
        ways=len(names),
        shots=SHOTS,
        queries=QUERIES,
        batch=1,
        seed=SEED,
    )
    return bm.tasks.ClassStreams(tasks, classes=[characters[names == name].tolist() for name in np.unique(names)])


def features() -> nn.Module:
    """Three of Conv4's four blocks: 288 features of a drawing."""
    return nn.Sequential(*bm.networks.Conv4(width=32).features[:3], nn.Flatten())


def trained(steps: int, classes: int) -> dict[str, bm.Learner]:
    """The learners, with room for so many characters."""
    torch.manual_seed(SEED)
    gaussians = bm.GeMCL(features(), size=288, classes=60)
    bm.fit(gaussians, bm.tasks.Omniglot(split="background", ways=60, shots=2, queries=2, batch=1), steps=steps)
    gaussians.classes = classes
    return {"class Gaussians": gaussians, "gradient steps": gradient_steps(gaussians.features, classes)}


def gradient_steps(features: nn.Module, classes: int) -> bm.Learner:
    """A linear layer on the same features, zero at first, which takes fifty steps on whatever is new."""
    head = nn.Linear(288, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return bm.ANIL(features, head, bm.likelihoods.Categorical(), steps=50, rate=RATE)


def picture(kept: dict[str, Retention], tasks: bm.tasks.ClassStreams) -> Figure:
    figure, panes = plt.subplots(2, 2, figsize=(10.5, 8), layout="constrained")
    for name, each in kept.items():
        for metric, pane in zip(("Accuracy", "NLL"), panes[0], strict=True):
            bm.plots.retention(each, metric, label=name, ax=pane)
    characters = sum(len(part) for part in tasks.classes)  # type: ignore[union-attr, arg-type]
    panes[0, 1].axhline(np.log(characters), color="#777777", linewidth=1, linestyle=":")
    panes[0, 1].annotate("a guess among all", (1, np.log(characters)), fontsize=8, color="#777777", va="bottom")
    panes[0, 0].set_title("asked about all alphabets so far; thin: about the newest", fontsize=10)
    for (name, each), pane in zip(kept.items(), panes[1], strict=True):
        bm.plots.retention_matrix(each, "Accuracy", label=name, ax=pane)
    for pane in panes.flat:
        pane.set_xlabel(pane.get_xlabel().replace("part", "alphabet"))
        pane.set_ylabel(pane.get_ylabel().replace("part", "alphabet"))
    return figure


def main(steps: int = STEPS, streams: int = STREAMS, path: str = "alphabets.png") -> dict[str, Retention]:
    """Prints a table; returns what each learner kept."""
    source = alphabets()
    learners = trained(steps, classes=source.tasks.ways)
    kept = {
        name: evaluate_stream(learner, source, episodes=streams, together=False) for name, learner in learners.items()
    }
    print(f"{'':18s}{'at the end':>24s}{'NLL':>24s}{'ECE':>24s}{'accuracy lost since':>24s}")
    for name, each in kept.items():
        cells = [each.final["Accuracy"], each.final["NLL"], each.final["ECE"], each.forgetting["Accuracy"]]
        print(f"{name:18s}{''.join(f'{cell!s:>24s}' for cell in cells)}")
    picture(kept, source).savefig(path, dpi=90)
    return kept


if __name__ == "__main__":
    main()
