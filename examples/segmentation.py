"""Five pictures with their masks: finding trees on a drive that the learner has never seen, and saying where it is in doubt.

A U-Net, beside colours and places, and a Bayesian linear head are meta-trained on the other classes of CamVid, on three drives
through Cambridge. Then they are given five frames of a fourth drive, on which somebody has marked the trees, and asked about
other frames.

    python examples/segmentation.py        # a minute or two on one core: prints a table, saves segmentation.png

It reads the folder camvid in $BAYESMETA_DATA. With pictures of your own: bm.tasks.mask_folder("cells", size=(96, 128)).
"""

import torch
from torch import nn

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, Dice, IoU

NEW, DRIVE, VOID = "Tree", "Seq05VD", 11
STEPS = 400
SEED = 0


class Features(nn.Module):
    """What a U-Net learned to see in a pixel, beside its colour, the mean colour around it, and where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = bm.networks.UNet(channels=3).features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        rows, columns = (torch.linspace(-1, 1, size).to(x) for size in x.shape[2:])
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        plain = torch.cat([2 * x - 1, 2 * around - 1, place.expand(len(x), -1, -1, -1)], 1)
        return torch.cat([self.learned(x), plain, plain.square()], 1)


def learner() -> bm.Dense:
    """Features of each pixel, and a head whose posterior is found in closed form, but for a few Newton steps.

    Neighbouring pixels repeat each other: each counts as half a point at first, and how much is learned.
    """
    torch.manual_seed(SEED)
    head = bm.LaplaceHead(nn.Identity(), nn.Linear(16 + 16, 1), bm.likelihoods.Bernoulli(), evidence=0.5)
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
    bm.fit(segmenter, tasks, steps=steps, optimizer=torch.optim.Adam(segmenter.parameters(), lr=0.005))

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
