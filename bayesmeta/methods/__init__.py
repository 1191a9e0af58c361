"""The methods, one paper family a file. They import the core and never each other."""

from bayesmeta.methods.abml import ABML
from bayesmeta.methods.adkf import ADKF
from bayesmeta.methods.adkl import ADKL
from bayesmeta.methods.alpaca import ALPaCA
from bayesmeta.methods.anil import ANIL
from bayesmeta.methods.bmaml import BMAML
from bayesmeta.methods.dkt import DKT, DKTClassifier
from bayesmeta.methods.experience_replay import ExperienceReplay
from bayesmeta.methods.gemcl import GeMCL
from bayesmeta.methods.implicit_maml import ImplicitMAML
from bayesmeta.methods.la_maml import LaMAML
from bayesmeta.methods.laplace_gp import LaplaceGP
from bayesmeta.methods.laplace_head import LaplaceHead
from bayesmeta.methods.leo import LEO
from bayesmeta.methods.maml import MAML, FirstOrderMAML
from bayesmeta.methods.mer import MER
from bayesmeta.methods.meta_sgd import MetaSGD
from bayesmeta.methods.neural_process import ConditionalNeuralProcess, NeuralProcess
from bayesmeta.methods.oml import OML
from bayesmeta.methods.online_laplace import OnlineLaplace
from bayesmeta.methods.pacoh import PACOH
from bayesmeta.methods.pacoh_nn import PACOHNN
from bayesmeta.methods.platipus import PLATIPUS
from bayesmeta.methods.polya_gamma_gp import PolyaGammaGP
from bayesmeta.methods.prototypical_network import PrototypicalNetwork
from bayesmeta.methods.reptile import Reptile
from bayesmeta.methods.vcl import VCL
from bayesmeta.methods.versa import VERSA

__all__ = [
    "ABML",
    "ADKF",
    "ADKL",
    "ANIL",
    "BMAML",
    "DKT",
    "LEO",
    "MAML",
    "MER",
    "OML",
    "PACOH",
    "PACOHNN",
    "PLATIPUS",
    "VCL",
    "VERSA",
    "ALPaCA",
    "ConditionalNeuralProcess",
    "DKTClassifier",
    "ExperienceReplay",
    "FirstOrderMAML",
    "GeMCL",
    "ImplicitMAML",
    "LaMAML",
    "LaplaceGP",
    "LaplaceHead",
    "MetaSGD",
    "NeuralProcess",
    "OnlineLaplace",
    "PolyaGammaGP",
    "PrototypicalNetwork",
    "Reptile",
]
