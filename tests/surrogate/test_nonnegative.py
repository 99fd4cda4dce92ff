import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.surrogate import nonnegative
from metas_peft.surrogate.nonnegative import fit_nonnegative, fit_nonnegative_many

WEIGHTS = np.array([0.3, 2.0, 0.0, 1.5, 0.7])


def five_points(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([np.ones((5, 1)), rng.uniform(0.1, 2.0, (5, 4))], axis=1)


def test_fit_recovers_weights_of_an_additive_device_from_five_points() -> None:
    terms = five_points()
    found = fit_nonnegative(terms, terms @ WEIGHTS, ridge=0.0)
    assert found == pytest.approx(WEIGHTS, abs=1e-6)


def test_fit_ignores_units_of_terms_and_target() -> None:
    terms = five_points()
    units = np.array([1.0, 1e9, 1e6, 1e5, 10.0])
    found = fit_nonnegative(terms * units, 1e-3 * terms @ WEIGHTS, ridge=0.002)
    plain = fit_nonnegative(terms, terms @ WEIGHTS, ridge=0.002)
    assert found * units * 1e3 == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_fit_weighs_an_outlier_down() -> None:
    terms = np.concatenate([five_points(s) for s in range(4)])
    target = terms @ WEIGHTS
    target[7] *= 10
    plain = np.linalg.lstsq(terms / target[:, None], np.ones(20), rcond=None)[0]
    found = fit_nonnegative(terms, target, ridge=0.0)
    clean = np.delete(np.arange(20), 7)
    robust_error = np.abs(terms[clean] @ found / target[clean] - 1).max()
    plain_error = np.abs(terms[clean] @ plain / target[clean] - 1).max()
    assert robust_error < 0.02
    assert robust_error < 0.2 * plain_error


def test_fit_follows_the_centre_when_records_cannot_tell_terms_apart() -> None:
    size = np.linspace(1, 3, 5)
    terms = np.stack([size, size], axis=1)
    found = fit_nonnegative(terms, 4 * size, ridge=0.01, centre=np.array([30.0, 10.0]))
    assert found == pytest.approx([3.0, 1.0], rel=1e-3)


def test_fit_gives_zero_to_a_term_that_is_zero_throughout() -> None:
    terms = five_points()
    terms[:, 2] = 0.0
    found = fit_nonnegative(terms, terms @ WEIGHTS, ridge=0.001)
    assert found[2] == 0.0
    assert np.isfinite(found).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), min_size=2, max_size=8),
    targets=st.lists(st.floats(1e-4, 1e4), min_size=8, max_size=8),
)
def test_fit_is_never_negative_and_always_predicts_something(rows: list[list[float]], targets: list[float]) -> None:
    terms = np.array(rows)
    found = fit_nonnegative(terms, np.array(targets[: len(rows)]), ridge=0.002)
    assert (found >= 0).all()
    assert np.isfinite(found).all()
    assert (terms @ found > 0).all()


@pytest.mark.parametrize("spread", [0.03, 0.2])
def test_many_fits_equal_single_fits(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    terms = rng.lognormal(0, 1, (200, 5, 6))
    terms[:, :, 1] = 1.01 * terms[:, :, 0]
    terms[:50, :, 3] = 0.0
    target = rng.lognormal(0, 0.6, (200, 5))
    monkeypatch.setattr(nonnegative, "ITERATIONS", 4)
    monkeypatch.setattr(nonnegative, "LEAST_SPREAD", spread)
    alone = np.stack([fit_nonnegative(t, y, ridge=0.01) for t, y in zip(terms[50:], target[50:], strict=True)])
    together = fit_nonnegative_many(terms, target, ridge=0.01, least_spread=spread, iterations=4)
    assert together[50:] == pytest.approx(alone, abs=1e-9)
    assert (together[:50, 3] == 0).all()
    assert (together >= 0).all()
