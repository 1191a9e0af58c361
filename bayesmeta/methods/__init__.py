"""The methods, one paper family a file. They import the core and never each other."""

from bayesmeta.methods.anil import ANIL
from bayesmeta.methods.implicit_maml import ImplicitMAML
from bayesmeta.methods.maml import MAML, FirstOrderMAML
from bayesmeta.methods.meta_sgd import MetaSGD
from bayesmeta.methods.reptile import Reptile

__all__ = ["ANIL", "MAML", "FirstOrderMAML", "ImplicitMAML", "MetaSGD", "Reptile"]
