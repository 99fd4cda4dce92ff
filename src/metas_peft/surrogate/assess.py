"""How wrong a predictor is on a device it has never seen, by hiding each pool device in turn.

The target is never among them: kinds are chosen here, on pool devices alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from metas_peft.core.cost import METRIC_NAMES, METRICS
from metas_peft.core.device import DeviceSpec
from metas_peft.core.units import S_PER_MS
from metas_peft.surrogate.calibrate import MIN_RECORDS, fit_scale_shift
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.kinds import Predictor, PredictorKind
from metas_peft.surrogate.physics import project
from metas_peft.surrogate.rivals import pool_fits, rival
from metas_peft.surrogate.roofline import RooflineKind

Scope = Literal["setting", "device", "zero_shot"]
RIVALS = ("constant", "log_affine")
# metric name -> mape, median_ape, p90_ape, n_eval
Errors = dict[str, dict[str, float]]


def percent_errors(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Absolute percentage errors, NaN where not measured; both of shape (n, 3)."""
    return 100 * np.abs(predicted - measured) / measured


def summarise(errors: np.ndarray) -> Errors:
    """Mean, median and 90th percentile per metric.

    Args:
        errors: Absolute percentage errors, NaN where not measured, shape (n, 3).
    """
    out: Errors = {}
    for m, metric in enumerate(METRICS):
        known = errors[np.isfinite(errors[:, m]), m]
        if len(known):
            out[METRIC_NAMES[metric]] = {
                "mape": float(known.mean()),
                "median_ape": float(np.median(known)),
                "p90_ape": float(np.quantile(known, 0.9)),
                "n_eval": len(known),
            }
    return out


def draw_samples(
    table: Table, scope: Literal["setting", "device"], samples: int, draws: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random calibration rows and the rows that they are tested on.

    Args:
        table: Records of one device.
        scope: `setting`: both from one backbone and workload, each setting in turn; `device`: from everything.
        samples: Calibration rows per draw.
        draws: Number of draws.
        rng: Source of randomness.

    Returns:
        Pairs of row indices; empty when no group of rows is large enough.
    """
    complete = np.flatnonzero(np.isfinite(table.costs).any(1))
    groups = [complete]
    if scope == "setting":
        groups = [complete[table.setting[complete] == s] for s in np.unique(table.setting)]
    groups = [g for g in groups if len(g) > samples]
    pairs = []
    for draw in range(draws if groups else 0):
        shuffled = rng.permutation(groups[draw % len(groups)])
        pairs.append((np.sort(shuffled[:samples]), np.sort(shuffled[samples:])))
    return pairs


def calibrated(kind: PredictorKind, table: Table, spec: DeviceSpec | None) -> Predictor:
    """What is used on a device: the fitted kind, scale and shift, physics."""
    predictor = kind.fit(table, spec)
    cap = None if spec is None else spec.power_cap_w
    if kind.scales_itself:
        return lambda columns: project(predictor(columns), cap)
    with torch.no_grad():
        fit = fit_scale_shift(predictor(torch.from_numpy(table.features)).numpy(), table.costs)
    return lambda columns: project(fit.apply(predictor(columns)), cap)


def assess(
    table: Table,
    kinds: Callable[[str], Sequence[PredictorKind]],
    specs: Mapping[str, DeviceSpec],
    *,
    scope: Literal["setting", "device"],
    samples: int = 5,
    draws: int = 20,
    seed: int,
) -> dict[str, dict[str, Errors]]:
    """Leave-one-device-out errors of every kind and rival, on the same draws.

    Args:
        table: Records of the pool.
        kinds: Gives, for the name of a device, kinds that never saw it; a `RooflineKind` among them.
        specs: Spec sheets by device, where known.
        scope: See `draw_samples`.
        samples: Calibration records.
        draws: Random draws per device.
        seed: Of the draws.

    Returns:
        device -> method -> metric -> errors in percent.
    """
    found: dict[str, dict[str, Errors]] = {}
    for device in table.present():
        name = table.devices[device]
        own, rest, spec = table.take(table.device == device), filled(table.without(name)), specs.get(name)
        fitted = kinds(name)
        roofline = next(k for k in fitted if isinstance(k, RooflineKind))
        pool = pool_fits(roofline, rest)
        errors: dict[str, list[np.ndarray]] = {method: [] for method in (*(k.name for k in fitted), *RIVALS)}
        whole = filled(own)
        for chosen, tested in draw_samples(whole, scope, samples, draws, np.random.default_rng([seed, device])):
            context, columns = whole.take(chosen), torch.from_numpy(own.features[tested])
            if (np.isfinite(context.costs).sum(0) < MIN_RECORDS).any():
                continue  # some rows of this device lack a metric, and these carry no calibration
            predictors = {k.name: calibrated(k, context, spec) for k in fitted}
            predictors |= {r: rival(r, context, pool) for r in RIVALS}
            with torch.no_grad():
                for method, predictor in predictors.items():
                    errors[method].append(percent_errors(predictor(columns).numpy(), own.costs[tested]))
        found[name] = {method: summarise(np.concatenate(e)) for method, e in errors.items() if e}
    return found


def assess_zero_shot(
    table: Table, kinds: Callable[[str], Sequence[PredictorKind]], specs: Mapping[str, DeviceSpec]
) -> dict[str, dict[str, Errors]]:
    """Leave-one-device-out errors without any sample; arguments and result as for `assess`."""
    found: dict[str, dict[str, Errors]] = {}
    for device in table.present():
        name = table.devices[device]
        own, spec = table.take(table.device == device), specs.get(name)
        cap = None if spec is None else spec.power_cap_w
        with torch.no_grad():
            found[name] = {
                kind.name: summarise(
                    percent_errors(
                        project(kind.zero_shot(spec)(torch.from_numpy(own.features)), cap).numpy(), own.costs
                    )
                )
                for kind in kinds(name)
            }
    return found


def filled(table: Table) -> Table:
    """Rows with something in the place of each metric that a device never measured, so that the others can be fitted.

    Errors of what is filled in are not told. Energy is half of what the peak power would draw, where that is known,
    which no physics of prediction contradicts; else a copy of latency.
    """
    energy, latency, power = range(len(METRICS))
    costs = table.costs.copy()
    for device in table.present():
        rows = np.flatnonzero(table.device == device)
        knows_energy, knows_power = (bool(np.isfinite(costs[rows, m]).any()) for m in (energy, power))
        if not knows_energy:
            costs[rows, energy] = costs[rows, latency]
            if knows_power:
                costs[rows, energy] *= S_PER_MS * costs[rows, power] / 2
        if not knows_power:
            costs[rows, power] = costs[rows, latency]
    return Table(table.devices, table.device, table.setting, table.features, costs)


def mean_error(errors: Mapping[str, Mapping[str, Errors]], method: str) -> float:
    """Mean over devices and metrics of the mean absolute percentage error; infinite where the method is absent."""
    cells = [metric["mape"] for by_method in errors.values() for metric in by_method.get(method, {}).values()]
    return float(np.mean(cells)) if cells else float("inf")
