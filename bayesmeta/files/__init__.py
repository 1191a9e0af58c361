"""Files that survive: learners and posteriors saved as data, never code."""

from bayesmeta.files.saving import check_state, load, save
from bayesmeta.files.storage import alone, check_target, read, write, write_atomically

__all__ = ["alone", "check_state", "check_target", "load", "read", "save", "write", "write_atomically"]
