"""Encoders of support sets: what a task's points say, as a vector."""

from bayesmeta.encoders.attention import Attention
from bayesmeta.encoders.base import Encoder, check_encoder
from bayesmeta.encoders.heads import HeadDecoder, TaskNetwork
from bayesmeta.encoders.sets import ClassPooling, DeepSet, Relation

__all__ = ["Attention", "ClassPooling", "DeepSet", "Encoder", "HeadDecoder", "Relation", "TaskNetwork", "check_encoder"]
