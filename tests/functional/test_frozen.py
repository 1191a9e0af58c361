"""Modules as functions of their weights: what is called is a copy, and the module itself stays as it is."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import bayesmeta as bm
from bayesmeta.functional import Frozen, adaptable, call

X = torch.linspace(-1, 1, 6).reshape(3, 2)


class InAList(nn.Module):
    """Its layers are attributes, and stand in a plain list too, by which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 1)
        self.layers = [self.first, {"last": (self.second,)}]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1]["last"][0](self.layers[0](x).tanh())  # type: ignore[index, operator, no-any-return]


class WeightsInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(1, 2)), nn.Parameter(torch.randn(1))
        self.both = [self.weight, self.bias]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, *self.both)


class BoundMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.work = self.apply_linear
        self.later = functools.partial(self.work)

    def apply_linear(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.work(x) + self.later(x)


class Closure(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.ones(1))
        scale = self.scale
        self.function = lambda x, factor=2.0: factor * self.linear(x) * scale

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[no-any-return]


class Hooked(nn.Module):
    """A hook that closes over the module, and one that notes what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(2, 1), nn.Parameter(torch.ones(2))
        self.linear.register_forward_pre_hook(lambda module, given: (given[0] * self.scale,))
        self.seen: list[int] = []
        self.linear.register_forward_hook(lambda module, given, output: self.seen.append(len(output)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh()).sum(-1, keepdim=True)  # type: ignore[no-any-return]


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.first(x).tanh()).sum(-1, keepdim=True)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x[..., None])[0][:, -1, :1]  # type: ignore[no-any-return]


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.shift  # type: ignore[no-any-return]


class Pair(NamedTuple):
    first: nn.Module
    second: nn.Module


class Layers(list[Any]):
    """A list of a class of its own."""


class Called(nn.Module):
    """Two layers, called as an attribute of another kind has them."""

    def __init__(self, kept: Callable[[nn.Module, nn.Module], Any], layers: Callable[[Any], list[Any]]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 1)
        self.kept = kept(self.a, self.b)
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.layers(self.kept)
        return second(first(x).tanh())  # type: ignore[no-any-return]


def recursive(a: nn.Module, b: nn.Module) -> Callable[[Tensor, int], Tensor]:
    def apply(x: Tensor, left: int = 1) -> Tensor:
        return apply(a(x).tanh(), 0) if left else b(x)  # type: ignore[no-any-return]

    return apply


def holding_itself(a: nn.Module, b: nn.Module) -> list[Any]:
    found: list[Any] = [a, b]
    found.append(found)
    return found


class Slotted(nn.Module):
    __slots__ = ("kept",)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.kept = [self.linear]

    def forward(self, x: Tensor) -> Tensor:
        return self.kept[0](x)


class Recursive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 1)
        self.apply_both = recursive(self.a, self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_both(x, 1)


KEPT: dict[str, Callable[[], nn.Module]] = {
    "defaults of functions": lambda: Called(lambda *both: [lambda x, m=m: m(x) for m in both], lambda kept: kept),
    "keyword defaults": lambda: Called(
        lambda *both: [functools.partial(lambda x, *, m: m(x), m=m) for m in both], lambda kept: kept
    ),
    "named tuple": lambda: Called(Pair, list),
    "list of a class of its own": lambda: Called(lambda *both: Layers(both), lambda kept: kept),
    "deque": lambda: Called(lambda *both: deque(both), list),
    "default dict": lambda: Called(lambda a, b: defaultdict(int, a=a, b=b), lambda kept: [kept["a"], kept["b"]]),
    "set": lambda: Called(lambda a, b: ({a}, frozenset([b])), lambda kept: [next(iter(part)) for part in kept]),
    "keys of a dict": lambda: Called(lambda a, b: {a: 0, b: 1}, list),
    "weak references": lambda: Called(
        lambda a, b: [weakref.ref(a), weakref.ref(b)], lambda kept: [one() for one in kept]
    ),
    "list that holds itself": lambda: Called(holding_itself, lambda kept: kept[2][2][:2]),
    "closure that holds itself": Recursive,
    "slots": Slotted,
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **KEPT,
    "list of layers": InAList,
    "list of weights": WeightsInAList,
    "bound method": BoundMethod,
    "closure": Closure,
    "hooks": Hooked,
    "tied weights": Tied,
    "one layer under two names": TwoNames,
    "one layer twice in a row": lambda: nn.Sequential(*[nn.Linear(2, 2)] * 2, nn.Linear(2, 1)),
    "recurrent": Recurrent,
    "buffer": Buffered,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(2, 1)),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(2, 2)), nn.Linear(2, 1)),
    "parameter list": lambda: bm.networks.MLP(2, 1, hidden=(3,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_call_with_other_weights_is_that_of_a_module_with_those_weights(name: str) -> None:
    network, other = NETWORKS[name](), NETWORKS[name]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = other(X)
    weights = dict([*other.named_parameters(), *other.named_buffers()])
    assert call(network, weights, X).equal(expected)
    assert not network(X).equal(expected)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert all(isinstance(value, nn.Parameter) for value in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_flow_to_the_given_weights_alone(name: str) -> None:
    network = NETWORKS[name]()
    weights = {key: value.detach().clone().requires_grad_() for key, value in network.named_parameters()}
    slopes = torch.autograd.grad(call(network, weights, X).square().sum(), list(weights.values()))
    own = torch.autograd.grad(network(X).square().sum(), list(network.parameters()))
    for found, expected in zip(slopes, own, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_was_done_to_the_module_since_is_followed() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    frozen = Frozen(network)
    torch.manual_seed(0)
    first, second = frozen(X), frozen(X)
    assert not first.equal(second)
    network.eval()
    assert frozen(X).equal(frozen(X))
    network[1] = nn.Tanh()  # a replaced layer
    assert frozen(X).equal(network[2](network[0](X).tanh()))
    network.register_forward_hook(lambda module, given, output: 2 * output)
    assert frozen(X).equal(network(X))


def test_hooks_of_the_module_see_calls_of_the_copy() -> None:
    network = Hooked()
    call(network, {}, X)
    assert network.seen == [3]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match=r"expected names of the module's parameters or buffers, got \['weights'\]"):
        call(nn.Linear(2, 1), {"weights": torch.zeros(1, 2)}, X)


def test_frozen_is_differentiable_and_stays_when_the_module_moves() -> None:
    network = Buffered()
    frozen, before = Frozen(network), network(X).detach()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.add_(1.0)
    assert frozen(X).equal(before)
    slopes = torch.autograd.grad(sum(value.sum() for value in frozen.weights.values()), list(network.parameters()))
    assert all(slope.equal(torch.ones_like(slope)) for slope in slopes)


def test_a_call_that_fails_leaves_the_module_as_it_was() -> None:
    network = nn.Linear(2, 1)
    weight = network.weight
    with pytest.raises(RuntimeError):
        call(network, {"weight": torch.zeros(1, 2)}, torch.zeros(3, 5))
    assert network.weight is weight


def test_another_thread_sees_the_modules_own_weights_during_a_call() -> None:
    inside, go = threading.Event(), threading.Event()

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            go.wait(10)
            return super().forward(x)

    network = Slow(2, 1)
    weight = network.weight.detach().clone()
    thread = threading.Thread(target=lambda: call(network, {"weight": torch.zeros(1, 2)}, X))
    thread.start()
    inside.wait()
    try:
        assert network.weight.equal(weight)
        assert network.state_dict()["weight"].equal(weight)
    finally:
        go.set()
        thread.join()


LEARNERS: dict[str, Callable[[nn.Module], bm.Learner]] = {
    "MAML": lambda network: bm.MAML(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1),
    "FirstOrderMAML": lambda network: bm.FirstOrderMAML(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1),
    "MetaSGD": lambda network: bm.MetaSGD(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1),
    "Reptile": lambda network: bm.Reptile(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1),
    "ImplicitMAML": lambda network: bm.ImplicitMAML(network, bm.likelihoods.Gaussian(), steps=2, rate=0.1),
    "ABML": lambda network: bm.ABML(network, bm.likelihoods.Gaussian(), steps=2),
    "ABML, amortised": lambda network: bm.ABML(
        network, bm.likelihoods.Gaussian(), steps=2, encoder=bm.encoders.DeepSet(1, 1, 4)
    ),
    "PLATIPUS": lambda network: bm.PLATIPUS(network, bm.likelihoods.Gaussian(), steps=2),
    "BMAML": lambda network: bm.BMAML(network, bm.likelihoods.Gaussian(), particles=2, steps=2),
    "PACOHNN": lambda network: bm.PACOHNN(network, bm.likelihoods.Gaussian(), tasks=4, particles=2, weights=2, steps=2),
}


class Body(nn.Module):
    """Features, whose output it notes, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head, self.seen = nn.Linear(1, 3), nn.Linear(3, 1), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.features.weight)
        return self.head(self.features(x).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_keep_frozen_weights(name: str) -> None:
    network = Body()
    network.features.requires_grad_(False)
    learner, tasks = LEARNERS[name](network), bm.tasks.Sinusoids(batch=4, noise=0.1)
    learner.strategy = "loop"
    before = {key: value.clone() for key, value in network.features.state_dict().items()}
    bm.fit(learner, tasks, steps=2, progress=False)
    learner(tasks[2].support)(tasks[2].query.x)
    assert all(value.equal(before[key]) for key, value in network.features.state_dict().items())
    assert network.seen
    assert all(weight.equal(before["weight"]) for weight in network.seen)


def test_maml_with_frozen_features_is_anil() -> None:
    network = bm.networks.MLP(1, 1, hidden=(5,))
    network.features.requires_grad_(False)
    given = bm.tasks.Sinusoids(batch=4)[0]
    maml = bm.MAML(network, bm.likelihoods.Gaussian(), steps=3, rate=0.1)
    anil = bm.ANIL(network.features, network.head, bm.likelihoods.Gaussian(), steps=3, rate=0.1)
    torch.testing.assert_close(maml(given.support)(given.query.x).mean, anil(given.support)(given.query.x).mean)
    torch.testing.assert_close(maml.loss(given), anil.loss(given))


def test_a_network_of_frozen_weights_alone_is_refused() -> None:
    network = bm.networks.MLP(1, 1)
    learner = bm.MAML(network, bm.likelihoods.Gaussian())
    learner.requires_grad_(False)
    with pytest.raises(ValueError, match=r"got none that requires a gradient; unfreeze some.*use torch.no_grad\(\)"):
        learner(bm.points([0.0], [0.0]))
    with pytest.raises(ValueError, match="got none that requires a gradient"):
        bm.MAML(network, bm.likelihoods.Gaussian())


def test_weights_frozen_after_a_learner_was_built_around_them_are_named() -> None:
    network = bm.networks.MLP(1, 1, hidden=(5,))
    learner = bm.ABML(network, bm.likelihoods.Gaussian())
    network.head.requires_grad_(False)
    with pytest.raises(ValueError, match=r"expected .* weights that a task adapts, as when the learner was built"):
        learner(bm.points([0.0], [0.0]))([0.0])


def compiled(module: nn.Module) -> nn.Module:
    validates = torch.distributions.Distribution._validate_args
    try:
        return torch.compile(module, backend="eager")
    finally:
        torch.distributions.Distribution.set_default_validate_args(validates)  # which the compiler switches off


class Helper:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


class Helped(nn.Module):
    def __init__(self, help_with: Callable[[nn.Linear], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.helper = help_with(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("help_with", "how"),
    [
        (Helper, "through Helper"),
        (lambda layer: [{"a": SimpleNamespace(layer=layer)}], "through SimpleNamespace"),
        (lambda layer: functools.cache(layer.forward), "through _lru_cache_wrapper"),
        (lambda layer: Helper(layer.weight), "through Helper"),
        (lambda layer: layer.weight.detach(), "a view of a weight"),
        (lambda layer: [layer.weight[0]], "a view of a weight"),
    ],
)
def test_layers_that_a_copy_cannot_follow_are_refused_by_the_attribute(
    help_with: Callable[[nn.Linear], Any], how: str
) -> None:
    with pytest.raises(
        ValueError, match=f"network: expected layers in attributes.* got one at 'helper' that is reached {how}"
    ):
        bm.MAML(Helped(help_with), bm.likelihoods.Gaussian())
    bm.MAML(Helped(lambda _: SimpleNamespace(width=3)), bm.likelihoods.Gaussian())


@pytest.mark.parametrize(
    "make", [lambda: nn.utils.spectral_norm(nn.Linear(1, 1)), lambda: parametrizations.spectral_norm(nn.Linear(1, 1))]
)
@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_spectral_normalisation_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        ValueError, match=r"network: expected (no state that a forward pass changes|layers in attributes)"
    ):
        bm.MAML(make(), bm.likelihoods.Gaussian())


def test_dropout_is_looped_over() -> None:
    network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    learner, tasks = bm.MAML(network, bm.likelihoods.Gaussian(), steps=2), bm.tasks.Sinusoids(batch=3)
    assert len(bm.fit(learner, tasks, steps=2, progress=False).losses) == 2
    assert learner(tasks[0].support)(tasks[0].query.x).mean.isfinite().all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: compiled(nn.Linear(1, 1)), ValueError, "network: expected a plain module, got OptimizedModule"),
        (lambda: torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), ValueError, "network: expected a plain module"),
        (lambda: nn.LazyLinear(1), ValueError, "network: expected weights, got LazyLinear, which has none before its"),
        (lambda: nn.Linear, TypeError, "network: expected a torch module .* got the class Linear; build one"),
        (lambda: nn.BatchNorm1d(1), ValueError, "network: expected no running statistics, got BatchNorm1d"),
    ],
    ids=["compiled", "scripted", "lazy", "class", "running statistics"],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_networks_that_cannot_be_called_with_other_weights(
    make: Callable[[], nn.Module], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bm.MAML(make(), bm.likelihoods.Gaussian())


def test_adaptable_weights_by_name() -> None:
    network = bm.networks.MLP(1, 1, hidden=(2,))
    network.features[0].bias.requires_grad_(False)
    assert list(adaptable(network)) == ["features.0.weight", "head.weight", "head.bias"]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: bm.networks.MLP(2, 3, hidden=(5, 4)),
    "without biases": lambda: nn.Sequential(nn.Linear(2, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)),
    "a frozen layer": lambda: nn.Sequential(nn.Linear(2, 4).requires_grad_(False), nn.GELU(), nn.Linear(4, 3)),
    "a frozen bias": lambda: bm.networks.MLP(2, 3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lead", [(3,), (4, 1), (4, 3)])
def test_weights_that_differ_are_a_product_a_layer_as_one_by_one(name: str, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, x = LAYERS[name]().double(), torch.randn(lead[-1], 7, 2, dtype=torch.float64)
    if name == "a frozen bias":
        network.get_parameter("head.bias").requires_grad_(False)
    size = sum(value.numel() for value in adaptable(network).values())
    weights = torch.randn(*lead, size, dtype=torch.float64).requires_grad_()
    found, expected = (Frozen(network, strategy).over_tasks(x, weights) for strategy in ("auto", "loop"))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(values.square().sum(), weights)[0] for values in (found, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("name", [*LAYERS, "mapped"])
def test_a_pullback_is_of_the_weights_as_they_are(name: str, cast: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 3)) if name == "mapped" else LAYERS[name]()
    frozen, x = Frozen(network), torch.randn(3, 7, 2)
    weights = torch.randn(3, sum(value.numel() for value in adaptable(network).values()))
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):  # which keeps what it has cast
        pullback = frozen.pullback(x, weights)
        for _ in range(2):
            found = pullback(lambda values: 2 * values)
            leaf = weights.clone().requires_grad_()
            (expected,) = torch.autograd.grad(frozen.over_tasks(x, leaf).square().sum(), leaf)
            torch.testing.assert_close(found, expected)
            weights.normal_()


def test_a_hook_sees_one_task_at_a_time() -> None:
    network = bm.networks.MLP(2, 3)
    seen: list[int] = []
    network.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dim()))
    Frozen(network).over_tasks(torch.randn(3, 7, 2))
    Frozen(network).over_tasks(torch.randn(3, 7, 2), torch.randn(3, sum(p.numel() for p in network.parameters())))
    assert set(seen) == {2}
