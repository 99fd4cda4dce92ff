"""How the shipped surrogate is made: from devices that nobody has, checked on others of that kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from metas_peft.core.device import DeviceSpec
from metas_peft.surrogate.assess import Errors, Scope, assess, assess_zero_shot
from metas_peft.surrogate.features import COLUMNS, Table
from metas_peft.surrogate.few_shot import FewShot
from metas_peft.surrogate.kinds import PredictorKind
from metas_peft.surrogate.metas import MetasKind
from metas_peft.surrogate.metas_training import Schedule, new_network, train_network
from metas_peft.surrogate.model import MetaTrained
from metas_peft.surrogate.prior import CLEAN
from metas_peft.surrogate.reading import Scales
from metas_peft.surrogate.roofline import RooflineKind
from metas_peft.surrogate.simulated_episodes import Recipe, Universe, draw_points
from metas_peft.surrogate.synthetic import MadeUp, make_up
from metas_peft.surrogate.terms import GATES

PRIOR_DEVICES = 400  # of the made-up devices tell what a spec sheet leads to expect
WITHOUT_SHEET = 0.2  # of them are learnt without one
UNITED = "made-up devices"  # under this name their errors are told
SHARED = 0.7  # of the noise of energy comes with latency
# Parts of the networks, the roofline and the roofline with squares among which made-up devices choose.
SHARES = ((1.0, 0.0, 0.0), (0.7, 0.3, 0.0), (0.5, 0.5, 0.0), (0.3, 0.7, 0.0), (0.0, 1.0, 0.0), (0.4, 0.3, 0.3))


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        devices: Made-up devices to learn from.
        networks: Set transformers, from different seeds.
        schedule: Of each one's training.
        checks: Made-up devices to calibrate intervals on, and as many again to tell errors of.
    """

    devices: int = 4000
    networks: int = 2
    schedule: Schedule = Schedule(steps=6000)
    checks: int = 200


def _ignore(part: float) -> None:
    """Nobody asked how far it is."""


def make_surrogate(
    seed: int = 0, plan: Plan | None = None, progress: Callable[[float], None] | None = None
) -> MetaTrained:
    """Train the surrogate that ships.

    Args:
        seed: Of everything random.
        plan: How much of everything.
        progress: Called with the finished part in [0, 1].
    """
    amount, notify = plan or Plan(), progress or _ignore
    rng = np.random.default_rng([seed, 9])
    made_up = [make_up(rng) for _ in range(amount.devices)]
    table, specs = _table(made_up[:PRIOR_DEVICES], rng)
    roofline = RooflineKind.learn(table, specs)
    universes = [_expecting(m, roofline, None if rng.random() < WITHOUT_SHEET else m.spec) for m in made_up]
    scales = Scales.learn(np.concatenate([u.terms for u in universes]))
    recipe = Recipe(GATES, scales, CLEAN, devices=4, groups=32, queries=24, exact=True, made_up=1.0)
    networks = tuple(
        train_network(
            new_network(recipe, universes, 100 * seed + n), recipe, universes, amount.schedule, seed=100 * seed + n,
            progress=lambda part, n=n: notify(0.95 * (n + part) / amount.networks),
        )
        for n in range(amount.networks)
    )  # fmt: skip
    checks = [make_up(rng) for _ in range(amount.checks)]
    trials = [_trial(recipe, _expecting(m, roofline, m.spec), rng) for m in checks]
    few_shot = _shared(FewShot(GATES, scales, networks), trials)
    few_shot = replace(few_shot, widths=_widths(few_shot, trials))
    metas = MetasKind(few_shot, roofline.typical)
    kinds: dict[str, PredictorKind] = {"metas": metas, "roofline": roofline}
    errors = _errors(kinds, [make_up(rng) for _ in range(amount.checks)], rng, seed)
    columns = np.concatenate([m.columns for m in made_up])
    ranges = {name: _range(columns[:, COLUMNS.index(name)]) for name in ("flops", "weight_bytes", "act_bytes", "n_ops")}
    if progress is not None:
        progress(1.0)
    return MetaTrained(kinds, (), len(columns), errors, seed, ranges)


def _range(values: np.ndarray) -> tuple[float, float]:
    positive = values[values > 0]
    return float(positive.min()), float(positive.max())


def _expecting(made_up: MadeUp, roofline: RooflineKind, spec: DeviceSpec | None) -> Universe:
    """The device's passes, with what its spec sheet (if any) leads to expect."""
    return replace(made_up.universe, centre=roofline.typical.of(spec))


