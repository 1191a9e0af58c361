"""A playground: ``python -m bayesmeta.play`` serves one page on this machine, where points of a new task are clicked.

Every learner answers at once, with its band, the part of it that is doubt about the function, functions drawn, and how often the
band held the point that came next.
"""

from bayesmeta.play.server import Playground

__all__ = ["Playground"]
