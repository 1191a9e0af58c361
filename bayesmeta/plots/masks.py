"""Pictures beside their masks, what is predicted, and where not to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesmeta.border import check_count
from bayesmeta.data import Points
from bayesmeta.distributions import class_probabilities, has_labels
from bayesmeta.metrics import best_mask
from bayesmeta.plots.axes import COLOURS, figure
from bayesmeta.posterior import Posterior
from bayesmeta.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["masks"]


def masks(
    posterior: Posterior,
    query: Points,
    *,
    task: int = 0,
    label: int = 1,
    pictures: int = 4,
    samples: int = 16,
    seed: int = 0,
) -> Figure:
    """Rows of pictures: each as it is, its true mask, the probability of the label, and the doubt about it in two parts.

    The line around the probability is the mask of the largest expected Dice. Doubt is in nats, on one scale: aleatoric, what no
    further picture of the task would remove, and epistemic, what it would. Void pixels are blue in the true mask.

    Args:
        posterior: of pictures, by `Dense`, or by a network and ``Categorical(event_dims=2)``.
        query: pictures and their masks, such as ``tasks[0].query``.
        task: which of the B tasks.
        label: which of the W labels.
        pictures: how many rows, at most.
        samples: draws for the parts of doubt, where they have no closed form.
        seed: of those; torch's global generator is not touched.

    Raises:
        ValueError: no pictures of one or three channels, or no predictions of pictures of labels.

    Example:
        >>> learner = Dense(nn.Identity(), PrototypicalNetwork(nn.Identity(), classes=2))
        >>> given = points(torch.rand(3, 1, 6, 8), torch.randint(2, (3, 6, 8)), classes=2, event_dims=2)
        >>> len(masks(learner(given), given, pictures=2).axes)
        11
    """
    check_count("pictures", pictures)
    x = query.x
    if not isinstance(x, Tensor) or x.dim() != 5 or x.shape[2] not in (1, 3):
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"query.x: expected pictures (B, M, C, H, V) of 1 or 3 channels, got {found}; plot others yourself"
        )
    x = x[:, :pictures]
    with torch.no_grad(), seeded(seed):
        prediction = posterior(x)
        if not has_labels(prediction) or len(prediction.event_shape) != 2:
            raise ValueError(
                f"posterior: expected predictions of pictures of labels, event (H, V), got "
                f"{tuple(prediction.event_shape)}; use Dense"
            )
        probability = class_probabilities(prediction)[task, ..., label].cpu()
        parts = posterior.decompose(x, samples)
    doubt = torch.stack([parts.aleatoric[task], parts.epistemic[task]]).cpu()
    there = query.mask if query.mask.dim() == 4 else query.mask[..., None, None].expand_as(query.y)
    truth = (query.y[task] == label).double().masked_fill(~there[task], torch.nan).cpu()
    names = [
        "picture",
        "truth",
        "probability, and the mask\nof largest expected Dice",
        "aleatoric doubt",
        "epistemic doubt",
    ]
    rows, ratio = x.shape[1], x.shape[3] / x.shape[4]
    drawn: Any = figure(10.5, 0.7 + 2 * ratio * rows)
    axes = drawn.subplots(rows, 5, squeeze=False)
    for row, line in enumerate(axes):
        image = x[task, row].movedim(0, -1).clamp(0, 1).cpu().numpy()
        line[0].imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")
        line[1].imshow(truth[row].numpy(), cmap=_with_void("gray"), vmin=0, vmax=1)
        line[2].imshow(probability[row].numpy(), cmap="gray", vmin=0, vmax=1)
        chosen = best_mask(probability[row])
        if chosen.any() and not chosen.all():
            line[2].contour(chosen.double().numpy(), levels=[0.5], colors=[COLOURS[1]], linewidths=1)
        for axis, part in zip(line[3:], doubt[:, row], strict=True):
            shown = axis.imshow(part.numpy(), cmap="magma", vmin=0, vmax=float(doubt.max().clamp(min=1e-6)))
        for axis, name in zip(line, names, strict=True):
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name, fontsize=9)
    drawn.colorbar(shown, ax=axes[:, -1], label="nats", shrink=0.8)
    return drawn


def _with_void(name: str) -> Any:
    """A map of colours in which void pixels are blue."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=COLOURS[5])
