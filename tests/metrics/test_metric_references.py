"""Metrics against torchmetrics, scoringrules, netcal, scikit-learn and scipy, to 1e-6."""

from __future__ import annotations

import netcal.metrics
import numpy as np
import pytest
import scipy.stats
import scoringrules
import sklearn.metrics
import torch
import torchmetrics.functional as reference
import torchmetrics.functional.classification as reference_classes
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

import bayesmeta as bm
from bayesmeta import metrics
from bayesmeta.distributions import mixture

T, M, W = 40, 30, 4
CLOSE = {"atol": 1e-6, "rtol": 0}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


MASK = torch.rand(T, M, generator=generator(1)) < 0.8


def observed(y: Tensor) -> bm.Points:
    return bm.Points(torch.zeros(T, M, 1), y, MASK)


def figure(metric: bm.metrics.Metric, distribution: Distribution, y: Tensor) -> float:
    return metric.reduce(metric.statistic(distribution, observed(y)).sum(0)).item()


@pytest.fixture
def classes() -> tuple[Tensor, Tensor]:
    """Probabilities and labels of the points that are observed."""
    logits = 2 * normal(T, M, W, seed=2)
    return logits.softmax(-1), torch.randint(W, (T, M), generator=generator(3))


def flat(value: Tensor) -> Tensor:
    return value[MASK]


class TestRareOutcomes:
    """One in twenty is a yes; bins of log-odds cost nothing where scores lie apart, and less than 1e-3 where they do not."""

    @pytest.mark.parametrize(("step", "close"), [(0.1, 1e-12), (0.0, 1e-3)])
    @pytest.mark.parametrize("kind", ["yes or no", "labels"])
    def test_ranking(self, kind: str, step: float, close: float) -> None:
        outcome = (torch.rand(T, M, generator=generator(4)) < 0.05).double()
        odds = normal(T, M, seed=5) + 1.5 * outcome - 3.0
        odds = (odds / step).round() * step if step else odds
        yes, scores = outcome[MASK].bool().numpy(), odds[MASK].numpy()
        if kind == "labels":  # the middle of three, beside which two others share the rest
            given: Distribution = dist.Categorical(
                probs=torch.stack([(1 - odds.sigmoid()) / 2, odds.sigmoid(), (1 - odds.sigmoid()) / 2], -1)
            )
            y, label = outcome.long() + 2 * (outcome == 0).long() * (torch.arange(M) % 2), 1
        else:
            given, y, label = dist.Bernoulli(logits=odds[..., None]).to_event(1), outcome[..., None], -1
        auroc = sklearn.metrics.roc_auc_score(yes, scores)
        aupr = sklearn.metrics.average_precision_score(yes, scores)
        assert 0.7 < auroc < 0.95
        assert figure(metrics.AUROC(label), given, y) == pytest.approx(auroc, abs=close)
        assert figure(metrics.AUPR(label), given, y) == pytest.approx(aupr, abs=10 * close)

    def test_a_label_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="label: expected 0 to 1, or -1 for the last, got 2"):
            figure(metrics.AUROC(2), dist.Bernoulli(logits=torch.zeros(T, M, 1)).to_event(1), torch.zeros(T, M, 1))


