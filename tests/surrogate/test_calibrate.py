import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from metas_peft.core.errors import CalibrationError
from metas_peft.surrogate.calibrate import RIDGE, check_measured, fit_scale_shift


def pairs(seed: int = 0, n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0.5, 3.0, (n, 3)) * np.array([0.01, 5.0, 3.0])
    return predicted, predicted * np.array([1.7, 0.4, 1.1]) * np.exp(0.05 * rng.normal(size=(n, 3)))


def test_fit_minimises_the_documented_objective() -> None:
    predicted, measured = pairs()
    fit = fit_scale_shift(predicted, measured)
    for m in range(3):
        x, t = predicted[:, m] / np.median(predicted[:, m]), measured[:, m] / np.median(measured[:, m])

        def objective(ab: np.ndarray, x: np.ndarray = x, t: np.ndarray = t) -> float:
            return float((((ab[0] * x + ab[1] - t) / t) ** 2).sum() + RIDGE * ((ab[0] - 1) ** 2 + ab[1] ** 2))

        best = minimize(objective, np.array([1.0, 0.0]), tol=1e-12).x
        assert fit.alpha[m] * np.median(predicted[:, m]) / np.median(measured[:, m]) == pytest.approx(best[0], abs=1e-5)
        assert fit.beta[m] / np.median(measured[:, m]) == pytest.approx(best[1], abs=1e-5)


def test_fit_finds_a_pure_scale_exactly() -> None:
    predicted, _ = pairs()
    fit = fit_scale_shift(predicted, predicted * np.array([3.0, 0.2, 1.5]))
    assert fit.alpha == pytest.approx([3.0, 0.2, 1.5], rel=1e-9)
    assert fit.beta == pytest.approx([0, 0, 0], abs=1e-9)


def test_fit_without_ridge_finds_scale_and_shift_exactly() -> None:
    predicted, _ = pairs()
    fit = fit_scale_shift(predicted, 1.3 * predicted + np.array([0.002, 1.0, 0.5]), ridge=0.0)
    assert fit.alpha == pytest.approx([1.3] * 3, rel=1e-8)
    assert fit.beta == pytest.approx([0.002, 1.0, 0.5], rel=1e-7)


def test_fit_keeps_the_scale_positive_when_measurements_run_the_other_way() -> None:
    predicted, _ = pairs(n=6)
    measured = (predicted.max(0) * 1.05 - predicted) + 1e-6
    fit = fit_scale_shift(predicted, measured)
    assert (fit.alpha > 0).all()


def test_apply_is_positive_and_increasing_where_the_shift_is_negative() -> None:
    predicted, _ = pairs()
    fit = fit_scale_shift(predicted, np.maximum(2 * predicted - 1.2 * predicted.min(0), 1e-6), ridge=0.0)
    assert (fit.beta < 0).all()
    out = fit.apply(torch.linspace(1e-6, 10, 400, dtype=torch.float64)[:, None] * torch.ones(3))
    assert (out > 0).all()
    assert (out.diff(dim=0) > 0).all()


def test_fit_uses_only_measured_values() -> None:
    predicted, measured = pairs()
    partial = measured.copy()
    partial[1, 0] = np.nan
    rest = [0, 2, 3, 4]
    assert fit_scale_shift(predicted, partial).alpha[0] == fit_scale_shift(predicted[rest], measured[rest]).alpha[0]


def test_check_refuses_a_single_record() -> None:
    with pytest.raises(CalibrationError, match="1 calibration record"):
        check_measured(np.ones((1, 3)))


def test_check_names_a_metric_that_was_never_measured() -> None:
    costs = np.ones((5, 3))
    costs[:, 2] = np.nan
    with pytest.raises(CalibrationError, match="power was never measured"):
        check_measured(costs)


def test_check_names_a_metric_that_was_measured_once() -> None:
    costs = np.ones((5, 3))
    costs[1:, 0] = np.nan
    with pytest.raises(CalibrationError, match="energy was measured in 1 of 5"):
        check_measured(costs)


@pytest.mark.parametrize("value", [-1.0, 0.0, np.inf])
def test_fit_refuses_an_impossible_measurement(value: float) -> None:
    predicted, measured = pairs()
    measured[2, 1] = value
    with pytest.raises(CalibrationError, match="record 2: latency_ms"):
        fit_scale_shift(predicted, measured)
