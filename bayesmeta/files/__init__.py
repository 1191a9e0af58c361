"""Files that survive: learners and posteriors saved as data, never code."""

from bayesmeta.files.safe import alone, check_target, read, write, write_atomically
from bayesmeta.files.saving import check_state, load, save

__all__ = ["alone", "check_state", "check_target", "load", "read", "save", "write", "write_atomically"]