class TestClasses:
    @pytest.mark.parametrize("bins", [5, 15])
    def test_calibration_errors(self, classes: tuple[Tensor, Tensor], bins: int) -> None:
        p, y = classes
        d, seen, labels = dist.Categorical(probs=p), flat(p), flat(y)
        for metric, norm in ((metrics.ECE(bins), "l1"), (metrics.MCE(bins), "max")):
            expected = reference_classes.multiclass_calibration_error(seen, labels, W, bins, norm)
            assert figure(metric, d, y) == pytest.approx(expected.item(), abs=1e-6)
        assert figure(metrics.ECE(bins), d, y) == pytest.approx(
            netcal.metrics.ECE(bins).measure(seen.numpy(), labels.numpy()), abs=1e-6
        )
        assert figure(metrics.MCE(bins), d, y) == pytest.approx(
            netcal.metrics.MCE(bins).measure(seen.numpy(), labels.numpy()), abs=1e-6
        )
        each = [
            reference_classes.binary_calibration_error(seen[:, c].contiguous(), (labels == c).long(), bins)
            for c in range(W)
        ]
        assert figure(metrics.ClasswiseECE(bins), d, y) == pytest.approx(float(sum(each)) / W, abs=1e-6)

    def test_adaptive_error_where_bins_of_equal_numbers_are_those_of_equal_mass(self) -> None:
        """200 points at each of 6 confidences, two of them in one bin of equal width."""
        confidence = torch.tensor([0.51, 0.55, 0.7, 0.81, 0.83, 0.95], dtype=torch.float64).repeat_interleave(200)
        y = (torch.rand(1200, generator=generator(4)) < 0.8).long()
        d = dist.Categorical(probs=torch.stack([1 - confidence, confidence], -1)[None])
        given = bm.Points(torch.zeros(1, 1200, 1), y[None], torch.ones(1, 1200, dtype=torch.bool))
        metric = metrics.AdaptiveECE(6)
        found = metric.reduce(metric.statistic(d, given).sum(0)).item()
        groups = [(confidence[i : i + 200].mean() - y[i : i + 200].double().mean()).abs() for i in range(0, 1200, 200)]
        assert found == pytest.approx(float(sum(groups)) / 6, abs=1e-6)
        jittered = confidence + 1e-7 * torch.rand(1200, generator=generator(5), dtype=torch.float64)
        binary = netcal.metrics.ECE(6, equal_intervals=False).measure(jittered.numpy(), y.numpy())
        assert found == pytest.approx(binary, abs=1e-6)

    def test_accuracy_nll_and_brier(self, classes: tuple[Tensor, Tensor]) -> None:
        p, y = classes
        d, seen, labels = dist.Categorical(probs=p), flat(p), flat(y)
        accuracy = reference_classes.multiclass_accuracy(seen, labels, W, average="micro").item()
        assert figure(metrics.Accuracy(), d, y) == pytest.approx(accuracy, abs=1e-6)
        assert figure(metrics.NLL(), d, y) == pytest.approx(sklearn.metrics.log_loss(labels, seen), abs=1e-6)
        brier = sum(scoringrules.brier_score((labels == c).numpy().astype(float), seen[:, c].numpy()) for c in range(W))
        assert figure(metrics.Brier(), d, y) == pytest.approx(brier.mean(), abs=1e-6)

    def test_murphys_parts_add_up_where_a_bin_has_one_probability(self) -> None:
        p = torch.randint(1, 10, (T, M), generator=generator(6)).double() / 10 - 0.05
        y = torch.randint(2, (T, M), generator=generator(7))
        d = dist.Categorical(probs=torch.stack([1 - p, p], -1))
        parts = {
            part: figure(metrics.Brier(part, bins=10), d, y) for part in ("reliability", "resolution", "uncertainty")
        }  # type: ignore[arg-type]
        total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
        assert figure(metrics.Brier(), d, y) == pytest.approx(total, abs=1e-12)
        frequency = flat(y).double().mean().item()
        assert parts["uncertainty"] == pytest.approx(2 * frequency * (1 - frequency), abs=1e-12)

    def test_ranking(self) -> None:
        scores = torch.randint(30, (500,), generator=generator(8)) / 30
        positive = torch.rand(500, generator=generator(9)) < scores
        for ours, theirs in ((metrics.auroc, reference.auroc), (metrics.aupr, reference.average_precision)):
            expected = theirs(scores, positive.long(), task="binary")
            assert ours(scores, positive).item() == pytest.approx(expected.item(), abs=1e-6)
        counts = torch.randint(3, (2, 500), generator=generator(10))
        for row, found in zip(counts, metrics.auroc(scores, positive, counts), strict=True):
            repeated = metrics.auroc(scores.repeat_interleave(row), positive.repeat_interleave(row))
            torch.testing.assert_close(found, repeated)

    def test_error_detection(self) -> None:
        """Confidences at the middles of fine bins, where nothing is lost by binning."""
        confidence = (torch.randint(130, 256, (T, M), generator=generator(11)) + 0.5).double() / 256
        y = (torch.rand(T, M, generator=generator(12)) < confidence).long()
        d = dist.Categorical(probs=torch.stack([1 - confidence, confidence], -1))
        expected = reference.auroc(flat(confidence), flat(y), task="binary").item()
        assert figure(metrics.ErrorAUROC(), d, y) == pytest.approx(expected, abs=1e-6)
        coverage, risk = metrics.risk_coverage(flat(confidence), flat(y).bool())
        steps = torch.diff(coverage, prepend=coverage.new_zeros(1))
        assert figure(metrics.AURC(), d, y) == pytest.approx((risk * steps).sum().item(), abs=1e-12)


LOC, SCALE, Y = normal(T, M, 2, seed=20), normal(T, M, 2, seed=21).exp(), normal(T, M, 2, seed=22)


