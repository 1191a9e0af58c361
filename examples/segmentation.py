"""Five pictures with their masks: finding trees on a drive that the learner has never seen, and saying where it is in doubt.

Functions of the colours around a pixel, and a Bayesian linear head on them, are meta-trained on the other classes of CamVid, on
three drives through Cambridge. Then they are given five frames of a fourth drive, on which somebody has marked the trees, and
asked about other frames.

    python examples/segmentation.py  # half a minute or more on one core: prints a table, saves segmentation.png

It reads the folder `camvid` in `$BAYESMETA_DATA`. With pictures of your own: `bm.tasks.mask_folder("cells", size=(96, 128))`.

The picture: frames of the new drive, the trees that somebody marked, the probability of a tree at each pixel, and the doubt.
"""

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, Dice, IoU

NEW, DRIVE, VOID = "Tree", "Seq05VD", 11
STEPS = 150
PLAIN, LEARNED = 23, 64
SEED = 0


class Features(nn.Module):
    """A pixel's colour, the mean colours and the spread around it, near and far, and its place; and learned functions of them.

    These are random at first, each a step in some direction, of which a head can make any smooth function, where a line would not
    tell pixels apart. A network that sees more of the picture has more to learn, and forgets more of what tells classes apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Conv2d(PLAIN, LEARNED, 1)
        nn.init.normal_(self.learned.weight, std=PLAIN**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 4 * x - 2
        maps = [x]
        for reach in (1, 3, 8):
            around = blurred(x, reach)
            maps += [around, (blurred(x.square(), reach) - around.square()).clamp(min=1e-6).sqrt()]
        rows, columns = (torch.linspace(-1, 1, size).to(x) for size in x.shape[2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        plain = torch.cat([*maps, place.expand(len(x), -1, -1, -1)], 1)
        return torch.cat([self.learned(plain).tanh(), plain], 1)


def blurred(x: torch.Tensor, reach: int) -> torch.Tensor:
    """The mean around each pixel, of as many rows and columns to each side as there are."""
    return nn.functional.avg_pool2d(x, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def learner() -> bm.Dense:
    """Features of each pixel, and a head whose posterior is found in closed form, but for a few Newton steps.

    Neighbouring pixels repeat each other: each counts as half a point at first, and how much is learned.
    """
    torch.manual_seed(SEED)
    head = bm.LaplaceHead(nn.Identity(), nn.Linear(PLAIN + LEARNED, 1), bm.likelihoods.Bernoulli(), evidence=0.5)
    return bm.Dense(Features(), head, pixels=4000)


def main(steps: int = STEPS, path: str = "segmentation.png") -> dict[str, bm.metrics.Estimate]:
    """Prints and returns how well trees are found."""
    pictures = bm.tasks.camvid(size=(48, 64))
    new = pictures.names.index(NEW)
    hidden = pictures.masks.masked_fill(pictures.masks == new, VOID)  # so that no mask tells where trees are
    drives = sorted({*pictures.groups} - {DRIVE})
    tasks = bm.tasks.SegmentationTasks(
        pictures.images, hidden, void=VOID, groups=pictures.groups, subset=drives, unions=2, shots=5, queries=3, batch=1
    )
    segmenter = learner()
    bm.fit(segmenter, tasks, steps=steps, optimizer=torch.optim.Adam(segmenter.parameters(), lr=0.01))

    trees = bm.tasks.SegmentationTasks(
        pictures.images,
        pictures.masks,
        void=VOID,
        classes=[new],
        groups=pictures.groups,
        subset=[DRIVE],
        shots=5,
        batch=1,
    )
    found = bm.evaluate(
        segmenter,
        trees,
        episodes=10,
        metrics=[IoU(), IoU("likeliest"), Dice(), NLL(), ECE()],
        clusters=lambda index: torch.tensor([index]),
    )
    for name, value in found.items():
        print(f"{name:16s} {value}")
    episode = trees[0]
    posterior = segmenter(episode.support)
    bm.plots.masks(posterior, episode.query).savefig(path, dpi=110)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
