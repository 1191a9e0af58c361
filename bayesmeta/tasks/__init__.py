"""Task sources, one a file: synthetic ones with an oracle, users' own data, real families."""

from bayesmeta.tasks.answers import Candidates, Question, sentence_choices, span_choices, xquad
from bayesmeta.tasks.arrays import ArrayTasks, tasks_from_arrays
from bayesmeta.tasks.bandits import Bandits
from bayesmeta.tasks.boxed import Boxed, cells_and_cards, coco
from bayesmeta.tasks.classes import ClassTasks
from bayesmeta.tasks.collages import Collages, coil20
from bayesmeta.tasks.columns import Columns
from bayesmeta.tasks.detection import DetectionTasks
from bayesmeta.tasks.domains import DomainStreams
from bayesmeta.tasks.drifting import DriftingSinusoids
from bayesmeta.tasks.environments import transitions
from bayesmeta.tasks.frames import predict_frame, tasks_from_frame
from bayesmeta.tasks.gaussian_process import GaussianProcessTasks
from bayesmeta.tasks.images import ImageTasks, image_folder
from bayesmeta.tasks.linear import LinearGaussian
from bayesmeta.tasks.longitudinal import Longitudinal
from bayesmeta.tasks.masks import Masks, camvid, mask_folder, membranes
from bayesmeta.tasks.omniglot import Omniglot
from bayesmeta.tasks.own_scales import OwnScales
from bayesmeta.tasks.rule_books import ExactRules, RuleBooks, rule_books
from bayesmeta.tasks.sawtooth import Sawtooth
from bayesmeta.tasks.segmentation import SceneTasks, SegmentationTasks
from bayesmeta.tasks.sinusoids import Sinusoids
from bayesmeta.tasks.slot_files import slot_domains, slot_file, snips
from bayesmeta.tasks.slots import SlotTasks, slot_names, slot_points
from bayesmeta.tasks.source import SyntheticTasks, TaskSource
from bayesmeta.tasks.spelling import WordVectors, spelled
from bayesmeta.tasks.stored import StoredTasks, store_tasks
from bayesmeta.tasks.streams import ClassStreams, StreamSource
from bayesmeta.tasks.switching import Switching
from bayesmeta.tasks.text import ClassSplit, LabelledTexts, banking77, clinc150, fewrel
from bayesmeta.tasks.tokens import Tokens
from bayesmeta.tasks.translation import TranslationTasks, pair_file, tatoeba, translation_points
from bayesmeta.tasks.worlds import CartPole, Pendulum, Transitions, World

__all__ = [
    "ArrayTasks",
    "Bandits",
    "Boxed",
    "Candidates",
    "CartPole",
    "ClassSplit",
    "ClassStreams",
    "ClassTasks",
    "Collages",
    "Columns",
    "DetectionTasks",
    "DomainStreams",
    "DriftingSinusoids",
    "ExactRules",
    "GaussianProcessTasks",
    "ImageTasks",
    "LabelledTexts",
    "LinearGaussian",
    "Longitudinal",
    "Masks",
    "Omniglot",
    "OwnScales",
    "Pendulum",
    "Question",
    "RuleBooks",
    "Sawtooth",
    "SceneTasks",
    "SegmentationTasks",
    "Sinusoids",
    "SlotTasks",
    "StoredTasks",
    "StreamSource",
    "Switching",
    "SyntheticTasks",
    "TaskSource",
    "Tokens",
    "Transitions",
    "TranslationTasks",
    "WordVectors",
    "World",
    "banking77",
    "camvid",
    "cells_and_cards",
    "clinc150",
    "coco",
    "coil20",
    "fewrel",
    "image_folder",
    "mask_folder",
    "membranes",
    "pair_file",
    "predict_frame",
    "rule_books",
    "sentence_choices",
    "slot_domains",
    "slot_file",
    "slot_names",
    "slot_points",
    "snips",
    "span_choices",
    "spelled",
    "store_tasks",
    "tasks_from_arrays",
    "tasks_from_frame",
    "tatoeba",
    "transitions",
    "translation_points",
    "xquad",
]
