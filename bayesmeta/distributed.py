"""What `fit` asks of several processes, by lightning-fabric: a share of the tasks each, and a mean over all."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_map

from bayesmeta.data import Episode

__all__ = ["Processes"]


def leave() -> None:
    """Ends the threads of torch.distributed, as one that asks for the interpreter's lock while it shuts down aborts."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class Processes:
    """The processes of a fabric, or this one alone.

    Args:
        fabric: a ``lightning_fabric.Fabric``, launched or not, or None.

    Raises:
        TypeError: it is no fabric.
        ValueError: its precision would need its gradients scaled.
    """

    def __init__(self, fabric: Any = None) -> None:
        self.fabric = fabric
        self.rank, self.count = 0, 1
        if fabric is None:
            return
        names = ("launch", "all_reduce", "setup_module", "autocast")  # rather than an import, which is optional
        if isinstance(fabric, type) or not all(hasattr(fabric, name) for name in names):
            got = f"the class {fabric.__name__}" if isinstance(fabric, type) else type(fabric).__name__
            raise TypeError(
                f"fabric: expected a lightning_fabric.Fabric, got {got}; e.g. Fabric(devices=2), after pip install "
                "'bayesmeta[fabric]'"
            )
        if getattr(getattr(fabric, "_precision", None), "scaler", None) is not None:
            raise ValueError("fabric: expected a precision without gradient scaling, got '16-mixed'; use 'bf16-mixed'")
        if not fabric._launched:
            fabric.launch()
        atexit.unregister(leave)  # once, however many fits there are; fabric itself does it for NCCL only
        atexit.register(leave)
        self.rank, self.count = fabric.global_rank, fabric.world_size

    def place(self, learner: nn.Module) -> None:
        """Takes the learner to the fabric's device and precision, with the first process's weights."""
        if self.fabric is not None:
            self.fabric.setup_module(learner)  # in place: gradients are ours to add up, so its wrapper is not kept

    def autocast(self) -> AbstractContextManager[object]:
        """The fabric's mixed precision."""
        context: AbstractContextManager[object] = nullcontext() if self.fabric is None else self.fabric.autocast()
        return context

    def stream(self, seed: int) -> int:
        """A seed of this process's own: the first one's is that of a run without a fabric."""
        return seed + 1_000_003 * self.rank

    def share(self, episode: Episode) -> Episode:
        """This process's part of an episode's tasks.

        Raises:
            ValueError: the processes do not divide them.
        """
        if self.count == 1:
            return episode
        tasks = len(episode.query.mask)
        batch, rest = divmod(tasks, self.count)
        if rest:
            raise ValueError(
                f"fabric: expected a number of processes that divides the {tasks} tasks in an episode, got {self.count}; e.g. "
                f"batch={self.count * (batch + 1)}"
            )
        part: Episode = tree_map(lambda leaf: leaf[self.rank * batch : (self.rank + 1) * batch], episode)
        return part

    def mean(
        self, loss: Tensor, gradient: Sequence[Tensor | None], stop: bool
    ) -> tuple[Tensor, Sequence[Tensor | None], bool]:
        """The means of loss and gradient over the processes, and whether any wants to stop: one message a step.

        Raises:
            ConnectionError: another process has ended.
        """
        if self.count == 1:
            return loss, gradient, stop
        like = next(slope for slope in gradient if slope is not None)
        head = torch.stack([loss.to(like), like.new_tensor(float(stop))])
        message = torch.cat([head, *(slope.flatten().to(like) for slope in gradient if slope is not None)])
        mean = self._together(lambda: self.fabric.all_reduce(message, reduce_op="mean"))
        pieces = iter(mean[2:].split([slope.numel() for slope in gradient if slope is not None]))
        added = [slope if slope is None else next(pieces).reshape(slope.shape).to(slope) for slope in gradient]
        return mean[0].cpu().to(loss), added, bool(mean[1] > 0)

    def generators(self) -> Tensor:
        """The states of torch's generators on the CPU, of all processes: ``(processes, bytes)``."""
        return self._each(torch.get_rng_state())

    def agree(self, step: int) -> None:
        """Waits until every process is here, and so sees what the first one wrote before.

        Raises:
            ConnectionError: another process has ended.
            ValueError: they are not at the same step.
        """
        steps = self._each(torch.tensor([step])).flatten().tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"checkpoint: expected one folder that all processes see, got runs at the steps {steps}; name a shared one"
            )

    def _each(self, mine: Tensor) -> Tensor:
        """The tensors of all processes, ``(processes, N)``."""
        if self.count == 1:
            return mine[None]
        rows = torch.zeros(self.count, len(mine), dtype=mine.dtype, device=self.fabric.device)
        rows[self.rank] = mine  # a sum with zeros, since fabric's own all_gather warns of what it calls
        return self._together(lambda: self.fabric.all_reduce(rows, reduce_op="sum")).cpu()

    def _together(self, operation: Any) -> Tensor:
        try:
            result: Tensor = operation()
        except RuntimeError as error:  # gloo and NCCL say it in words of their own
            raise ConnectionError(
                f"fabric: another of the {self.count} processes has ended, so process {self.rank} stops too. Look at the "
                f"first error above; the same call goes on from the last checkpoint, if it was given a folder ({error})"
            ) from error
        return result
