"""Learners side by side: a table and a page."""

from bayesmeta.report.compare import compare
from bayesmeta.report.page import Comparison

__all__ = ["Comparison", "compare"]
