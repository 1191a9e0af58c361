"""Learners side by side: a table and a page."""

from bayesmeta.report.compare import compare
from bayesmeta.report.page import Comparison
from bayesmeta.report.streams import compare_streams

__all__ = ["Comparison", "compare", "compare_streams"]
