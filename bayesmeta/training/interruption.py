"""Signals as flags that a loop reads between its steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption"]


class Interruption:
    """While it is entered, Ctrl-C and requests to end are noted, for the loop to end after the step in hand.

    A signal that is ignored (``nohup``), or whose handler is not Python's, is left as it is; so is every signal outside the main
    thread. A request to end the process (SIGTERM) is fulfilled when this is left.

    Args:
        signals: to note.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.signals = signals
        self.seen: list[int] = []
        self.before: dict[signal.Signals, Any] = {}
        self.breakable = False
        """Whether a second Ctrl-C raises a KeyboardInterrupt at once: never while something is changed or written."""

    def __bool__(self) -> bool:
        return bool(self.seen)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            handlers = {one: signal.getsignal(one) for one in self.signals}
            for one, handler in handlers.items():
                if handler not in (
                    signal.SIG_IGN,
                    None,
                ):  # None: it was installed outside Python, which cannot put it back
                    self.before[one] = signal.signal(one, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and signal.SIGINT in self.seen
        self.seen.append(number)
        if again and self.breakable:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.breakable = False
        for one, handler in self.before.items():
            signal.signal(one, handler)
        if signal.SIGTERM in self.seen:
            signal.raise_signal(signal.SIGTERM)
