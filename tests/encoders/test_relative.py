"""Encoders that see differences of inputs alone: shifts, queries, what is far, and what they compute, spelled out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor, nn
from torch.nn import functional as F

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.encoders import Encoder, GridConvolution, RelativeAttention
from bayesmeta.encoders.grid import _weights

R = 16
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "attention": lambda: RelativeAttention(1, 1, R),
    "grid": lambda: GridConvolution(1, 1, R),
    "grid of one level": lambda: GridConvolution(1, 1, R, resolution=9.0, levels=1),
    "deep grid": lambda: GridConvolution(1, 1, R, resolution=50.0, levels=6),
}


def build(make: Callable[[], Encoder]) -> bm.ConditionalNeuralProcess:
    torch.manual_seed(0)
    return bm.ConditionalNeuralProcess(make(), bm.networks.MLP(R, 2), bm.likelihoods.HeteroscedasticGaussian()).double()


def tasks() -> bm.Episode:
    """Six tasks of 6, 5, 0, 4, 5 and 2 points from -5 to 5, in float64."""
    episode = bm.tasks.Sinusoids(batch=6, shots=(0, 6), noise=0.1)[3]
    assert episode.support.mask.sum(1).tolist() == [6, 5, 0, 4, 5, 2]
    return bm.Episode(*(Points(part.x.double(), part.y.double(), part.mask) for part in episode))


def answers(learner: bm.Learner, support: Points, x: Tensor) -> Tensor:
    with torch.no_grad():
        said = learner(support)(x)
    return torch.cat([said.mean, said.stddev], -1)


@pytest.mark.parametrize("name", ENCODERS)
class TestRelative:
    @pytest.mark.parametrize("shift", [0.5, 37.3137, -1e4])
    def test_a_shift_of_all_inputs_changes_nothing(self, name: str, shift: float) -> None:
        learner, (support, query) = build(ENCODERS[name]), tasks()
        moved = support._replace(x=(support.x + shift) * support.mask[..., None])
        expected = answers(learner, support, query.x)
        assert (answers(learner, moved, query.x + shift) - expected).abs().max() < 1e-9
        assert expected[0].std(0).min() > 1e-4, "else answers are the same everywhere"

    def test_nor_in_single_precision(self, name: str) -> None:
        learner, (support, query) = build(ENCODERS[name]).float(), tasks()
        x, asked = (
            (part.x * 64).round() / 64 for part in (support, query)
        )  # so that shifted inputs are exact in float32
        support = Points(x.float(), support.y.float(), support.mask)
        moved = support._replace(x=(support.x + 32) * support.mask[..., None])
        found, expected = answers(learner, moved, asked.float() + 32), answers(learner, support, asked.float())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_further_queries_move_no_answer(self, name: str) -> None:
        learner, (support, query) = build(ENCODERS[name]), tasks()
        expected = answers(learner, support, query.x)
        more = torch.cat([query.x - 333.3, query.x, query.x + 1e4, query.x + 0.031], 1)
        assert (answers(learner, support, more)[:, 15:30] - expected).abs().max() < 1e-12

    def test_other_tasks_and_padding_move_no_answer(self, name: str) -> None:
        learner, (support, query) = build(ENCODERS[name]), tasks()
        expected = answers(learner, support, query.x)
        alone = [answers(learner, Points(*(t[b : b + 1] for t in support)), query.x[b : b + 1]) for b in range(6)]
        assert (torch.cat(alone) - expected).abs().max() < 1e-12
        padded = Points(*(torch.cat([torch.zeros_like(t), t], 1).flip(1) for t in support))
        assert (answers(learner, padded, query.x) - expected).abs().max() < 1e-12

    def test_an_empty_support_says_the_same_everywhere(self, name: str) -> None:
        learner, (support, query) = build(ENCODERS[name]), tasks()
        said = answers(learner, support, query.x)[2]
        torch.testing.assert_close(said, said[:1].expand_as(said))

    def test_it_is_a_latent_process_too_and_refuses_updates(self, name: str) -> None:
        torch.manual_seed(0)
        learner = bm.NeuralProcess(
            ENCODERS[name](), bm.networks.MLP(R + 4, 2), bm.likelihoods.HeteroscedasticGaussian(), latent=4
        ).double()
        support, query = tasks()
        moved = support._replace(x=(support.x + 7.7) * support.mask[..., None])
        for one, other in zip(learner.infer(support), learner.infer(moved), strict=True):
            torch.testing.assert_close(one, other)
        with pytest.raises(NotImplementedError, match="Rehearsal"):
            learner(support).update(query)


@pytest.mark.parametrize(("resolution", "levels"), [(9.0, 1), (16.0, 2), (7.3, 3), (16.0, 4), (50.0, 6)])
def test_a_longer_grid_says_the_same(resolution: float, levels: int) -> None:
    encoder = GridConvolution(1, 1, 8, resolution=resolution, levels=levels).double()
    support, query = tasks()
    x = torch.cat([query.x, query.x * 3], 1)
    expected, near = encoder(support, x), encoder(support)
    encoder.cells += 3 * 2 ** (levels - 1)
    torch.testing.assert_close(encoder(support, x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(encoder(support), near, rtol=0, atol=1e-12)


def test_beyond_its_reach_answers_are_those_of_an_empty_support() -> None:
    encoder = GridConvolution(1, 1, 8, resolution=16.0).double()
    support, _ = tasks()
    support = Points(*(t[:1] for t in support))
    empty = encoder(Points(*(torch.zeros_like(t[:, :1]) for t in support)), torch.zeros(1, 1, 1).double())
    low, high = support.x.amin() - encoder.reach, support.x.amax() + encoder.reach
    x = torch.stack([low, low - 5, high, high + 1e3])[None, :, None]
    torch.testing.assert_close(encoder(support, x), empty.expand(1, 4, -1), rtol=0, atol=1e-12)
    assert (encoder(support, support.x) - empty).abs().amax(-1).min() > 1e-3


def test_the_grid_is_a_unet_over_density_and_means() -> None:
    """Two levels spelled out, on cells computed one by one with scipy's spline."""
    encoder = GridConvolution(1, 1, 4, resolution=2.0, levels=2).double()
    x, y = torch.tensor([0.3, 1.9, 2.2]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    cells = torch.arange(-40, 60)  # of half a unit each, from the leftmost point on
    spline = BSpline.basis_element(range(-2, 3), extrapolate=False)
    place = (cells[None] - (x[:, None] - 0.3) * 2).numpy()
    weight = torch.from_numpy(spline(place)).nan_to_num()
    density, data = weight.sum(0), y @ weight
    maps = torch.stack([density.log1p(), data / (density + 0.01)])[None]
    fine = F.relu(F.conv1d(maps, encoder.down[0].weight, encoder.down[0].bias, padding=2))
    coarse = F.relu(F.conv1d(fine, encoder.down[1].weight, encoder.down[1].bias, padding=2, stride=2))
    both = torch.cat([coarse.repeat_interleave(2, -1), fine], 1)
    maps = F.relu(F.conv1d(both, encoder.up[0].weight, encoder.up[0].bias, padding=2))
    asked = torch.tensor([-1.7, 0.3, 2.04, 5.0]).double()
    at = torch.from_numpy(spline((cells[None] - (asked[:, None] - 0.3) * 2).numpy())).nan_to_num()
    given = Points(x[None, :, None], y[None, :, None], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(encoder(given, asked[None, :, None])[0], at @ maps[0].T)


def test_splines_are_those_of_scipy_and_add_up_to_one() -> None:
    place = torch.linspace(2, 5, 31).double()[None]
    weights = _weights(place, 8)
    spline = BSpline.basis_element(range(-2, 3), extrapolate=False)
    torch.testing.assert_close(weights[0], torch.from_numpy(spline((torch.arange(8) - place.mT).numpy())).nan_to_num())
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 31).double())


