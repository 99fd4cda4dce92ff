"""Rivals: what else five measurements could be given to. Only the benchmark needs them.

A method learns on the sets of other hardware and then predicts each draw from its calibration rows. `reference` and
the HELP-style learner are meta-learned networks; trees on all own rows say where the ceiling is.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from protocol import Draw
from tracks import Track

from metas_peft.surrogate.nonnegative import fit_nonnegative

warnings.filterwarnings("ignore", module="sklearn")

# Calibration rows and tested rows to log costs (tested, 3).
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
Learn = Callable[[Track, Sequence[str]], Predict]
RIDGE = 0.002
SLOPE_RIDGE = 1e-3
POWER = 2


def constant(track: Track, training: Sequence[str]) -> Predict:
    """The median of the five."""
    return lambda chosen, tested: np.repeat(np.median(track.logs[chosen], axis=0)[None], len(tested), 0)


def _additive(terms: np.ndarray, logs: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Log cost of tested terms by a robust non-negative fit of a few."""
    level = logs.mean()
    weights = fit_nonnegative(terms, np.exp(logs - level), RIDGE)
    return np.log(np.maximum(tested @ weights, 1e-12)) + level


def power_prior(track: Track, training: Sequence[str]) -> tuple[float, float, float]:
    """Mean and variance over devices of the slope of log power on log FLOPs, and the residual variance."""
    slopes, noises = [], []
    for name in training:
        rows = track.rows(name)
        x, y = np.log(track.flops()[rows]), track.logs[rows, POWER]
        x, y = x - x.mean(), y - y.mean()
        slopes.append(x @ y / (x @ x))
        noises.append(np.mean((y - slopes[-1] * x) ** 2))
    return float(np.mean(slopes)), float(np.var(slopes) + 1e-4), float(np.exp(np.mean(np.log(noises))))


