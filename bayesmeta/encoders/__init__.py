"""Encoders of support sets: what a task's points say, as a vector."""

from bayesmeta.encoders.attention import Attention
from bayesmeta.encoders.base import Encoder, check_encoder
from bayesmeta.encoders.grid import GridConvolution
from bayesmeta.encoders.heads import HeadDecoder, TaskNetwork
from bayesmeta.encoders.relative import RelativeAttention
from bayesmeta.encoders.sets import ClassPooling, DeepSet, Relation

__all__ = [
    "Attention",
    "ClassPooling",
    "DeepSet",
    "Encoder",
    "GridConvolution",
    "HeadDecoder",
    "Relation",
    "RelativeAttention",
    "TaskNetwork",
    "check_encoder",
]
