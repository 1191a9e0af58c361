"""Five pictures with boxes: finding an object that the learner has never seen, and saying how sure it is of each box.

Collages of COIL-20's objects on streets. A detector is trained to find anything among fourteen objects, and then meta-trained to
find the one that a task's pictures mark. Then it is given five pictures on which a new object is marked, and asked about others.

    python examples/detection.py  # half a minute or more on one core: prints a table, saves detection.png

It reads the folders `coil20_pose` and `camvid` in `$BAYESMETA_DATA`. With pictures of your own:
`bm.tasks.coco("parts.json", "pictures", size=(64, 64))`, and `bm.tasks.DetectionTasks`.

The picture: four collages with the true boxes dashed, and those that are found, each with its score and a band in which its
edges lie with 90 %.
"""

import torch

import bayesmeta as bm
from bayesmeta.metrics import NLL, AveragePrecision, DetectionECE, EdgeCoverage

NEW = range(14, 20)
ANYTHING, STEPS = 400, 170
SEED = 0


def network() -> bm.networks.Cells:
    """One that at first finds nothing, and guesses boxes of three cells."""
    torch.manual_seed(SEED)
    made = bm.networks.Cells(channels=1)
    with torch.no_grad():
        made.head.weight[0].zero_()
        made.head.bias[:5].copy_(torch.tensor([-4.0, -1.5, -1.5, 1.5, 1.5]))
    return made


def main(anything: int = ANYTHING, steps: int = STEPS, path: str = "detection.png") -> dict[str, bm.metrics.Estimate]:
    """Prints and returns how well new objects are found."""
    objects, streets = bm.tasks.coil20(), bm.tasks.camvid(size=(90, 120)).images.float().mean(1).byte()
    known = [c for c in range(len(objects)) if c not in NEW]
    body, likelihood = network(), bm.likelihoods.Boxes()

    # All known objects at once, without adaptation, for a start that knows things from streets.
    tasks = bm.tasks.Collages(
        objects, streets[::2], classes=known, unions=(14, 14), varied=0.5, shots=1, queries=7, batch=4
    )
    start = bm.ANIL(body.features, body.head, likelihood, steps=0)
    bm.fit(start, tasks, steps=anything, optimizer=torch.optim.Adam(start.parameters(), lr=0.005), clip=10.0)

    # Then one of them, or two or three together, from five pictures.
    tasks = bm.tasks.Collages(objects, streets[::2], classes=known, unions=3, varied=0.5, shots=5, batch=3)
    detector = bm.ANIL(body.features, body.head, likelihood, steps=5, rate=0.03)
    bm.fit(detector, tasks, steps=steps, optimizer=torch.optim.Adam(detector.parameters(), lr=0.002), clip=10.0)

    new = bm.tasks.Collages(objects, streets[1::2], classes=list(NEW), shots=5, batch=1, seed=1)
    found = bm.evaluate(
        detector,
        new,
        episodes=40,
        metrics=[AveragePrecision(), NLL(), DetectionECE(), EdgeCoverage()],
        clusters=lambda index: torch.tensor([index]),
    )
    for name, value in found.items():
        print(f"{name:20s} {value}")
    episode = new[3]  # a task of about the mean
    bm.plots.boxes(detector(episode.support), episode.query).savefig(path, dpi=110)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
