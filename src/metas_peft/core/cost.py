"""What one pass costs, measured, predicted or counted on paper, and where each number comes from.

`Cost` has three roles: a measurement, a prediction, a budget; with `Origin` in its places it says where
each of the three numbers comes from. A number never loses its origin.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

METRICS = ("energy_j", "latency_ms", "peak_power_w")
METRIC_NAMES = {"energy_j": "energy", "latency_ms": "latency", "peak_power_w": "power"}
METRIC_UNITS = {"energy_j": "J", "latency_ms": "ms", "peak_power_w": "W"}


class Origin(StrEnum):
    """Where a number comes from, best first."""

    MEASURED = "measured"  # a meter or a clock read it
    IMPORTED = "imported"  # a file from somebody else's meter
    MODELLED = "modelled"  # computed from a power model, e.g. utilisation x range of power
    SIMULATED = "simulated"  # a device simulator

    @staticmethod
    def weakest(origins: "Sequence[Origin]") -> "Origin":
        """The least trustworthy of several origins: what a derived number may call itself."""
        order = list(Origin)
        return max(origins, key=order.index)


@dataclass(frozen=True)
class Cost(Generic[T]):
    """Energy, latency and peak power of one forward pass of one batch.

    `T` is `float`, `float | None` (not measured), an array, a tensor, or `Origin`.
    """

    energy_j: T
    latency_ms: T
    peak_power_w: T

    @classmethod
    def uniform(cls, value: T) -> "Cost[T]":
        """The same value in all three places."""
        return cls(value, value, value)

    @classmethod
    def of(cls, values: Mapping[str, T]) -> "Cost[T]":
        """From a mapping with the three metric names as keys."""
        return cls(*(values[m] for m in METRICS))

    def items(self) -> Iterator[tuple[str, T]]:
        """Pairs of metric name and value, in the order of `METRICS`."""
        return ((m, getattr(self, m)) for m in METRICS)

    def map(self, function: Callable[[T], U]) -> "Cost[U]":
        """Apply a function to each of the three values."""
        return Cost(*(function(v) for _, v in self.items()))

    def zip(self, other: "Cost[U]", function: Callable[[T, U], Any]) -> "Cost[Any]":
        """Combine two costs metric by metric."""
        return Cost(*(function(getattr(self, m), getattr(other, m)) for m in METRICS))

    def as_dict(self) -> dict[str, T]:
        """The three values by name."""
        return dict(self.items())


@dataclass(frozen=True)
class PaperCost(Generic[T]):
    """Costs of one pass of one batch as counted on paper, comparable between backbones.

    Attributes:
        flops: Floating-point operations, a multiply-add counted as 2.
        weight_bytes: Bytes of weights stored and read.
        act_bytes: Bytes of activations read and written by matrix products and attention.
        kv_bytes: Bytes of keys and values read from and written to a cache.
        n_ops: Sequential kernels.
    """

    flops: T
    weight_bytes: T
    act_bytes: T
    kv_bytes: T
    n_ops: T


PAPER_COSTS = tuple(f.name for f in dataclasses.fields(PaperCost))
