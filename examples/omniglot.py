"""One drawing a character: reading an alphabet that the learner has never seen, and saying what it is unsure about.

A Gaussian-process classifier with learned features is meta-trained on alphabets from Angelic to Tifinagh. Then it is given one
drawing of each character of Tengwar's first fifteen, and asked about other people's drawings of them; and about drawings of
characters that it was not shown, where all it can rightly say is that it does not know.

    python examples/omniglot.py  # three minutes or more on one core: prints a table, saves omniglot.png

It reads Omniglot from the folder `omniglot` in `$BAYESMETA_DATA`; `bm.tasks.Omniglot(download=True)` fetches it for you.

The picture: a row of the fifteen drawings that it was shown; below, those it is surest of and those it doubts most, each beside
the character that it takes them for, blue where that is right. Some that it was not shown look like one that it was.
"""

import numpy as np
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import bayesmeta as bm
from bayesmeta.tasks.omniglot import omniglot_folder

ALPHABET, KNOWN = "Tengwar", 15  # of 25 characters: the others are strangers
STEPS = 3000
SEED = 0


def drawings() -> torch.Tensor:
    """The alphabet's drawings, ``(characters, 20, 1, 28, 28)``, ink is 1."""
    with np.load(omniglot_folder() / "omniglot28.npz") as file:
        return torch.as_tensor(file["images"][file["alphabet"] == ALPHABET])[:, :, None] / 255


def trained(steps: int) -> bm.DKTClassifier:
    torch.manual_seed(SEED)
    network = bm.networks.Conv4(width=32)
    learner = bm.DKTClassifier(network.features, ScaleKernel(RBFKernel()), classes=KNOWN)
    tasks = bm.tasks.Omniglot(split="train", ways=KNOWN, shots=1, queries=3, batch=2)  # Tengwar is not among them
    bm.fit(learner, tasks, steps=steps, slices=2, threads=2)
    return learner


def picture(
    support: torch.Tensor, query: torch.Tensor, probs: torch.Tensor, y: torch.Tensor, doubt: torch.Tensor
) -> Figure:
    """The drawings it was shown; then the five that it was surest of and the five that it doubted most, of both kinds."""
    known = torch.arange(len(query)) < len(y)
    support, query = support.numpy(), query.numpy()
    rows = [("one drawing of each character", None)]
    for kind, name in ((known, "characters it was shown"), (~known, "characters it was not shown")):
        places = kind.nonzero()[:, 0]
        order = places[doubt[places].argsort()]
        rows += [(f"{name}: surest", order[:KNOWN:3]), (f"{name}: most in doubt", order[-KNOWN::3])]
    figure = plt.figure(figsize=(11, 6.6))
    parts = figure.subfigures(len(rows), 1)
    for part, (title, places) in zip(parts, rows, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=10, weight="bold")
        if places is None:
            for axis, image in zip(
                part.subplots(1, KNOWN, gridspec_kw={"top": 0.8, "bottom": 0.0}), support, strict=True
            ):
                axis.imshow(image[0], cmap="gray_r")
                axis.axis("off")
            continue
        for pair, i in zip(
            part.subplots(1, 15, gridspec_kw={"top": 0.6, "bottom": 0.0}).reshape(5, 3), places.tolist(), strict=True
        ):
            guess = int(probs[i].argmax())
            right = bool(known[i]) and guess == int(y[i])
            for axis, image, text in zip(
                pair, (query[i], support[guess]), ("drawn", f"{probs[i, guess]:.0%} this"), strict=False
            ):
                axis.imshow(image[0], cmap="gray_r")
                axis.set_title(text, fontsize=8, color="tab:blue" if right else "tab:red")
            for axis in pair:
                axis.axis("off")
    return figure


def main(steps: int = STEPS, path: str = "omniglot.png") -> dict[str, float]:
    """Prints and returns the accuracy on known characters, and how well doubt tells strangers."""
    learner = trained(steps)
    images = drawings()
    support = images[:KNOWN, 0]
    asked = images[:KNOWN, 1:].flatten(0, 1)
    strangers = images[KNOWN:].flatten(0, 1)
    y = torch.arange(KNOWN).repeat_interleave(19)
    query = torch.cat([asked, strangers])
    with torch.no_grad():
        posterior = learner(bm.points(support, torch.arange(KNOWN), classes=KNOWN))
        probs = posterior(query[None]).probs[0]  # type: ignore[attr-defined]
        total, _, epistemic = (part[0] for part in posterior.decompose(query[None]))
    right = probs[: len(y)].argmax(-1) == y
    sure = probs[: len(y)].amax(-1)
    stranger = torch.arange(len(query)) >= len(y)
    figures = {
        "accuracy on known characters": right.double().mean().item(),
        "mean confidence there": sure.double().mean().item(),
        "AUROC of doubt, its errors against its right answers": bm.metrics.auroc(total[: len(y)], ~right).item(),
        "AUROC of doubt about the function, strangers against known": bm.metrics.auroc(epistemic, stranger).item(),
    }
    for name, value in figures.items():
        print(f"{name:60s} {value:.3f}")
    picture(support, query, probs, y, epistemic).savefig(path, dpi=110)
    return figures


if __name__ == "__main__":
    main()
