"""The five-point roofline: non-negative weights on {1, FLOPs, weight bytes, activation bytes, kernels}.

Energy and latency of a device are sums of what its parts cost, so that weights cannot be negative and the
prediction cannot fall when any count rises. Peak power is log-linear in the mean power that the two imply, energy by
latency, with a slope shrunk to what the pool's devices show (a line in log FLOPs instead had half as much error again
on held-out simulated devices: 3.0 against 2.0 %). From the pool comes also which terms usually matter, which decides
what five collinear points cannot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from metas_peft.core.device import DeviceSpec
from metas_peft.core.units import S_PER_MS
from metas_peft.surrogate.features import COLUMNS, Table
from metas_peft.surrogate.nonnegative import fit_nonnegative

TERMS = ("constant", "flops", "weight_bytes", "act_bytes", "n_ops")
ADDITIVE = (0, 1)  # energy and latency, as positions among the metrics
POWER = 2
# Strength of the pull towards the pool's proportions, in records; from 0.001 to 0.01 held-out errors hardly change.
RIDGE = 0.002


def additive_terms(columns: torch.Tensor) -> torch.Tensor:
    """The terms of the fit, shape (..., K); traffic with a KV cache counts as activation bytes."""
    column = {name: columns[..., COLUMNS.index(name)] for name in ("flops", "weight_bytes", "n_ops")}
    moved = columns[..., COLUMNS.index("act_bytes")] + columns[..., COLUMNS.index("kv_bytes")]
    return torch.stack(
        [torch.ones_like(moved), column["flops"], column["weight_bytes"], moved, column["n_ops"]], dim=-1
    )


@dataclass(frozen=True)
class RooflineFit:
    """A fitted device.

    Attributes:
        weights: Non-negative weights of energy (J) and latency (ms), shape (2, K).
        power: Intercept and slope of log peak power (W) over log mean power (W).
    """

    weights: torch.Tensor
    power: tuple[float, float]

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Energy (J), latency (ms), peak power (W), shape (..., 3)."""
        sums = additive_terms(columns) @ self.weights.T
        intercept, slope = self.power
        peak = torch.exp(intercept + slope * log_mean_power(sums))
        return torch.cat([sums, peak[..., None]], dim=-1)


def log_mean_power(costs: torch.Tensor) -> torch.Tensor:
    """Logarithm of energy by time in W; energy (J) and latency (ms) come first on the last axis."""
    return (costs[..., 0] / (costs[..., 1] * S_PER_MS)).log()


