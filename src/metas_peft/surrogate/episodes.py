"""What the outer loop of the meta-training minimises: blended rows of known devices, and episodes that hide one."""

from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.surrogate.features import Table
from metas_peft.surrogate.network import METRIC_COUNT, Standardiser, Weights, adapt, forward, predict


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


class Sampler:
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
