"""Networks with a body of features and a linear head, and the choice of normalisation.

Shape letters of images: N images, C channels, W width (channels of a block), H rows and columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesmeta.functional import unfollowed
from bayesmeta.recorded import Recorded

__all__ = [
    "MLP",
    "BatchNorm",
    "Conv4",
    "GroupNorm",
    "Norm",
    "check_network",
    "check_padding",
    "has_batch_norm",
    "parts",
]


class MLP(Recorded):
    """A multilayer perceptron ``(..., inputs)`` to ``(..., outputs)``: `features`, then a linear `head`.

    Args:
        inputs: number of input features.
        outputs: number of outputs; twice the number of targets for a heteroscedastic likelihood.
        hidden: widths of the hidden layers.
        activation: makes the nonlinearity after each hidden layer.

    Raises:
        ValueError: at a call, where the input has another number of features.

    Example:
        >>> MLP(1, 1)(torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (40, 40),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.inputs = inputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"x: expected one floating tensor, with which an MLP computes, got {got}; put a module before it that makes one: "
                "nn.Embedding of whole numbers, torch.cat of several inputs"
            )
        if x.shape[-1] != self.inputs:
            raise ValueError(
                f"x: expected {self.inputs} features (MLP(inputs={self.inputs})), got {x.shape[-1]}; "
                f"build the network with inputs={x.shape[-1]} or select the features"
            )
        output: Tensor = self.head(self.features(x))
        return output


class Norm(nn.Module, ABC):
    """Normalisation as a rule: from the moments of a map to the affine function of each channel that normalises it."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    @abstractmethod
    def average(self, moment: Tensor) -> Tensor:
        """The moment of every image and channel, (N, W), over the images and channels that share a statistic: (N or 1, W)."""

    def forward(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (N or 1, W), from the mean and mean square of every image and channel, (N, W)."""
        mean, square = self.average(mean), self.average(square)
        variance = (square - mean * mean).clamp_min(0)  # rounding can leave it just below zero
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale


class BatchNorm(Norm):
    """`nn.BatchNorm2d(width, track_running_stats=False)`. It is transductive: a prediction depends on its whole batch."""

    def average(self, moment: Tensor) -> Tensor:
        return moment.mean(0, keepdim=True)


class GroupNorm(Norm):
    """`nn.GroupNorm(width // 8, width)`: groups of eight neighbouring channels, one image at a time."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        if width % 8:
            raise ValueError(
                f"width: expected a multiple of 8 under GroupNorm, got {width}; e.g. {8 * (width // 8 + 1)}"
            )
        super().__init__(width, eps)

    def average(self, moment: Tensor) -> Tensor:
        groups = moment.unflatten(1, (-1, 8)).mean(2, keepdim=True)
        return groups.expand(-1, -1, 8).flatten(1)


def precise(values: Tensor) -> Tensor:
    """Of float32 at least, as means and squares need."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


PIECE = 2**19
"""Numbers of a map that are worked on at a time on a CPU: two megabytes, which its cache holds."""


class Block(Recorded):
    """Convolution, normalisation, ReLU and 2x2 max-pool: (N, C, H, H) to (N, W, H // 2, H // 2).

    The pool comes first, since relu(a·y + b) commutes with it where a >= 0, and the rest then works on a quarter of the map.
    Channels with a < 0 are convolved with the opposite sign: a·y is (-a)·(-y).
    """

    def __init__(self, channels: int, width: int, norm: Callable[[int], Norm]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)  # only its weight is used
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.ones_like(self.norm.weight).copysign(self.norm.weight.detach())
        y = F.conv2d(x, self.conv.weight * sign[:, None, None, None], padding=1)
        z, size = precise(y), y.shape[2] * y.shape[3]
        # sums and products, as var_mean takes ten times as long, mean and square twice
        scale, shift = self.norm(z.sum((2, 3)) / size * sign, (z * z).sum((2, 3)) / size)
        scale, shift = (scale * sign).to(y.dtype), shift.to(y.dtype)
        return (F.max_pool2d(y, 2) * scale[..., None, None] + shift[..., None, None]).relu()