@dataclass(frozen=True)
class SlopePrior:
    """How log peak power moves with log mean power in known groups of records.

    Attributes:
        mean: Mean slope over groups.
        variance: Variance of slopes over groups.
        noise: Mean residual variance about a group's own line.
    """

    mean: float
    variance: float
    noise: float

    @classmethod
    def learn(cls, table: Table, within_settings: bool) -> "SlopePrior":
        """From a pool: one line per device, or one per device and setting."""
        label = table.setting if within_settings else np.zeros(len(table), dtype=int)
        slopes, noises = [], []
        for device, group in sorted(set(zip(table.device.tolist(), label.tolist(), strict=True))):
            rows = (table.device == device) & (label == group) & np.isfinite(table.costs).all(1)
            if not rows.any():
                continue
            x = log_mean_power(torch.from_numpy(table.costs[rows])).numpy()
            y = np.log(table.costs[rows, POWER])
            x, y = x - x.mean(), y - y.mean()
            if len(x) > 2 and x @ x > 0:
                slopes.append(x @ y / (x @ x))
                noises.append(np.mean((y - slopes[-1] * x) ** 2))
        if not slopes:
            return cls(mean=1.0, variance=0.5**2, noise=0.05**2)
        # Floors: a pool of one group, or noise-free records, must not make the prior infinitely certain.
        return cls(float(np.mean(slopes)), float(np.var(slopes) + 0.01**2), float(np.mean(noises) + 0.01**2))

    def fit(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Intercept (at x = 0) and slope: the posterior mean, not below zero.

        Args:
            x: Log mean power, shape (n,).
            y: Log peak power, shape (n,).
        """
        dx = x - x.mean()
        precision = dx @ dx / self.noise + 1 / self.variance
        slope = max(float((dx @ (y - y.mean()) / self.noise + self.mean / self.variance) / precision), 0.0)
        return float(y.mean() - slope * x.mean()), slope


@dataclass(frozen=True)
class PoolTypical:
    """A typical device in units of its spec sheet: what is left once peak rate, bandwidth and power are divided out.

    Attributes:
        weights: Weights of energy and latency on spec-scaled terms, shape (2, K).
        power: Median peak power by mean power.
        spec: Geometric mean spec sheet of the pool: GFLOP/s, GB/s, W; stands in for what is unknown.
    """

    weights: np.ndarray
    power: float
    spec: tuple[float, float, float]

    @classmethod
    def learn(cls, table: Table, specs: Mapping[str, DeviceSpec]) -> "PoolTypical":
        """Pooled fit on spec-scaled terms."""
        known = [spec_values(specs.get(name)) for name in (table.devices[d] for d in table.present())]
        rate, bandwidth, watts = (_geometric_mean(column) for column in zip(*known, strict=True))
        usual = (rate, bandwidth, watts)
        scales = np.stack([term_scales(specs.get(name), usual) for name in table.devices])  # (devices, 2, K)
        terms = additive_terms(torch.from_numpy(table.features)).numpy()
        weights = np.zeros((2, len(TERMS)))
        for metric in ADDITIVE:
            rows = np.isfinite(table.costs[:, metric])
            if rows.any():
                scaled = terms[rows] * scales[table.device[rows], metric]
                weights[metric] = fit_nonnegative(scaled, table.costs[rows, metric], ridge=0.0)
        ratio = table.costs[:, POWER] * table.costs[:, 1] * S_PER_MS / table.costs[:, 0]
        finite = ratio[np.isfinite(ratio)]
        return cls(weights, float(np.median(finite)) if len(finite) else 1.0, usual)

    def of(self, spec: DeviceSpec | None) -> np.ndarray:
        """Weights that a device of this spec sheet would have, shape (2, K)."""
        return self.weights * term_scales(spec, self.spec)

    def zero_shot(self, spec: DeviceSpec | None) -> RooflineFit:
        """A device of which only the spec sheet is known, or nothing."""
        return RooflineFit(torch.from_numpy(self.of(spec)), (float(np.log(self.power)), 1.0))


def _geometric_mean(values: Iterable[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else 1.0


def spec_values(spec: DeviceSpec | None) -> tuple[float | None, float | None, float | None]:
    """Peak rate (GFLOP/s), bandwidth (GB/s) and power scale (W), None where the sheet is silent."""
    if spec is None:
        return None, None, None
    return spec.peak_gflops, spec.mem_bandwidth_gb_s, spec.power_cap_w


def term_scales(spec: DeviceSpec | None, usual: tuple[float, float, float]) -> np.ndarray:
    """What one unit of each term costs at the limits of the spec sheet, shape (2, K): joules, milliseconds."""
    rate, bandwidth, watts = (u if v is None else v for v, u in zip(spec_values(spec), usual, strict=True))
    # 1e9 operations or bytes per second are 1e6 per millisecond.
    latency = np.array([1.0, 1 / (rate * 1e6), 1 / (bandwidth * 1e6), 1 / (bandwidth * 1e6), 1.0])
    return np.stack([latency * watts * S_PER_MS, latency])


@dataclass(frozen=True)
class RooflineKind:
    """What the pool teaches the roofline.

    Attributes:
        typical: The typical device in units of its spec sheet.
        slope_within: Power slope among sub-networks of one backbone under one workload.
        slope_across: Power slope over everything.
    """

    typical: PoolTypical
    slope_within: SlopePrior
    slope_across: SlopePrior
    name: ClassVar[str] = "roofline"
    scales_itself: ClassVar[bool] = False

    @classmethod
    def learn(cls, table: Table, specs: Mapping[str, DeviceSpec]) -> "RooflineKind":
        """From the records of a pool and the spec sheets of its devices, where known."""
        return cls(PoolTypical.learn(table, specs), SlopePrior.learn(table, True), SlopePrior.learn(table, False))

    def fit(self, table: Table, spec: DeviceSpec | None) -> RooflineFit:
        """Fit one device from a handful of its records."""
        terms = additive_terms(torch.from_numpy(table.features)).numpy()
        centre = self.typical.of(spec)
        weights = []
        for metric in ADDITIVE:
            rows = np.isfinite(table.costs[:, metric])
            weights.append(fit_nonnegative(terms[rows], table.costs[rows, metric], RIDGE, centre[metric]))
        fitted = torch.from_numpy(np.stack(weights))
        rows = np.isfinite(table.costs[:, POWER])
        x = log_mean_power(torch.from_numpy(terms[rows]) @ fitted.T).numpy()
        prior = self.slope_within if table.is_one_setting() else self.slope_across
        return RooflineFit(fitted, prior.fit(x, np.log(table.costs[rows, POWER])))

    def zero_shot(self, spec: DeviceSpec | None) -> RooflineFit:
        """The pool's typical weights, scaled by the spec sheet where known and by the pool's mean sheet elsewhere."""
        return self.typical.zero_shot(spec)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The typical weights."""
        return {"typical_weights": torch.from_numpy(self.typical.weights.copy())}

    def settings(self) -> dict[str, Any]:
        """Everything else, as plain numbers."""
        return {
            "power": self.typical.power,
            "spec": list(self.typical.spec),
            "slope_within": [self.slope_within.mean, self.slope_within.variance, self.slope_within.noise],
            "slope_across": [self.slope_across.mean, self.slope_across.variance, self.slope_across.noise],
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Self:
        """Inverse of `tensors` and `settings`."""
        rate, bandwidth, watts = settings["spec"]
        typical = PoolTypical(tensors["typical_weights"].numpy(), settings["power"], (rate, bandwidth, watts))
        return cls(typical, SlopePrior(*settings["slope_within"]), SlopePrior(*settings["slope_across"]))
