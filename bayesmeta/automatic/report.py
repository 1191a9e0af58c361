"""What `autofit` found, in numbers and plain words."""

from __future__ import annotations

from dataclasses import dataclass

from bayesmeta.recorded import Setting

__all__ = ["Report"]


@dataclass(frozen=True)
class Report(Setting):
    """What `autofit` found on tasks that were held out; ``print(report)`` says it in a page.

    The members' NLL is that of each member at its best number of steps. Figures of the whole are those of `evaluate` for learners
    that are made as the whole is, each asked for the fold of tasks that it has not seen; value, and ends of the 95 % interval.
    Weights and temperature were chosen on the same tasks, so that these figures are a little too good.
    """

    members: tuple[str, ...]
    """Their names; "log" on the logarithmic scale of the target."""
    steps: tuple[int, ...]
    """After how many each one's held-out NLL was the lowest."""
    member_nll: tuple[float, ...]
    """The NLL a point of each by itself, in nats of the target's unit."""
    weights: tuple[float, ...]
    """Of each in the mixture; they sum to 1."""
    temperature: float
    """What the standard deviations of all are multiplied by, in the mixture of all copies."""
    nll: tuple[float, float, float]
    coverage: tuple[float, float, float]
    """Of 90 % intervals."""
    tasks: int
    points: int
    seconds: float
    """Of this call."""
    warnings: tuple[str, ...]
    """What to know before the numbers are trusted, in sentences."""

    def __str__(self) -> str:
        width = max(map(len, self.members))
        lines = [
            f"{self.tasks} tasks, {self.points} points; {self.seconds:.0f} s",
            "",
            f"{'member':<{width}}  {'steps':>6}  {'NLL':>8}  {'weight':>6}",
        ]
        rows = zip(self.members, self.steps, self.member_nll, self.weights, strict=True)
        for name, steps, nll, weight in sorted(rows, key=lambda row: (-row[3], row[2])):
            lines.append(f"{name:<{width}}  {steps:>6}  {nll:>8.3f}  {weight:>6.2f}")
        lines += ["", f"All together, with temperature {self.temperature:.2f}, on tasks that were held out:"]
        for name, (value, low, high) in (("NLL", self.nll), ("90% coverage", self.coverage)):
            lines.append(f"{name:<{width}}  {value:.3f} [{low:.3f}, {high:.3f}]")
        return "\n".join([*lines, *([""] if self.warnings else []), *(f"Note: {said}" for said in self.warnings)])
