from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, vmap

from bayesmeta import Points
from bayesmeta.functional import (
    call,
    conjugate_gradient,
    descend,
    first_order,
    hessian_product,
    map_tasks,
    ravel,
    second_order,
    unravel,
)

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive_definite(size: int, seed: int) -> torch.Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def banana(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return (params["a"] ** 3).sum() + (params["b"] * params["a"].sum()).square().sum() + params["b"].exp().sum()


START = {"a": normal(2, seed=1), "b": normal(3, 1, seed=2)}


@examples
@given(st.integers(0, 6), st.floats(0.01, 0.5), st.integers(0, 99))
def test_descend_on_a_quadratic_has_its_closed_form(steps, rate, seed):
    hessian, start, optimum = positive_definite(3, seed), normal(3, seed=seed + 1), normal(3, seed=seed + 2)

    def quadratic(p):
        return 0.5 * (p["w"] - optimum) @ hessian @ (p["w"] - optimum)

    shrink = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - rate * hessian, steps)
    end = descend(quadratic, {"w": start}, steps, rate)["w"]
    torch.testing.assert_close(end, optimum + shrink @ (start - optimum), rtol=1e-9, atol=1e-9)
    jacobian = torch.func.jacrev(lambda s: descend(quadratic, {"w": s}, steps, rate)["w"])(start)
    torch.testing.assert_close(jacobian, shrink, rtol=1e-9, atol=1e-9)  # second order flows through every step


def test_descend_takes_a_rate_for_each_parameter():
    rates = {"a": torch.tensor([0.1, 0.0]), "b": torch.tensor(0.2)}
    slope, end = grad(banana)(START), descend(banana, START, 1, rates)
    for name in START:
        torch.testing.assert_close(end[name], START[name] - rates[name] * slope[name], rtol=0, atol=0)


def test_second_order_is_the_gradient_of_torch_func_to_second_order_where_a_graph_is_recorded():
    flat = ravel(START).requires_grad_()
    start = unravel(flat, START) | {"unused": (2 * flat).sum()}

    def proximal(params):  # which holds the start beside its argument, as implicit MAML's does
        return banana(params) + sum((params[name] - start[name] * flat.sum()).square().sum() for name in START)

    def derivatives(gradient):
        slope = ravel(gradient(proximal)(start))
        return slope, torch.autograd.grad(slope.square().sum(), flat, retain_graph=True)[0]

    for found, expected in zip(derivatives(second_order), derivatives(grad), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_second_order_records_nothing_that_nobody_asked_for():
    trained = {name: value.clone().requires_grad_() for name, value in START.items()}
    expected = ravel(grad(banana)(START))
    with torch.no_grad():
        unrecorded = second_order(banana)(trained)
    frozen, partly = second_order(banana)(START), second_order(banana)(START | {"a": trained["a"]})
    for slope in (unrecorded, frozen, partly):
        torch.testing.assert_close(ravel(slope).detach(), expected, rtol=1e-13, atol=1e-13)
    assert not any(value.requires_grad for value in [*unrecorded.values(), *frozen.values()])
    assert all(value.requires_grad for value in partly.values())


def test_second_order_of_what_depends_on_no_parameter_is_zero_as_torch_func_has_it():
    trained = {"a": torch.ones(2, requires_grad=True)}
    for params in (trained, {"a": torch.ones(2)}):
        assert torch.equal(second_order(lambda params: torch.tensor(1.0))(params)["a"], torch.zeros(2))
    assert second_order(lambda params: trained["a"].sum())({}) == {}


def test_first_order_has_the_same_value_and_no_second_derivative():
    def adapted(gradient, start):
        return ravel(descend(banana, unravel(start, START), 3, 0.01, gradient))

    flat = ravel(START)
    torch.testing.assert_close(adapted(grad, flat), adapted(first_order, flat), rtol=0, atol=0)
    jacobian = torch.func.jacrev(lambda s: adapted(first_order, s))(flat)
    assert torch.equal(jacobian, torch.eye(len(flat), dtype=torch.float64))
    assert not torch.allclose(torch.func.jacrev(lambda s: adapted(grad, s))(flat), jacobian)


def test_first_order_works_the_same_under_vmap_and_autograd():
    starts = normal(4, 5).requires_grad_()

    def adapted(start):
        return ravel(descend(banana, unravel(start, START), 2, 0.01, first_order))

    slope = torch.autograd.grad(vmap(adapted)(starts).sum(), starts)[0]
    assert torch.equal(slope, torch.ones_like(slope))


def test_hessian_product_equals_the_dense_hessian_times_the_vector():
    vector = {name: normal(*value.shape, seed=9) for name, value in START.items()}
    dense = torch.autograd.functional.hessian(lambda v: banana(unravel(v, START)), ravel(START))
    product = ravel(hessian_product(banana, START, vector))
    torch.testing.assert_close(product, dense @ ravel(vector), rtol=1e-12, atol=1e-12)
    step = 1e-5
    ahead, behind = ({n: START[n] + s * vector[n] for n in START} for s in (step, -step))
    difference = (ravel(grad(banana)(ahead)) - ravel(grad(banana)(behind))) / (2 * step)
    torch.testing.assert_close(product, difference, rtol=1e-6, atol=1e-7)


@examples
@given(st.integers(1, 8), st.integers(0, 99), st.integers(0, 5))
def test_conjugate_gradient_solves_in_as_many_iterations_as_unknowns_and_more_do_no_harm(size, seed, extra):
    matrix = positive_definite(size, seed) + size * torch.eye(size, dtype=torch.float64)
    target = normal(size, seed=seed + 1)
    solution = conjugate_gradient(lambda v: matrix @ v, target, size + extra)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-9, atol=1e-9)


