"""``python -m bayesmeta.play [FILE ...]``: serves the playground until Ctrl-C."""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path

from bayesmeta.learner import Learner
from bayesmeta.play.learners import RECIPES, axes_of, described, from_file, trained
from bayesmeta.play.server import Playground
from bayesmeta.training import History

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, serves, and trains or loads the learners meanwhile."""
    parser = argparse.ArgumentParser(
        "python -m bayesmeta.play", description="Points of a new task, clicked on a local page."
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="learners of one input and one real target, saved by bayesmeta.save; none: "
        "six learners are trained on sinusoids, a minute in all",
    )
    parser.add_argument(
        "--port", type=int, default=8765, help="to listen at, on 127.0.0.1 alone; 0 for any that is free"
    )
    parser.add_argument("--x", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the axis of inputs")
    parser.add_argument("--y", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the axis of targets")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="a factor of the training steps, where there is no file"
    )
    given = parser.parse_args(arguments)
    for name, ends in (("x", given.x), ("y", given.y)):
        if ends is not None and not -math.inf < ends[0] < ends[1] < math.inf:
            parser.error(
                f"--{name}: expected a low and a higher end, got {ends[0]:g} and {ends[1]:g}; e.g. --{name} 0 10"
            )
    if not 0 < given.effort < math.inf:
        parser.error(f"--effort: expected a number above 0, got {given.effort:g}")

    learners: dict[str, tuple[str, Learner]] = {}
    problems = []
    for path in map(Path, given.files):
        try:
            learner = from_file(path)
            learners[_unused(path.stem, learners)] = described(learner), learner
        except (OSError, ValueError) as error:
            problems.append(str(error))
            _say(f"left out: {error}")
    if given.files and not learners:
        parser.exit(1, "no file could be used\n")
    x, y = axes_of([learner for _, learner in learners.values()])
    try:
        playground = Playground(given.port, x=tuple(given.x or x), y=tuple(given.y or y), hidden=not given.files)
    except (OSError, OverflowError) as error:
        parser.exit(
            1,
            f"--port: expected a free port, got {given.port} ({error}); choose another, such as --port 8766, "
            "or --port 0 for any that is free\n",
        )
    playground.learners.update(learners)
    playground.problems += problems
    playground.training = "" if given.files else "Training begins."
    serving = threading.Thread(target=playground.serve_forever, daemon=True)
    serving.start()
    try:
        _say(f"the playground is at {playground.url} (Ctrl-C ends it)")
        if not given.files:
            _train(playground, given.effort)
        serving.join()
    except KeyboardInterrupt:
        _say("ended")
    finally:
        with suppress(KeyboardInterrupt):  # it is ending already
            playground.shutdown()
        playground.server_close()


def _train(playground: Playground, effort: float) -> None:
    """Adds the learners to a playground, one by one as they are trained."""
    for place, recipe in enumerate(RECIPES):

        def tell(
            history: History, place: int = place, name: str = recipe.name, steps: float = effort * recipe.steps
        ) -> None:
            done = min(1.0, len(history.losses) / steps)
            playground.training = f"Training {name}, {place + 1} of {len(RECIPES)}: {done:.0%}"

        began = time.perf_counter()
        learner = trained(recipe, effort=effort, on_step=tell)
        playground.learners[recipe.name] = recipe.note, learner
        _say(f"{recipe.name}: trained in {time.perf_counter() - began:.0f} s")
    playground.training = ""


def _unused(name: str, names: Container[str]) -> str:
    """The name, with a number where it is taken."""
    number = 2
    found = name
    while found in names:
        found, number = f"{name} ({number})", number + 1
    return found


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
