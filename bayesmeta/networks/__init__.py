"""Networks that work under every learner."""

from bayesmeta.networks.cells import Cells
from bayesmeta.networks.checks import check_network, check_padding, has_batch_norm, parts
from bayesmeta.networks.choice import Choice
from bayesmeta.networks.conv4 import Conv4
from bayesmeta.networks.gated import Gated
from bayesmeta.networks.mlp import MLP
from bayesmeta.networks.norms import BatchNorm, GroupNorm
from bayesmeta.networks.text_encoder import TextEncoder
from bayesmeta.networks.transformer import BEGIN, END, PADDING, NextToken, Transformer
from bayesmeta.networks.unet import UNet

__all__ = [
    "BEGIN",
    "END",
    "MLP",
    "PADDING",
    "BatchNorm",
    "Cells",
    "Choice",
    "Conv4",
    "Gated",
    "GroupNorm",
    "NextToken",
    "TextEncoder",
    "Transformer",
    "UNet",
    "check_network",
    "check_padding",
    "has_batch_norm",
    "parts",
]
