"""The source's surrogate as a kind of predictor: meta-trained across devices, adapted to five samples.

Leave-one-device-out meta-training: each episode hides one device, adapts (tag and scale; the level in closed form) to
five of its samples and is scored on other samples of it; the outer loop minimises that score. Beside it the other
devices are learnt outright, with tag mixup: two devices and two records, blended tag, features and target with a
Beta-distributed weight, so that the space between tags means something. A crossed pool makes the two records the same
pass.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import DeviceSpec
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.network import (
    METRIC_COUNT,
    Adapted,
    Standardiser,
    Weights,
    adapt,
    forward,
    initial_weights,
    predict,
)

logger = logging.getLogger(__name__)

MIN_DEVICES = 3


@dataclass(frozen=True)
class MetaTraining:
    """How the reference network is trained.

    Attributes:
        steps: Steps of the outer loop.
        learning_rate: Of the outer loop's Adam; falls to zero along a cosine.
        support: Samples an episode adapts to.
        query: Samples it is scored on.
        inner_steps: Gradient steps of an adaptation.
        mixup_rows: Blended rows per step.
        mixup: Both parameters of the Beta distribution; 0 turns mixup off.
        setting_share: Part of the episodes whose samples share one backbone and workload.
        meta: Whether episodes count at all; without, only the blended rows do.
    """

    steps: int = 800
    learning_rate: float = 5e-3
    support: int = 5
    query: int = 48
    inner_steps: int = 12
    mixup_rows: int = 96
    mixup: float = 0.4
    setting_share: float = 0.5
    meta: bool = True


@dataclass(frozen=True)
class ReferenceKind:
    """Meta-trained networks (one per seed), ready to be adapted; predictions are averaged over seeds in log space.

    Attributes:
        weights: Parameters, double precision, first axis E counts the seeds.
        start: Mean tag of the pool, shape (E, 1, 8).
        level: Mean log cost of the pool's devices, for zero-shot use, shape (3,).
        standardiser: Of the features.
        inner_steps: Gradient steps of an adaptation.
    """

    weights: Weights
    start: torch.Tensor
    level: torch.Tensor
    standardiser: Standardiser
    inner_steps: int
    name: ClassVar[str] = "reference"

    def fit(self, table: Table, spec: DeviceSpec | None) -> "ReferenceFit":
        """Adapt to a handful of records of one device."""
        costs = torch.from_numpy(table.costs)
        known = costs.isfinite().to(torch.float64)
        with torch.enable_grad():
            device = adapt(
                self.weights,
                self.start,
                self.standardiser(torch.from_numpy(table.features))[None],
                costs.nan_to_num(1.0).log()[None],
                known[None],
                self.inner_steps,
                create_graph=False,
            )
        detached = Adapted(device.tag.detach(), device.log_scale.detach(), device.level.detach())
        return ReferenceFit(self.weights, self.standardiser, detached)

    def zero_shot(self, spec: DeviceSpec | None) -> "ReferenceFit":
        """The pool's mean tag and mean level; a spec sheet says nothing to this kind."""
        flat = torch.zeros(len(self.start), 1, METRIC_COUNT, dtype=torch.float64)
        return ReferenceFit(self.weights, self.standardiser, Adapted(self.start, flat, flat + self.level))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters, mean tag, level and standardiser."""
        own = {
            "start": self.start,
            "level": self.level,
            "feature_mean": self.standardiser.mean,
            "feature_spread": self.standardiser.spread,
        }
        return own | {f"weights.{name}": value for name, value in self.weights.items()}

    def settings(self) -> dict[str, Any]:
        """The number of adaptation steps."""
        return {"inner_steps": self.inner_steps}

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Self:
        """Inverse of `tensors` and `settings`."""
        prefix = "weights."
        return cls(
            weights={n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)},
            start=tensors["start"],
            level=tensors["level"],
            standardiser=Standardiser(tensors["feature_mean"], tensors["feature_spread"]),
            inner_steps=int(settings["inner_steps"]),
        )


@dataclass(frozen=True)
class ReferenceFit:
    """The networks adapted to one device.

    Attributes:
        weights: Parameters of E networks.
        standardiser: Of the features.
        device: What distinguishes the device.
    """

    weights: Weights
    standardiser: Standardiser
    device: Adapted

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Energy (J), latency (ms), peak power (W), shape (..., 3)."""
        flat = self.standardiser(columns.reshape(-1, columns.shape[-1]))
        logs = predict(self.weights, self.device, flat[None]).mean(0)
        return logs.exp().reshape(*columns.shape[:-1], METRIC_COUNT)


