"""Files that survive: learners and posteriors saved as data, never code."""

from bayesmeta.files.described import MODES, describe, digest, generator_states, plain, set_generator_states
from bayesmeta.files.saving import check_state, load, save
from bayesmeta.files.storage import alone, check_target, read, write, write_atomically

__all__ = [
    "MODES",
    "alone",
    "check_state",
    "check_target",
    "describe",
    "digest",
    "generator_states",
    "load",
    "plain",
    "read",
    "save",
    "set_generator_states",
    "write",
    "write_atomically",
]
