"""A support desk: five new intents with five examples each, and messages that may be of none of them.

Class Gaussians learn, on the embeddings of a frozen network, how far apart messages of one intent are, and how far intents, from
49 intents of CLINC150. Then they are told five that they have never met, by five messages each, and read what comes in: of these
intents, or out of scope.

    python examples/intents.py  # seconds on one core: prints some messages and a table, saves intents.png

It reads the folders `clinc150` and `text_embeddings` in `$BAYESMETA_DATA`. With messages of your own, embed them by any frozen
encoder, and give `bm.tasks.ClassTasks(embeddings, labels, ...)` the numbers: of each text a row.

The picture: how many messages have which probability of being none of the five; those that are of one crowd at 0, others at 1.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn

import bayesmeta as bm
from bayesmeta.metrics import AURC, ECE, NLL, Accuracy, Inside, Outside, OutsideAUROC

NEW = ["freeze_account", "flight_status", "lost_luggage", "book_hotel", "pay_bill"]
SHOTS = 5
STEPS = 200
SEED = 0
COLOURS = bm.plots.axes.COLOURS[:2]


def trained(intents: bm.tasks.LabelledTexts, known: list[str], steps: int) -> bm.Learner:
    """Class Gaussians of five classes and a sixth label, none of these, which one query in six has."""
    learner = bm.GeMCL(nn.Identity(), size=384, classes=6, isotropic=True)
    tasks = bm.tasks.ClassTasks(
        intents.embeddings, intents.labels, subset=known, ways=5, shots=SHOTS, queries=5, outside=5, batch=8
    )
    bm.fit(learner, tasks, steps=steps, optimizer=torch.optim.Adam(learner.parameters(), lr=0.02))
    return learner


def desk(intents: bm.tasks.LabelledTexts) -> tuple[bm.Points, torch.Tensor, torch.Tensor, list[str]]:
    """What the desk is told, and what comes in: embeddings, labels and texts."""
    generator = torch.Generator().manual_seed(SEED)
    known = intents.take("train")
    told = []
    for name in NEW:
        places = torch.tensor([i for i, label in enumerate(known.labels) if label == name])
        told.append(places[torch.randperm(len(places), generator=generator)[:SHOTS]])
    support = bm.points(known.embeddings[torch.cat(told)], torch.arange(5).repeat_interleave(SHOTS), classes=6)
    coming = intents.take("test", "oos_test")
    chosen = [i for i, label in enumerate(coming.labels) if label in NEW]
    strange = [i for i, label in enumerate(coming.labels) if label == "oos"]
    chosen += [strange[i] for i in torch.randperm(len(strange), generator=generator)[: len(chosen) // 5]]
    labels = torch.tensor([NEW.index(coming.labels[i]) if coming.labels[i] in NEW else 5 for i in chosen])
    return support, coming.embeddings[chosen], labels, [coming.texts[i] for i in chosen]


def main(steps: int = STEPS) -> dict[str, bm.metrics.Estimate]:
    """Prints and returns how well messages are read."""
    intents = bm.tasks.clinc150()
    torch.manual_seed(SEED)
    everything = sorted({*intents.labels} - {*NEW, "oos"})
    learner = trained(intents, everything[::3], steps)
    support, x, y, texts = desk(intents)
    prediction = learner(support)(x[None])

    names = [*NEW, "none of these"]
    print(f"{'message':58s}{'said to be':>18s}{'p':>6s}   it is")
    for i in [*range(0, len(texts) - 30, 20), *range(len(texts) - 6, len(texts))]:  # some of each kind
        p, label = prediction.probs[0, i].max(-1)
        print(f"{texts[i][:56]:58s}{names[label]:>18s}{p:6.2f}   {names[y[i]]}")

    query = bm.Points(x[None], y[None], torch.ones(1, len(y), dtype=torch.bool))
    metrics = [Inside(Accuracy()), Outside(Accuracy()), OutsideAUROC(), NLL(), ECE(), AURC()]
    found = bm.evaluate(learner, [bm.Episode(support, query)], episodes=1, metrics=metrics)
    print()
    for name, value in found.items():
        print(f"{name:18s} {value}")
    none = prediction.probs[0, :, 5].detach()
    figure, pane = plt.subplots(figsize=(6, 3.2), layout="constrained")
    pane.hist(
        [none[y < 5], none[y == 5]], bins=20, range=(0, 1), label=["one of the five", "none of these"], color=COLOURS
    )
    pane.set(xlabel="probability of none of these", ylabel="messages", yscale="log")
    pane.legend(frameon=False, title="it is")
    figure.savefig("intents.png", dpi=110)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