def power_line(track: Track, prior: tuple[float, float, float], chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Log power of tested rows by a line in log FLOPs whose slope is drawn to the prior."""
    mean, variance, noise = prior
    x, y = np.log(track.flops()[chosen]), track.logs[chosen, POWER]
    dx = x - x.mean()
    slope = (dx @ (y - y.mean()) / noise + mean / variance) / (dx @ dx / noise + 1 / variance)
    return y.mean() + slope * (np.log(track.flops()[tested]) - x.mean())


def _roofline(track: Track, training: Sequence[str], terms: np.ndarray) -> Predict:
    known = [m for m in range(3) if np.isfinite(track.logs[:, m]).all()]
    prior = power_prior(track, training) if POWER in known else None

    def predict(chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
        out = np.full((len(tested), 3), np.nan)
        for m in known:
            if m == POWER:
                out[:, m] = power_line(track, prior, chosen, tested)
            else:
                out[:, m] = _additive(terms[chosen], track.logs[chosen, m], terms[tested])
        return out

    return predict


def roofline(track: Track, training: Sequence[str]) -> Predict:
    """Robust non-negative fit of the additive terms; power by a line with a learnt prior."""
    return _roofline(track, training, track.base())


def roofline_squared(track: Track, training: Sequence[str]) -> Predict:
    """The same with the squares that the schema names (parameters, for the public encoders)."""
    base = track.base()
    return _roofline(track, training, np.concatenate([base, base[:, list(track.schema.squared)] ** 2], axis=1))


def log_affine(track: Track, training: Sequence[str]) -> Predict:
    """Per metric a straight line, in logarithms, from what the nearest other device would show."""
    base = track.base()
    log_flops = np.log(track.flops())
    sources = []
    for name in training:
        rows = track.rows(name)
        whole = np.full((len(base), 3), np.nan)
        for m in range(3):
            y = track.logs[rows, m]
            if not np.isfinite(y).all():
                continue
            if m == POWER:
                slope, intercept = np.polyfit(log_flops[rows], y, 1)
                whole[:, m] = slope * log_flops + intercept
            else:
                whole[:, m] = _additive(base[rows], y, base)
        sources.append(whole)

    def predict(chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
        out = np.full((len(tested), 3), np.nan)
        for m in range(3):
            lines = []
            y = track.logs[chosen, m]
            for index, source in enumerate(sources):
                x = source[chosen, m]
                dx, dy = x - x.mean(), y - y.mean()
                slope = (dx @ dy + SLOPE_RIDGE) / (dx @ dx + SLOPE_RIDGE)
                lines.append((((dy - slope * dx) ** 2).sum(), index, slope, y.mean() - slope * x.mean()))
            _, index, slope, intercept = min(lines)
            out[:, m] = intercept + slope * sources[index][tested, m]
        return out

    return predict


def _features(track: Track) -> np.ndarray:
    """Standardised log terms, shape (N, F); terms that never vary are left out."""
    logs = np.log(np.maximum(track.terms, 1e-6) + 1.0)
    spread = logs.std(0)
    return ((logs - logs.mean(0)) / np.maximum(spread, 1e-9))[:, spread > 1e-9]


def gaussian_process(track: Track, training: Sequence[str]) -> Predict:
    """A Gaussian process on five points: a line in log FLOPs and a smooth function of all terms around it."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    x = _features(track)
    kernel = ConstantKernel(0.3) * RBF(5.0, (1.0, 30.0)) + ConstantKernel(0.1) * DotProduct(1.0) + WhiteKernel(0.01)

    def predict(chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
        out = np.full((len(tested), 3), np.nan)
        for m in range(3):
            y = track.logs[chosen, m]
            if np.isfinite(y).all():
                model = GaussianProcessRegressor(kernel, normalize_y=False)
                out[:, m] = model.fit(x[chosen], y - y.mean()).predict(x[tested]) + y.mean()
        return out

    return predict


def boosted_five(track: Track, training: Sequence[str]) -> Predict:
    """Gradient-boosted trees on five points."""
    from sklearn.ensemble import GradientBoostingRegressor

    x = _features(track)

    def predict(chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
        out = np.full((len(tested), 3), np.nan)
        for m in range(3):
            y = track.logs[chosen, m]
            if np.isfinite(y).all():
                model = GradientBoostingRegressor(n_estimators=60, max_depth=2, random_state=0)
                out[:, m] = model.fit(x[chosen], y).predict(x[tested])
        return out

    return predict


def boosted_own(track: Track, name: str, folds: int = 5, repeats: int = 3) -> np.ndarray:
    """Roofline and boosted residuals on all own rows, cross-validated: absolute errors (repeats * rows, 3).

    This is no rival, it is the ceiling: it has seen four fifths of the device.
    """
    from protocol import absolute_errors
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.model_selection import KFold

    rows, base, features = track.rows(name), track.base(), _features(track)
    errors = []
    for repeat in range(repeats):
        out = np.full((len(rows), 3), np.nan)
        for fit, test in KFold(folds, shuffle=True, random_state=repeat).split(rows):
            for m in range(3):
                y = track.logs[rows[fit], m]
                if not np.isfinite(y).all():
                    continue
                own = _additive(base[rows[fit]], y, base[rows])
                model = GradientBoostingRegressor(
                    n_estimators=80, max_depth=3, learning_rate=0.07, subsample=0.7, loss="huber", random_state=0
                )
                model.fit(features[rows[fit]], y - own[fit])
                out[test, m] = own[test] + model.predict(features[rows[test]])
        errors.append(absolute_errors(out, track.logs[rows]))
    return np.concatenate(errors)


SIMPLE: dict[str, Learn] = {
    "constant": constant,
    "log_affine": log_affine,
    "roofline": roofline,
    "roofline_squared": roofline_squared,
    "gaussian_process": gaussian_process,
    "boosted_five": boosted_five,
}


@dataclass(frozen=True)
class Fitted:
    """A method that learnt without the sets of some hardware."""

    predict: Predict

    def errors(self, track: Track, draw: Draw) -> np.ndarray:
        """Absolute percentage errors of a draw, shape (tested, 3)."""
        from protocol import absolute_errors

        return absolute_errors(self.predict(draw.chosen, draw.tested), track.logs[draw.tested])