def test_attention_weighs_by_what_is_said_and_by_differences() -> None:
    """One layer and one head, spelled out for a task."""
    torch.manual_seed(0)
    encoder = RelativeAttention(1, 1, 8, layers=1, heads=1).double()
    x, y = torch.tensor([[0.3], [1.9], [-0.5]]).double(), torch.tensor([[1.0], [-2.0], [0.5]]).double()
    asked, layer = torch.tensor([[0.7], [-3.0]]).double(), encoder.layers[0]
    tokens = torch.cat([encoder.prior[None], encoder.point(y)])
    nowhere = encoder.place(torch.zeros(1, 7).double())
    for x_asked, found in zip(
        asked, encoder(Points(x[None], y[None], torch.ones(1, 3).bool()), asked[None])[0], strict=True
    ):
        seen = torch.cat([torch.tanh((x_asked - x) * 2.0**k) for k in range(-2, 4)], 1)
        term = torch.cat([nowhere, encoder.place(torch.cat([seen, torch.ones(3, 1).double()], 1))])
        key, value = layer.key_value(layer.before_attention(tokens)).chunk(2, -1)
        logits = key @ layer.query(layer.before_attention(encoder.query)) / 8**0.5 + term[:, 0]
        token = encoder.query + layer.out(logits.softmax(0) @ value)
        torch.testing.assert_close(found, token + layer.mlp(layer.before_mlp(token)))


def test_two_inputs_shift_in_both() -> None:
    learner = bm.ConditionalNeuralProcess(
        RelativeAttention(2, 1, R), bm.networks.MLP(R, 2), bm.likelihoods.HeteroscedasticGaussian()
    ).double()
    x, y, shift = torch.randn(5, 2).double(), torch.randn(5).double(), torch.tensor([3.0, -8.0]).double()
    one, other = (learner(bm.points(x + s, y, dtype=torch.float64))(x / 2 + s).mean for s in (torch.zeros(2), shift))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(learner(bm.points(x * shift, y, dtype=torch.float64))(x / 2).mean, one)


def test_what_fits_no_grid_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"inputs: expected 1, as the grid has one axis, got 2; take RelativeAttention"
    ):
        GridConvolution(2, 1)
    with pytest.raises(
        ValueError, match=r"x: expected a support of at most 6250 units, 100,000 cells, got one of 1e\+06"
    ):
        GridConvolution(1, 1)(bm.points([0.0, 1e6], [0.0, 1.0]))
    with pytest.raises(
        ValueError, match=r"decoder: expected 64 inputs, 0 features \(the encoder's inputs, none of a relative one\)"
    ):
        bm.ConditionalNeuralProcess(GridConvolution(1, 1), nn.Linear(65, 1), bm.likelihoods.Gaussian())
    with pytest.raises(ValueError, match="size: expected a multiple of the 4 heads"):
        RelativeAttention(1, 1, 10)