def _read(logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noisy log costs, shape (R, 3), from noise-free ones; how noisy is drawn as in training."""
    latency, power, peak = (np.exp(rng.normal(np.log(median), 0.5)) for median in CLEAN.noise)
    off = rng.standard_normal(logs.shape) * [np.hypot(latency, power), latency, peak]
    off[:, 0] = SHARED * off[:, 1] + np.sqrt(1 - SHARED**2) * off[:, 0]
    return logs + off


@dataclass(frozen=True)
class _Trial:
    """Five points of a made-up device with their readings, and its other passes with truth and readings."""

    points: np.ndarray
    read: np.ndarray
    centre: np.ndarray | None
    terms: np.ndarray
    truth: np.ndarray
    readings: np.ndarray

    def predict(self, few_shot: FewShot) -> tuple[np.ndarray, np.ndarray]:
        """Log costs of the other passes and half widths of their intervals, each (R, 3)."""
        fitted = few_shot.fit(self.points, self.read, self.centre)
        terms = torch.from_numpy(self.terms)
        return fitted.log_costs(terms).numpy(), fitted.log_half_width(terms).numpy()


def _trial(recipe: Recipe, universe: Universe, rng: np.random.Generator) -> _Trial:
    terms, truth = universe.terms, universe.logs
    assert truth is not None  # made-up devices have costs
    read = _read(truth, rng)
    chosen = draw_points(recipe, universe, 5, rng)
    rest = np.setdiff1d(np.arange(len(terms)), chosen)
    return _Trial(terms[chosen], read[chosen], universe.centre, terms[rest], truth[rest], read[rest])


def _shared(few_shot: FewShot, trials: Sequence[_Trial]) -> FewShot:
    """With the parts of networks and rooflines that err least in energy and latency, as a median over devices."""

    def error(shares: tuple[float, float, float]) -> float:
        tried = replace(few_shot, shares=shares)
        off = [np.abs(np.expm1(t.predict(tried)[0] - t.truth))[:, :2].mean() for t in trials]
        return float(np.median(off))

    return replace(few_shot, shares=min(SHARES, key=error))


def _widths(few_shot: FewShot, trials: Sequence[_Trial]) -> tuple[float, float, float]:
    """Factors that make 80 % of readings lie within the intervals, over devices alike."""
    ratios, weights = [], []
    for trial in trials:
        said, half = trial.predict(few_shot)
        ratios.append(np.abs(said - trial.readings) / half)
        weights.append(np.full(len(said), 1 / len(said)))
    ratio, weight = np.concatenate(ratios), np.concatenate(weights)
    found = []
    for metric in range(3):
        order = np.argsort(ratio[:, metric])
        reached = np.cumsum(weight[order]) / weight.sum()
        found.append(float(ratio[order, metric][np.searchsorted(reached, 0.8)]))
    return found[0], found[1], found[2]


def _table(made_up: Sequence[MadeUp], rng: np.random.Generator) -> tuple[Table, dict[str, DeviceSpec]]:
    """Readings of made-up devices as records are laid out."""
    names = [f"{UNITED} {number:04d}" for number in range(len(made_up))]
    sizes = [len(m.columns) for m in made_up]
    index = np.repeat(np.arange(len(made_up)), sizes)
    table = Table(
        tuple(names), index, index.copy(), np.concatenate([m.columns for m in made_up]),
        np.exp(np.concatenate([_read(np.asarray(m.universe.logs), rng) for m in made_up])),
    )  # fmt: skip
    return table, {name: replace(m.spec, device_id=name) for name, m in zip(names, made_up, strict=True)}


def _errors(
    kinds: Mapping[str, PredictorKind], unseen: Sequence[MadeUp], rng: np.random.Generator, seed: int
) -> dict[Scope, dict[str, dict[str, Errors]]]:
    """Errors on made-up devices that nothing was learnt from, told as those of one device."""
    table, specs = _table(unseen, rng)
    own = list(kinds.values())
    found: dict[Scope, dict[str, dict[str, Errors]]] = {
        "setting": assess(table, lambda _: own, specs, scope="setting", draws=2, seed=seed),
        "zero_shot": assess_zero_shot(table, lambda _: own, specs),
    }
    found["device"] = found["setting"]
    return {scope: {UNITED: _united(list(by.values()))} for scope, by in found.items()}


def _united(devices: Sequence[Mapping[str, Errors]]) -> dict[str, Errors]:
    """Medians over devices of each device's figures: a few hopeless ones say little about the others."""
    out: dict[str, Errors] = {}
    for method in devices[0]:
        out[method] = {
            metric: {
                figure: float(np.median([d[method][metric][figure] for d in devices]))
                for figure in devices[0][method][metric]
            }
            for metric in devices[0][method]
        }
    return out
