"""What `fit` asks of several processes, by lightning-fabric: a share of the tasks each, and a mean over all."""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
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
        self, loss: Tensor, gradient: Sequence[Tensor | None], stop: bool, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor | None], bool]:
        """The means of loss and gradient over the processes, and whether any wants to stop: one message a step.

        Args:
            loss: of this process's tasks.
            gradient: of the loss, one for each parameter; None where it does not depend on it, which counts as zero where it does
                in another process.
            stop: whether this process wants to.
            parameters: those of the gradient: a message has the same length in each process, whatever its tasks used.

        Raises:
            ConnectionError: another process has ended.
            TimeoutError: another process took longer than the fabric waits.
        """
        if self.count == 1:
            return loss, gradient, stop
        dtype = reduce(torch.promote_types, (parameter.dtype for parameter in parameters))
        like = parameters[0].new_empty((), dtype=dtype)
        used = [float(slope is not None) for slope in gradient]
        pieces = [
            (torch.zeros_like(parameter) if slope is None else slope).flatten().to(like)
            for parameter, slope in zip(parameters, gradient, strict=True)
        ]
        message = torch.cat([torch.stack([loss.detach().to(like)]), like.new_tensor([float(stop), *used]), *pieces])
        mean = self._together(lambda: self.fabric.all_reduce(message, reduce_op="mean"))
        loss_mean, stops, uses, rest = mean.split([1, 1, len(used), len(mean) - 2 - len(used)])
        slopes = rest.split([parameter.numel() for parameter in parameters])
        added = [
            slope.reshape(parameter.shape).to(parameter) if use > 0 else None
            for use, slope, parameter in zip(uses.tolist(), slopes, parameters, strict=True)
        ]
        return loss_mean[0].cpu().to(loss), added, bool(stops > 0)

    def gather(self, mine: Tensor) -> Tensor:
        """The rows of all processes, ``(processes, N)``, from each one's ``(N,)`` on the CPU."""
        if self.count == 1 or not len(mine):
            return mine[None].expand(self.count, -1)
        rows = torch.zeros(self.count, len(mine), dtype=mine.dtype, device=self.fabric.device)
        rows[self.rank] = mine  # a sum with zeros, since fabric's own all_gather warns of what it calls
        return self._together(lambda: self.fabric.all_reduce(rows, reduce_op="sum")).cpu()

    def compare(self, settings: Mapping[str, Any]) -> None:
        """Raises a ValueError, the same in all processes, where they do not have the same settings, numbers and texts by name."""
        if self.count == 1:
            return
        text = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8, device="cpu")
        lengths = self.gather(torch.tensor([len(text)], device="cpu"))[:, 0].tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device="cpu")
        padded[: len(text)] = text
        texts = zip(self.gather(padded), lengths, strict=True)
        first, *others = [json.loads(bytes(row[:length].tolist())) for row, length in texts]
        for rank, other in enumerate(others, 1):
            for name in first | other:
                if first.get(name) != other.get(name):
                    raise ValueError(
                        f"fabric: expected the same run in all processes, got {name} {first.get(name)!r} in process 0 and "
                        f"{other.get(name)!r} in process {rank}; build learner, tasks, optimizer and scheduler alike in each"
                    )

    def agree(self, step: int) -> None:
        """Waits until every process is here, and so sees what the first one wrote before.

        Args:
            step: of this process; -1 if it cannot go on and has an error of its own to raise.

        Raises:
            ConnectionError: another process has ended.
            TimeoutError: another process took longer than the fabric waits.
            ValueError: they are not at the same step.
        """
        steps = self.gather(torch.tensor([step], device="cpu"))[:, 0].tolist()
        if -1 in steps and step != -1:
            raise ValueError(
                f"checkpoint: expected all processes to begin, got an error in process {steps.index(-1)}; its message says what "
                "to do"
            )
        if len(set(steps)) > 1 and step != -1:
            raise ValueError(
                f"checkpoint: expected one folder that all processes see, got runs at the steps {steps}; name a shared one"
            )

    def _together(self, operation: Any) -> Tensor:
        try:
            result: Tensor = operation()
        except RuntimeError as error:  # gloo and NCCL say it in words of their own
            if any(word in str(error).lower() for word in ("timed out", "timeout")):
                raise TimeoutError(
                    f"fabric: process {self.rank} waited for another of the {self.count} for longer than the fabric allows: it "
                    "is slow, hangs, or cannot be reached. Where it is only slow, allow more: "
                    "Fabric(strategy=DDPStrategy(timeout=timedelta(hours=2)), ...). The same call goes on from the last "
                    f"checkpoint, if it was given a folder ({error})"
                ) from error
            raise ConnectionError(
                f"fabric: another of the {self.count} processes has ended, so process {self.rank} stops too. Look at the "
                f"first error above; the same call goes on from the last checkpoint, if it was given a folder ({error})"
            ) from error
        return result
