"""Task sources, one a file: synthetic ones with an oracle, users' own data, real families."""

from bayesmeta.tasks.arrays import ArrayTasks, tasks_from_arrays, tasks_from_frame
from bayesmeta.tasks.classes import ClassTasks
from bayesmeta.tasks.domains import DomainStreams
from bayesmeta.tasks.gaussian_process import GaussianProcessTasks
from bayesmeta.tasks.images import ImageTasks, image_folder
from bayesmeta.tasks.linear import LinearGaussian
from bayesmeta.tasks.longitudinal import Longitudinal
from bayesmeta.tasks.omniglot import Omniglot
from bayesmeta.tasks.sinusoids import Sinusoids
from bayesmeta.tasks.source import SyntheticTasks, TaskSource
from bayesmeta.tasks.streams import ClassStreams, StreamSource

__all__ = [
    "ArrayTasks",
    "ClassStreams",
    "ClassTasks",
    "DomainStreams",
    "GaussianProcessTasks",
    "ImageTasks",
    "LinearGaussian",
    "Longitudinal",
    "Omniglot",
    "Sinusoids",
    "StreamSource",
    "SyntheticTasks",
    "TaskSource",
    "image_folder",
    "tasks_from_arrays",
    "tasks_from_frame",
]
