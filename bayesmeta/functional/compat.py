# ruff: noqa
from bayesmeta.functional.frozen import Frozen, redrawn
from bayesmeta.randomness import standard_normal


def snapshot(module):
    return {name: parameter.clone() for name, parameter in module.named_parameters()}


def named(module):
    return dict(module.named_parameters())


def frozen(module, strategy="auto"):
    return Frozen(module, strategy).over_tasks


def outputs(network, weights, x, strategy="auto"):
    return Frozen(network, strategy).over_tasks(x, weights)