def test_conjugate_gradient_comes_closer_with_every_iteration():
    matrix, target = positive_definite(8, 3), normal(8, seed=4)
    truth = torch.linalg.solve(matrix, target)
    errors = [conjugate_gradient(lambda v: matrix @ v, target, n) - truth for n in range(9)]
    energies = torch.stack([e @ matrix @ e for e in errors])
    assert (energies.diff() < 0).all()


def test_conjugate_gradient_of_zero_is_zero_and_it_maps_over_tasks():
    matrices = torch.stack([positive_definite(4, s) for s in range(3)])
    targets = torch.stack([normal(4, seed=1), torch.zeros(4, dtype=torch.float64), normal(4, seed=2)])
    solved = vmap(lambda m, t: conjugate_gradient(lambda v: m @ v, t, 12))(matrices, targets)
    torch.testing.assert_close(solved, torch.linalg.solve(matrices, targets), rtol=1e-8, atol=1e-8)
    assert not solved[1].any()


def test_conjugate_gradient_stops_where_the_curvature_is_negative():
    curvature = torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64)
    target = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    solutions = [conjugate_gradient(lambda v: curvature * v, target, n) for n in (1, 2, 3, 4, 20)]
    assert all(torch.isfinite(s).all() and s @ target > 0 for s in solutions)
    first = target * (target @ target) / (target @ (curvature * target))
    torch.testing.assert_close(solutions[0], first, rtol=1e-12, atol=0)
    assert torch.equal(solutions[-1], solutions[-2])  # it stopped


@examples
@given(st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4))
def test_ravel_and_unravel_are_inverse(shapes):
    tree = {f"p{i}": normal(*shape, seed=i) for i, shape in enumerate(shapes)}
    vector = ravel(tree)
    again = unravel(vector, tree)
    assert list(again) == list(tree)
    assert all(torch.equal(again[n], tree[n]) for n in tree)
    assert torch.equal(ravel(again), vector)


@pytest.mark.parametrize("network", [nn.Linear(2, 3), nn.Conv1d(2, 3, 1)], ids=["linear", "convolution"])
def test_every_strategy_gives_the_values_and_gradients_of_a_loop(network):
    network = network.double()
    weights = {n: normal(4, *p.shape, seed=i).requires_grad_() for i, (n, p) in enumerate(network.named_parameters())}
    x = normal(4, 5, 2) if isinstance(network, nn.Linear) else normal(4, 2, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)

    def task(own, given):
        return {"out": call(network, own, given.x).square(), "count": given.mask.sum()}

    loop = torch.stack([call(network, {n: w[b] for n, w in weights.items()}, x[b]).square() for b in range(4)])
    expected = torch.autograd.grad(loop.sum(), list(weights.values()))
    for strategy in ("auto", "vmap", "loop"):
        mapped = map_tasks(task, weights, Points(x, x, mask), network=network, strategy=strategy)
        torch.testing.assert_close(mapped["out"], loop, rtol=1e-12, atol=1e-12)
        assert mapped["count"].tolist() == [5] * 4
        slopes = torch.autograd.grad(mapped["out"].sum(), list(weights.values()))
        torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-12)


def test_auto_loops_over_convolutions_on_a_cpu_and_maps_the_rest():
    seen = []

    def batched(x):
        seen.append(torch._C._functorch.is_batchedtensor(x))
        return x

    map_tasks(batched, torch.ones(2), network=nn.Sequential(nn.Conv2d(1, 1, 1)))
    assert seen == [False, False]
    map_tasks(batched, torch.ones(2), network=nn.Linear(1, 1))
    assert seen[2:] == [True]
