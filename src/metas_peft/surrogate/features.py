"""From a counted pass to the columns that every predictor reads, and from records to tables of them.

A forward pass is described by its counted costs (comparable between backbones, differentiable in the kept
counts) and by the workload. The five statistics of the source describe a pass within one backbone only; what they
say is contained here: `n_ops` counts the layers, FLOPs and bytes the heads and ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.core.cost import METRICS, PAPER_COSTS, PaperCost
from metas_peft.core.errors import MetasPeftError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.workload import Workload

WORKLOAD_COLUMNS = ("batch_size", "seq_len", "context_len", "param_bits", "is_decode", "is_separate")
COLUMNS = (*PAPER_COSTS, *WORKLOAD_COLUMNS)


def workload_values(workload: Workload) -> list[float]:
    """The workload as numbers, in the order of `WORKLOAD_COLUMNS`."""
    return [
        float(workload.batch_size),
        float(workload.seq_len),
        float(workload.context_len),
        float(workload.param_bits),
        float(workload.phase == "decode"),
        float(workload.adapter == "separate"),
    ]


def describe(paper: PaperCost[torch.Tensor], workload: Workload) -> torch.Tensor:
    """Columns of a pass, differentiable in the counted costs.

    Args:
        paper: Counted costs, tensors of one shape (...).
        workload: What is processed; the same for the whole batch.

    Returns:
        Double precision, shape (..., C), columns as in `COLUMNS`.
    """
    counted = torch.stack([getattr(paper, name).to(torch.float64) for name in PAPER_COSTS], dim=-1)
    rest = torch.tensor(workload_values(workload), dtype=torch.float64, device=counted.device)
    return torch.cat([counted, rest.expand(*counted.shape[:-1], len(WORKLOAD_COLUMNS))], dim=-1)


@dataclass(frozen=True)
class Table:
    """Records as arrays: N rows, C columns.

    Attributes:
        devices: Names of the devices, sorted.
        device: Index into `devices` per row, shape (N,).
        setting: Number of the (backbone, workload) pair per row, shape (N,).
        features: Columns as in `COLUMNS`, shape (N, C).
        costs: Energy (J), latency (ms), peak power (W); NaN where not measured. Shape (N, 3).
    """

    devices: tuple[str, ...]
    device: np.ndarray
    setting: np.ndarray
    features: np.ndarray
    costs: np.ndarray

    def __len__(self) -> int:
        return len(self.device)

    @classmethod
    def of(cls, records: Sequence[ProfileRecord], error: type[MetasPeftError]) -> "Table":
        """Check the records and lay them out.

        Args:
            records: Measurements, at least one.
            error: What to raise for a record that cannot be used.

        Raises:
            MetasPeftError: As given by `error`: no records, or a cost or count that is negative or not finite.
        """
        if not records:
            raise error("There are no records. Measure some, or name a file that holds some.")
        for number, record in enumerate(records):
            _check(number, record, error)
        devices = tuple(sorted({r.device for r in records}))
        settings: dict[tuple[str, Workload], int] = {}
        return cls(
            devices=devices,
            device=np.array([devices.index(r.device) for r in records]),
            setting=np.array([settings.setdefault((r.model_id, r.workload), len(settings)) for r in records]),
            features=np.array(
                [[getattr(r.paper, c) for c in PAPER_COSTS] + workload_values(r.workload) for r in records],
                dtype=np.float64,
            ),
            costs=cost_array(records),
        )

    def take(self, rows: np.ndarray) -> "Table":
        """The given rows (indices or a mask); the numbering of devices and settings stays."""
        return Table(self.devices, self.device[rows], self.setting[rows], self.features[rows], self.costs[rows])

    def without(self, device: str) -> "Table":
        """All rows of the other devices."""
        return self.take(self.device != self.devices.index(device))

    def present(self) -> list[int]:
        """Indices of the devices that have rows here, ascending."""
        return sorted(set(self.device.tolist()))

    def is_one_setting(self) -> bool:
        """Whether all rows share one backbone and one workload."""
        return len(set(self.setting.tolist())) == 1


def cost_array(records: Sequence[ProfileRecord]) -> np.ndarray:
    """Energy (J), latency (ms), peak power (W), NaN where not measured, shape (N, 3)."""
    rows = [[np.nan if value is None else value for _, value in r.cost.items()] for r in records]
    return np.array(rows, dtype=np.float64).reshape(len(records), len(METRICS))


def usable(records: Iterable[ProfileRecord]) -> list[ProfileRecord]:
    """The records that their protocol calls valid."""
    return [r for r in records if r.is_valid]


def _check(number: int, record: ProfileRecord, error: type[MetasPeftError]) -> None:
    named = [(m, v) for m, v in record.cost.items() if v is not None]
    named += [(p, getattr(record.paper, p)) for p in PAPER_COSTS]
    for name, value in named:
        is_cost = name in METRICS
        if not np.isfinite(value) or value < 0 or (is_cost and value == 0):
            raise error(
                f"Record {number} (device {record.device}, sub-network {record.subnet_key}): {name} is {value!r}; "
                f"expected a finite {'positive' if is_cost else 'non-negative'} number. "
                "Leave a metric that was not measured empty, and measure this one again."
            )
