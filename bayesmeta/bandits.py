"""Which arm to pull: a posterior that is asked, pulled for, and told of what came of it.

Shape letters: B tasks, A arms, D features of an arm, S functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bayesmeta.border import as_tensor, check_count, check_function, is_whole, readable
from bayesmeta.data import Points
from bayesmeta.learner import check_posterior
from bayesmeta.posterior import Posterior

__all__ = ["Choice", "greedy", "knowledge_gradient", "look_ahead", "play", "thompson"]

Choice: TypeAlias = Callable[[Posterior, Tensor, int], Tensor]
"""Which arm to pull in each task, ``(B,)``: of what is known, of the arms ``(B, A, D)`` and of how many pulls are left."""


def thompson(posterior: Posterior, arms: Tensor, left: int) -> Tensor:
    """The best arm of one function that is drawn from the posterior: each arm as often as it is likely to be the best.

    Thompson 1933, https://doi.org/10.2307/2332286. The arms' values are drawn together, so that correlations count. Where there
    is no doubt about the function, as under `MAML`, it is `greedy`.
    """
    return posterior.functions(1)(_checked(posterior, arms)).mean[0, ..., 0].argmax(1)


def greedy(posterior: Posterior, arms: Tensor, left: int) -> Tensor:
    """The arm of the highest predictive mean."""
    return posterior(_checked(posterior, arms)).mean[..., 0].argmax(1)


def look_ahead(posterior: Posterior, arms: Tensor, left: int) -> Tensor:
    """The arm whose pull pays most if it is the last one to learn from: its mean, and `knowledge_gradient` for each later pull.

    The online policy of a finite horizon of Ryzhov, Powell & Frazier 2012, https://doi.org/10.1287/opre.1110.0999. Exact where
    functions are Gaussian; by the mean and the covariance of 256 functions elsewhere.
    """
    arms = _checked(posterior, arms)
    check_count("left", left)
    try:
        mean, covariance, deviation = posterior.joint(arms)
        mean, covariance, noise = mean[..., 0], covariance[:, 0], deviation[..., 0].square()
    except NotImplementedError:
        drawn = posterior.functions(256)(arms).mean[..., 0].double()  # (S, B, A)
        mean, spread = drawn.mean(0), drawn - drawn.mean(0)
        covariance = torch.einsum("sba,sbc->bac", spread, spread) / len(drawn)
        noise = posterior.decompose(arms).aleatoric[..., 0].double()
    return (mean + (left - 1) * knowledge_gradient(mean, covariance, noise)).argmax(1)


def knowledge_gradient(mean: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
    """By how much a pull of each arm is expected to raise the highest mean, ``(B, A)``, in closed form.

    Frazier, Powell & Dayanik 2009, "The Knowledge-Gradient Policy for Correlated Normal Beliefs",
    https://doi.org/10.1287/ijoc.1080.0314. After a pull of arm a the means are μ + σ̃(a) Z with Z ~ N(0, 1) and
    σ̃(a) = Σ e_a / √(Σ_aa + λ_a); the expected maximum of such lines is a sum over those that are on top somewhere.

    Args:
        mean: μ, of the arms' values, ``(B, A)``.
        covariance: Σ, of the values without noise, ``(B, A, A)``.
        noise: λ, the variance of what a pull pays given the value, ``(B, A)``.

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or a variance is below 0.

    Example:
        >>> knowledge_gradient(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1, 2))  # 1 / √(2 π)
        tensor([[0.3989, 0.3989]])
    """
    given = [as_tensor(part, name) for part, name in ((mean, "mean"), (covariance, "covariance"), (noise, "noise"))]
    mean, covariance, noise = (
        part if part.is_floating_point() else part.to(torch.get_default_dtype()) for part in given
    )
    if (
        mean.dim() != 2
        or not mean.shape[1]
        or covariance.shape != (*mean.shape, mean.shape[1])
        or noise.shape != mean.shape
    ):
        raise ValueError(
            f"mean, covariance, noise: expected (B, A), (B, A, A) and (B, A) with an arm at least, got {tuple(mean.shape)}, "
            f"{tuple(covariance.shape)} and {tuple(noise.shape)}; give one task as mean[None] and so on"
        )
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    size = variance.abs().maximum(noise.abs()).amax(-1, keepdim=True)
    if readable(mean):
        if not all(part.isfinite().all() for part in (mean, covariance, noise)):
            raise ValueError(
                "mean, covariance, noise: expected finite numbers, got NaN or infinity; look at the posterior"
            )
        if (noise < 0).any() or (variance < -1e-3 * size).any():
            worst = min(noise.min().item(), variance.min().item())
            raise ValueError(f"covariance, noise: expected variances of at least 0, got {worst:.3g}; square deviations")
    told = variance + noise  # where rounding is all there is, a pull tells nothing
    tells = told > torch.finfo(told.dtype).eps * size
    slope = torch.where(tells, told.where(tells, 1.0).rsqrt(), 0.0)[..., None] * covariance.mT  # (B, pulled, A)
    start = mean[..., None, :].expand_as(slope)
    above = start[..., None, :] - start[..., :, None]  # of the second line over the first, where Z = 0
    faster = slope[..., None, :] - slope[..., :, None]
    meet = -above / torch.where(faster == 0, 1.0, faster)  # where the second catches the first
    low = torch.where(faster < 0, meet, -math.inf).amax(-1)
    high = torch.where(faster > 0, meet, math.inf).amin(-1)
    before = torch.ones(above.shape[-2:], dtype=torch.bool, device=above.device).tril(
        -1
    )  # of equal lines the first counts
    hidden = ((faster == 0) & ((above > 0) | ((above == 0) & before))).any(-1)
    on_top = (low < high) & ~hidden
    share = torch.special.ndtr(high) - torch.special.ndtr(low)
    tilt = (-low.square() / 2).exp() - (-high.square() / 2).exp()
    best = torch.where(on_top, start * share + slope * tilt / math.sqrt(2 * math.pi), 0.0).sum(-1)
    return (best - mean.amax(-1, keepdim=True)).clamp(min=0)


def _checked(posterior: Posterior, arms: Any) -> Tensor:
    """Arms ``(B, A, D)`` on the device and of the type of the posterior's support, of one real target.

    Raises:
        TypeError: it is no posterior.
        ValueError: its targets are others than one number, there is no arm, or arms do not fit.
    """
    check_posterior(posterior)
    y = posterior.support.y
    if not y.is_floating_point() or y.shape[2:] != (1,):
        raise ValueError(
            f"posterior: expected one real target, what a pull pays, of event shape (1,), got {y.dtype} of {tuple(y.shape[2:])}; "
            "give learners y of shape (B, N, 1)"
        )
    asked: Tensor = posterior._inputs(arms)
    if not asked.shape[1]:
        raise ValueError(f"arms: expected (B, A, D) with at least one arm, got {tuple(asked.shape)}; give an arm")
    return asked


@torch.no_grad()
def play(
    posterior: Posterior, arms: Tensor, pull: Callable[[Tensor], Tensor], pulls: int, choose: Choice = thompson
) -> Tensor:
    """Pulls arms, in all tasks of the batch at once, and tells the posterior of each: which ones, ``(B, pulls)``.

    Args:
        posterior: before the first pull: `learner(points([], []))` knows what tasks have in common.
        arms: their features, ``(B, A, D)``.
        pull: what the arms of these numbers pay, ``(B,)`` of ``(B,)``.
        pulls: how many.
        choose: how, such as `thompson`, `greedy` or `look_ahead`.

    Raises:
        NotImplementedError: the posterior cannot be told more; wrap the learner in `Rehearsal`.
        TypeError: it is no posterior, or `pull` or `choose` is no function.
        ValueError: the posterior's targets are others than one number, arms do not fit, there is no pull, an arm is chosen that
            is not there, or what one paid has another shape or is not finite.

    Example:
        >>> tasks = Bandits([0.0, 0.0], torch.eye(2), batch=3)
        >>> arms, values = tasks.known(0)
        >>> learner = ALPaCA(nn.Identity(), nn.Linear(2, 1), Gaussian())
        >>> prior = learner(points([torch.zeros(0, 2)] * 3, [torch.zeros(0, 1)] * 3))
        >>> play(prior, arms, lambda chosen: values.gather(1, chosen[:, None])[:, 0], pulls=4).shape
        torch.Size([3, 4])
    """
    check_count("pulls", pulls)
    arms = _checked(posterior, arms)
    check_function("pull", pull, "from arms (B,) to what they pay (B,)")
    check_function("choose", choose, "from (posterior, arms, left) to arms (B,), such as bandits.thompson")
    chosen = []
    tasks = torch.arange(len(arms), device=arms.device)
    for done in range(pulls):
        arm = choose(posterior, arms, pulls - done)
        fits = isinstance(arm, Tensor) and arm.shape == tasks.shape and is_whole(arm)
        if not fits or not ((arm >= 0) & (arm < arms.shape[1])).all():
            raise ValueError(
                f"choose: expected arms from 0 to {arms.shape[1] - 1}, a tensor ({len(arms)},) of whole numbers, got {arm!r}; "
                "e.g. an argmax over arms"
            )
        paid = as_tensor(pull(arm), "pull").to(posterior.support.y)
        if paid.shape != arm.shape or not paid.isfinite().all():
            got = "NaN or infinity in " if paid.shape == arm.shape else ""
            raise ValueError(
                f"pull: expected what each task's arm paid {tuple(arm.shape)}, finite, got {got}{tuple(paid.shape)}; return a "
                "number for each task"
            )
        seen = torch.ones(len(arms), 1, dtype=torch.bool, device=arms.device)
        posterior = posterior.update(Points(arms[tasks, arm][:, None], paid[:, None, None], seen))
        chosen.append(arm)
    return torch.stack(chosen, 1)
