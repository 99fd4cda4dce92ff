"""What a kind of predictor must deliver, so that the rest need not know which kinds exist.

Life of a kind: it learns from a pool of devices once (how is its own affair); then, for each new device, `fit`
turns a handful of records, or `zero_shot` a spec sheet alone, into a predictor of that device. `tensors` and
`settings` hold all that it learnt, and the class's `restore` is their inverse.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch

from metas_peft.core.device import DeviceSpec
from metas_peft.surrogate.features import Table

# Columns (..., C) to positive energy (J), latency (ms), peak power (W), (..., 3); both double precision.
Predictor = Callable[[torch.Tensor], torch.Tensor]


@runtime_checkable
class PredictorWithInterval(Protocol):
    """A predictor that knows how far off it may be."""

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Positive energy (J), latency (ms), peak power (W), shape (..., 3)."""
        ...

    def log_half_width(self, columns: torch.Tensor) -> torch.Tensor:
        """Half width of the 80 % interval of log costs, shape (..., 3)."""
        ...


class PredictorKind(Protocol):
    """What was learnt on a pool, ready to be fitted to a new device.

    Attributes:
        name: Of the kind.
        scales_itself: Whether a fit needs no scale and shift after it, and one record can carry it.
    """

    name: ClassVar[str]
    scales_itself: ClassVar[bool]

    def fit(self, table: Table, spec: DeviceSpec | None) -> Predictor:
        """A predictor for the device that the rows of the table were measured on."""
        ...

    def zero_shot(self, spec: DeviceSpec | None) -> Predictor:
        """A predictor for a device of which only the spec sheet is known, or nothing."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learnt, by name."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain numbers and texts that belong to the tensors (JSON)."""
        ...

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Self:
        """Inverse of `tensors` and `settings`."""
        ...
