"""The source's surrogate as a kind of predictor: meta-trained networks, adapted to a handful of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from metas_peft.core.device import DeviceSpec
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.network import METRIC_COUNT, Adapted, Standardiser, Weights, adapt, predict


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
    scales_itself: ClassVar[bool] = False

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