def meta_train(
    table: Table,
    hidden: Sequence[str | None],
    *,
    seed: int,
    n_seeds: int = 2,
    training: MetaTraining | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[ReferenceKind]:
    """Train the reference network, once per entry of `hidden`, side by side.

    Args:
        table: Records of the pool.
        hidden: Devices to leave out altogether, one at a time; None leaves out nothing.
        seed: Of everything random.
        n_seeds: Networks per entry, averaged when predicting.
        training: Settings of the training.
        progress: Called with the finished part in [0, 1].

    Returns:
        One kind per entry of `hidden`.

    Raises:
        InvalidRecordError: Fewer than three devices would be left to learn from.
    """
    training = training or MetaTraining()
    members = [(name, s) for name in hidden for s in range(n_seeds)]
    present = table.present()
    allowed = [[d for d in present if table.devices[d] != name] for name, _ in members]
    if min(map(len, allowed)) < MIN_DEVICES - 1 or len(present) < MIN_DEVICES:
        raise InvalidRecordError(
            f"The pool holds {len(present)} device(s) ({', '.join(table.devices)}); meta-training with one device left "
            f"out needs at least {MIN_DEVICES}. Add records of more devices."
        )
    # Features are standardised over all devices: they are counts of passes and tell nothing about a hidden device.
    standardiser = Standardiser.learn(torch.from_numpy(table.features))
    sampler = _Sampler(table, allowed, standardiser, training, np.random.default_rng([seed, 1]))
    seeds = [1_000_003 * seed + s for _, s in members]
    weights = initial_weights(seeds, table.features.shape[1], len(table.devices))
    for value in weights.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam(weights.values(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    loss = torch.zeros(len(members))
    for step in range(training.steps):
        loss = sampler.mixup_loss(weights)
        if training.meta:
            loss = loss + sampler.episode_loss(weights)
        optimiser.zero_grad()
        loss.sum().backward()
        _clip_per_network(weights)
        optimiser.step()
        schedule.step()
        if progress is not None and step % 20 == 19:
            progress((step + 1) / training.steps)
    logger.info("Meta-trained %d networks on %d records; final loss %s.", len(members), len(table), loss.detach())
    return [
        _kind(weights, standardiser, sampler, list(range(i * n_seeds, (i + 1) * n_seeds)), training.inner_steps)
        for i in range(len(hidden))
    ]


class _Sampler:
    """Draws the batches of all networks and scores them.

    Letters: E networks, S support rows, Q query rows, X blended rows.
    """

    def __init__(
        self,
        table: Table,
        allowed: list[list[int]],
        standardiser: Standardiser,
        training: MetaTraining,
        rng: np.random.Generator,
    ) -> None:
        self.allowed = allowed
        self.training = training
        self.rng = rng
        self.features = standardiser(torch.from_numpy(table.features)).to(torch.float32)
        costs = torch.from_numpy(table.costs)
        known = costs.isfinite()
        self.known = known.to(torch.float32)
        self.log_costs = costs.nan_to_num(1.0).log()
        self.rows = {d: np.flatnonzero(table.device == d) for d in table.present()}
        self.device = table.device
        self.settings = {
            d: [r for r in _groups(rows, table.setting) if len(r) > training.support] for d, rows in self.rows.items()
        }
        # Each device's own level, metric by metric: what a five-sample adaptation estimates.
        levels = torch.zeros(len(table.devices), METRIC_COUNT, dtype=torch.float64)
        for d, rows in self.rows.items():
            mask = known[rows]
            levels[d] = (self.log_costs[rows] * mask).sum(0) / mask.sum(0).clamp_min(1)
        self.levels = levels
        self.shape = (self.log_costs - levels[torch.from_numpy(table.device)]).to(torch.float32)
        self.log_costs = self.log_costs.to(torch.float32)
        self.partner = np.zeros((len(table.devices), len(table)), dtype=int)
        self.row_counts = np.zeros(len(table.devices), dtype=int)
        self.padded_rows = np.zeros((len(table.devices), max(map(len, self.rows.values()))), dtype=int)
        for d, rows in self.rows.items():
            self.partner[d] = self._partners(d)
            self.row_counts[d] = len(rows)
            self.padded_rows[d, : len(rows)] = rows

    def _partners(self, device: int) -> np.ndarray:
        """Per row of the table, the row of `device` that is nearest in features (the same pass in a crossed pool)."""
        own = self.features[self.rows[device]]
        nearest = [torch.cdist(part, own).argmin(1) for part in self.features.split(512)]
        return self.rows[device][torch.cat(nearest).numpy()]

    def mixup_loss(self, weights: Weights) -> torch.Tensor:
        """Error on blended rows of the devices that each network may see, shape (E,)."""
        size = (len(self.allowed), self.training.mixup_rows)
        pairs = np.stack([self.rng.choice(devices, size=(2, size[1])) for devices in self.allowed], axis=1)
        # Devices first, then rows, so that a device with few records counts as much as the others.
        place = (self.rng.random(size) * self.row_counts[pairs[0]]).astype(int)
        first = self.padded_rows[pairs[0], place]
        second = self.partner[pairs[1], first]
        if self.training.mixup > 0:
            portion = self.rng.beta(self.training.mixup, self.training.mixup, size=(*size, 1))
        else:
            portion = np.ones((*size, 1))
        part = torch.from_numpy(portion).to(torch.float32)

        def blend(values: torch.Tensor) -> torch.Tensor:
            return part * values[first] + (1 - part) * values[second]

        network = torch.arange(size[0])[:, None]
        tags = part * weights["tags"][network, self.device[first]]
        tags = tags + (1 - part) * weights["tags"][network, self.device[second]]
        known = self.known[first] * self.known[second]
        error = known * (forward(weights, blend(self.features), tags) - blend(self.shape))
        return torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1, reduction="none").mean(
            (1, 2)
        )

    def episode_loss(self, weights: Weights) -> torch.Tensor:
        """Hide a device per network, adapt to a few of its samples, score the others, shape (E,)."""
        training = self.training
        support = np.empty((len(self.allowed), training.support), dtype=int)
        query = np.empty((len(self.allowed), training.query), dtype=int)
        others = torch.zeros(len(self.allowed), weights["tags"].shape[1], 1)
        for e, devices in enumerate(self.allowed):
            hidden = self.rng.choice(devices)
            others[e, [d for d in devices if d != hidden]] = 1 / (len(devices) - 1)
            rows = self.rows[hidden]
            if self.settings[hidden] and self.rng.random() < training.setting_share:
                rows = self.settings[hidden][self.rng.integers(len(self.settings[hidden]))]
            support[e] = self.rng.choice(rows, training.support, replace=False)
            query[e] = self.rng.choice(np.setdiff1d(rows, support[e]), training.query)
        start = (others * weights["tags"]).sum(1, keepdim=True)
        device = adapt(
            weights,
            start,
            self.features[support],
            self.log_costs[support],
            self.known[support],
            training.inner_steps,
            create_graph=True,
        )
        error = self.known[query] * (predict(weights, device, self.features[query]) - self.log_costs[query])
        return torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1, reduction="none").mean(
            (1, 2)
        )


def _groups(rows: np.ndarray, setting: np.ndarray) -> list[np.ndarray]:
    return [rows[setting[rows] == s] for s in np.unique(setting[rows])]


def _clip_per_network(weights: Weights, limit: float = 1.0) -> None:
    """Scale each network's gradient to a norm of at most `limit`, independently of its neighbours."""
    squares = [w.grad.flatten(1).square().sum(1) for w in weights.values() if w.grad is not None]
    factor = (limit / torch.stack(squares).sum(0).sqrt().clamp_min(1e-12)).clamp(max=1.0)
    for w in weights.values():
        if w.grad is not None:
            w.grad.mul_(factor.view(-1, *[1] * (w.grad.dim() - 1)))


def _kind(
    weights: Weights, standardiser: Standardiser, sampler: _Sampler, networks: list[int], inner_steps: int
) -> ReferenceKind:
    """The finished kind of the given networks, in double precision."""
    devices = sampler.allowed[networks[0]]
    chosen = {name: value.detach()[networks].to(torch.float64) for name, value in weights.items()}
    start = chosen["tags"][:, devices].mean(1, keepdim=True)
    return ReferenceKind(chosen, start, sampler.levels[devices].mean(0), standardiser, inner_steps)