class FirstBlock(Block):
    """The same for few channels C, where it is faster to multiply the patches of 3x3 pixels by the weights, as matrices.

    The output at a patch p is w·p, so its mean is w·E[p] and its mean square is w·E[ppᵀ]·w: they are known beforehand, and
    the scale goes into the weights. The largest map of all is then made and pooled piece by piece, each within the cache.
    """

    def forward(self, x: Tensor) -> Tensor:
        windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, H, H, 3, 3)
        patches = windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3).flatten(2)  # (N, 9C, H*H), faster than F.unfold
        w = self.conv.weight.flatten(1).T  # (9C, W)
        with torch.autocast(x.device.type, enabled=False):  # the variance is a difference of large numbers
            z, v = precise(patches), precise(w)
            second = z @ z.mT / z.shape[2]  # (N, 9C, 9C)
            scale, shift = (part.to(x.dtype) for part in self.norm(z.mean(2) @ v, (second @ v * v).sum(1)))
        w = (w * scale[:, None]).expand(len(x), -1, -1)  # (N, 9C, W)
        shift = shift[..., None, None].expand(len(x), -1, -1, -1)  # (N, W, 1, 1)

        def pooled(patches: Tensor, w: Tensor, shift: Tensor) -> Tensor:
            y = (patches.mT @ w).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # channels last in memory, as later
            return (F.max_pool2d(y, 2) + shift).relu()

        images = max(1, PIECE // (w.shape[2] * patches.shape[2])) if x.device.type == "cpu" else len(x)
        pieces = zip(patches.split(images), w.split(images), shift.split(images), strict=True)
        return torch.cat([pooled(*piece) for piece in pieces])


class Conv4(Recorded):
    """The four-block network of the few-shot literature: `features`, then a linear `head`.

    Images ``(N, channels, image_size, image_size)`` to ``(N, outputs)``. Each block is a 3x3 convolution, a normalisation,
    a ReLU and a 2x2 max-pool (Vinyals et al. 2016, https://arxiv.org/abs/1606.04080).

    Args:
        channels: of the images.
        outputs: number of outputs, W for classes.
        width: channels of each block; a multiple of 8 under `GroupNorm`.
        image_size: rows and columns of the images, at least 16.
        norm: `GroupNorm`, which treats each image by itself, or `BatchNorm`, which reproduces papers and is
            transductive: its predictions depend on which other images are asked about in the same call.

    Raises:
        ValueError: images of other channels or size at a call, or an image_size below 16.

    Example:
        >>> Conv4(width=8)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        channels: int = 1,
        outputs: int = 5,
        *,
        width: int = 64,
        image_size: int = 28,
        norm: Callable[[int], Norm] = GroupNorm,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(
                f"image_size: expected at least 16 (four blocks halve it), got {image_size}; enlarge the images"
            )
        self.image = (channels, image_size, image_size)
        self.features = nn.Sequential(
            FirstBlock(channels, width, norm),
            *(Block(width, width, norm) for _ in range(3)),
            nn.Flatten(),
        )
        self.head = nn.Linear(width * (image_size // 16) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-3:] != self.image:
            raise ValueError(
                f"x: expected images of shape {self.image} (channels, rows, columns), got {tuple(x.shape[-3:])}; "
                "build Conv4 with their channels and image_size, or reshape them"
            )
        output: Tensor = self.head(self.features(x))
        return output


def check_network(network: nn.Module, name: str = "network") -> None:
    """Raises an error if something is no network that can be asked for tasks' weights.

    One that keeps running statistics, which adaptation per task cannot update; one that torch has compiled or scripted, which
    knows no weights but its own; one with layers that were never called, and so have no weights yet.
    """
    if not isinstance(network, nn.Module):
        given = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise TypeError(
            f"{name}: expected a torch module such as MLP(1, 1), got {given}; build one, or make it a module"
        )
    for path, module in network.named_modules():
        where = f"{type(module).__name__} at {path!r}" if path else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name}: expected a plain module, got {where}; pass the original, and fit(compile=True) if need be"
            )
        if any(nn.parameter.is_lazy(parameter) for parameter in module._parameters.values()):
            raise ValueError(
                f"{name}: expected weights, got {where}, which has none before its first call; call it once"
            )
        if getattr(module, "track_running_stats", False):
            raise ValueError(
                f"{name}: expected no running statistics, got {where}; use group or layer normalisation, or "
                "track_running_stats=False (transductive: predictions then depend on the other queries). Of a pretrained body "
                "that stays as it is, compute the features once, and give them as x"
            )
        if type(module).__name__ == "_SpectralNorm" or any(
            type(hook).__name__ == "SpectralNorm" for hook in module._forward_pre_hooks.values()
        ):
            raise ValueError(
                f"{name}: expected no state that a forward pass changes, got spectral_norm of {where}; leave it out"
            )
    if found := unfollowed(network):
        raise ValueError(
            f"{name}: expected layers in attributes, lists, dicts or functions, where a task's weights can take their place, "
            f"got one at {found[0]!r} that is reached {found[1]}; make that an nn.Module, or call the layer by its attribute"
        )


def has_batch_norm(network: nn.Module) -> bool:
    """Whether what a network says of a point depends on the points beside it."""
    return any(isinstance(part, (BatchNorm, nn.modules.batchnorm._BatchNorm)) for part in parts(network))


def parts(module: nn.Module) -> list[nn.Module]:
    """A module and all within it, as ``module.modules()`` gives them, in a fifth of the time: learners ask at each call."""
    found = [module]
    for part in found:  # which grows meanwhile
        found.extend(child for child in part._modules.values() if child is not None)
    return found


def check_padding(network: nn.Module, mask: Tensor, name: str) -> None:
    """Raises a ValueError if padding would enter the statistics of a batch normalisation in the network.

    It stands where points come to a learner: at its call, in `fit` for each episode, and where queries are asked.
    """
    if not has_batch_norm(network):
        return
    counts = mask.sum(1)
    ragged = ((counts > 0) & (counts < mask.shape[1])).nonzero()
    if len(ragged):
        task = int(ragged[0, 0])
        raise ValueError(
            f"{name}: expected tasks of equal length under batch normalisation, got {int(counts[task])} of {mask.shape[1]} "
            f"points in task {task}; the padding would enter its statistics. Use GroupNorm, or equal numbers of points"
        )
