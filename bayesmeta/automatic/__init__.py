"""A learner from a table in one call: several members, chosen and weighed by tasks that were held out."""

from bayesmeta.automatic.autofit import AutoFit, autofit
from bayesmeta.automatic.report import Report

__all__ = ["AutoFit", "Report", "autofit"]