class TestRealTargets:
    def test_crps(self) -> None:
        normals = dist.Normal(LOC, SCALE).to_event(1)
        expected = scoringrules.crps_normal(flat(Y).numpy(), flat(LOC).numpy(), flat(SCALE).numpy()).mean()
        assert figure(metrics.CRPS(), normals, Y) == pytest.approx(expected, abs=1e-6)
        students = dist.StudentT(3.5, LOC, SCALE).to_event(1)
        expected = scoringrules.crps_t(flat(Y).numpy(), 3.5, flat(LOC).numpy(), flat(SCALE).numpy()).mean()
        assert figure(metrics.CRPS(), students, Y) == pytest.approx(expected, abs=1e-6)
        many = mixture(dist.Normal(0.3 * normal(150, T, M, 1, seed=26), 0.2).to_event(1))
        one = mixture(dist.Normal(0.3 * normal(100, T, M, 1, seed=26), 0.2).to_event(1))
        for big in (many, one):  # integrated, and by pairs
            centre = big.component_distribution.mean[..., 0]  # type: ignore[attr-defined]
            expected = scoringrules.crps_mixnorm(
                flat(Y)[:, 0].numpy(), flat(centre).numpy(), np.full_like(flat(centre), 0.2)
            )
            assert figure(metrics.CRPS(), big, Y[..., :1]) == pytest.approx(expected.mean(), abs=1e-6)
        centres, scales = normal(5, T, M, 1, seed=23), normal(5, T, M, 1, seed=24).exp()
        mixed = mixture(dist.Normal(centres, scales).to_event(1))
        m, s = (flat(part.movedim(0, -1)[:, :, 0]).numpy() for part in (centres, scales))
        expected = scoringrules.crps_mixnorm(flat(Y)[:, 0].numpy(), m, s).mean()
        assert figure(metrics.CRPS(), mixed, Y[..., :1]) == pytest.approx(expected, abs=1e-6)

    def test_crps_of_counts(self) -> None:
        rate = SCALE.clamp(max=10)  # scoringrules overflows above
        y = torch.poisson(rate, generator=generator(27))
        expected = scoringrules.crps_poisson(flat(y).numpy(), flat(rate).numpy()).mean()
        assert figure(metrics.CRPS(), dist.Poisson(rate).to_event(1), y) == pytest.approx(expected, abs=1e-6)
        failures = 1 + SCALE
        spread = dist.NegativeBinomial(failures, logits=LOC)
        success = (-LOC).sigmoid()  # scoringrules counts failures before so many successes
        expected = scoringrules.crps_negbinom(flat(y).numpy(), flat(failures).numpy(), flat(success).numpy()).mean()
        assert figure(metrics.CRPS(), spread.to_event(1), y) == pytest.approx(expected, abs=1e-6)

    def test_energy_score_of_given_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draws = normal(16, T, M, 2, seed=25)

        d = dist.Normal(LOC, SCALE).to_event(1)
        monkeypatch.setattr(metrics.regression, "sample", lambda distribution, samples: draws[:samples])
        found = metrics.EnergyScore(16).statistic(d, observed(Y))
        ensemble = draws.movedim(0, 2)[MASK].numpy()
        expected = scoringrules.es_ensemble(flat(Y).numpy(), ensemble, estimator="fair").mean()
        assert metrics.EnergyScore(16).reduce(found.sum(0)).item() == pytest.approx(expected, abs=1e-6)

    def test_energy_score_of_one_target_is_the_crps(self) -> None:
        """By 2,000 draws for each of 1,200 points, within 1 %: 5 standard errors are less."""
        torch.manual_seed(0)
        d, y = dist.Normal(LOC[..., :1], SCALE[..., :1]).to_event(1), Y[..., :1]
        assert figure(metrics.EnergyScore(2000), d, y) == pytest.approx(figure(metrics.CRPS(), d, y), rel=0.01)

    def test_coverage_and_width(self) -> None:
        d, y = dist.Normal(LOC[..., :1], SCALE[..., :1]).to_event(1), Y[..., :1]
        low, high = scipy.stats.norm.interval(0.8, LOC[..., 0].numpy(), SCALE[..., 0].numpy())
        width, inside = (high - low)[MASK].mean(), ((low <= y[..., 0].numpy()) & (y[..., 0].numpy() <= high))[MASK]
        assert figure(metrics.Width(0.8), d, y) == pytest.approx(width, abs=1e-6)
        assert figure(metrics.Coverage(0.8), d, y) == pytest.approx(inside.mean(), abs=1e-6)
        given = (flat(LOC[..., 0]).numpy(), flat(SCALE[..., 0]).numpy())
        theirs = netcal.metrics.PICP().measure(given, flat(y[..., 0]).numpy(), q=np.array([0.8]), kind="meanstd")
        assert figure(metrics.Coverage(0.8), d, y) == pytest.approx(theirs.picp.item(), abs=1e-6)
        assert figure(metrics.Width(0.8), d, y) == pytest.approx(theirs.mpiw.item(), abs=1e-6)
        levels = np.array([0.1, 0.5, 0.95])
        gaps = netcal.metrics.QCE().measure(given, flat(y[..., 0]).numpy(), q=levels, kind="meanstd", reduction="none")
        ours = [abs(figure(metrics.Coverage(level), d, y) - level) for level in levels]
        np.testing.assert_allclose(np.ravel(gaps), ours, atol=1e-6)

    def test_quantile_calibration_error_and_pit(self) -> None:
        d, y = dist.Normal(LOC, SCALE).to_event(1), Y
        rank = scipy.stats.norm.cdf(flat(Y).numpy(), flat(LOC).numpy(), flat(SCALE).numpy()).ravel()
        levels = np.arange(1, 20) / 20
        share = (rank[:, None] <= levels).mean(0)
        expected = np.abs(share - levels)
        assert figure(metrics.QuantileCalibrationError(20), d, y) == pytest.approx(expected.mean(), abs=1e-6)
        assert figure(metrics.PIT(20), d, y) == pytest.approx(expected.max(), abs=1e-6)

    def test_sharpness_is_the_root_mean_variance(self) -> None:
        d = dist.Normal(LOC, SCALE).to_event(1)
        assert figure(metrics.Sharpness(), d, Y) == pytest.approx(flat(SCALE).square().mean().sqrt().item(), abs=1e-12)
