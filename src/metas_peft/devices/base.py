"""What a device is, and the ledger that counts every measurement made on one.

The number of measurements is a headline result of the method, so it is counted here, by the device layer,
and not by the methods that call it: `Device.measure` is final, notes each specimen in the ledger *before*
anything runs, and hands over to `_measure`. What comes back is checked: a number without an origin, or an
energy called measured that no opened meter read, never leaves this module.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, final

from metas_peft.core.cost import METRICS, Cost, Origin, PaperCost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeasurementError, MetasPeftError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost

logger = logging.getLogger(__name__)


class Purpose(StrEnum):
    """Why a device is asked."""

    TRAINING = "training"  # inside a tuning loop; zero for everything but rivals that need it
    CALIBRATION = "calibration"  # the few samples that fit the surrogate to a target
    EVALUATION = "evaluation"  # scoring a finished front
    POOL = "pool"  # records to meta-train on


@dataclass(frozen=True)
class Specimen:
    """What a device is handed to measure.

    Attributes:
        subnet: What is kept of the backbone.
        shape: The backbone.
        open: Builds the compact model for a workload and returns a function without arguments that runs one
            pass and returns when the pass has ended (an accelerator is synchronised). Simulators ignore it.
    """

    subnet: Subnet
    shape: BackboneShape
    open: Callable[[Workload], Callable[[], object]] | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing of the backbone is left out."""
        return self.subnet.key == Subnet.dense(self.shape).key


class Ledger:
    """Counts of measurements per device and purpose; one ledger serves a whole run."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Purpose]] = Counter()

    def add(self, device: str, purpose: Purpose, count: int = 1) -> None:
        """Count measurements; the ledger only ever grows."""
        if count < 0:
            raise ValueError(f"A ledger only grows: {count} measurements cannot be added.")
        self._counts[device, Purpose(purpose)] += count

    def count(self, device: str, purpose: Purpose) -> int:
        """Measurements made on one device for one purpose."""
        return self._counts[device, Purpose(purpose)]

    def total(self, purpose: Purpose) -> int:
        """Measurements made on all devices for one purpose."""
        return sum(n for (_, p), n in self._counts.items() if p == Purpose(purpose))

    def rows(self) -> list[dict[str, Any]]:
        """One dict per device and purpose: `device`, `purpose`, `count`; sorted."""
        return [{"device": d, "purpose": str(p), "count": n} for (d, p), n in sorted(self._counts.items()) if n]


class Device(ABC):
    """Something that can be asked what a pass costs.

    A measurement's life: the caller hands specimens to `measure`; the ledger counts each of them; `_measure`
    runs them and gives one record per specimen, in order; the records are checked and returned. A specimen
    that fails stays counted: the device was used.

    Args:
        spec: Facts of the device.
        ledger: Where measurements are counted; a new one if absent.
        meters: Names of the energy and power meters that are open on this device; only they may measure.
    """

    def __init__(self, spec: DeviceSpec, ledger: Ledger | None = None, meters: tuple[str, ...] = ()) -> None:
        self.spec = spec
        self.ledger = ledger if ledger is not None else Ledger()
        self.meters = meters

    @final
    def measure(
        self, specimens: Sequence[Specimen], workload: Workload, *, purpose: Purpose, seed: int = 0
    ) -> list[ProfileRecord]:
        """Measure specimens under one workload.

        Args:
            specimens: What to measure, N of them.
            workload: What one pass processes.
            purpose: What the measurements are for; counted under this name.
            seed: Decides random order and, on simulators, the noise.

        Returns:
            N records, in the order of `specimens`; costs are per batch.

        Raises:
            MeasurementError: A pass failed, or what came back is not a number that can be trusted.
            MeterUnavailableError: A meter stopped answering.
        """
        purpose = Purpose(purpose)
        if not specimens:
            return []
        self.ledger.add(self.spec.device_id, purpose, len(specimens))
        try:
            records = self._measure(specimens, workload, purpose, seed)
        except MetasPeftError:
            raise
        except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise MeasurementError(
                f"Measuring {len(specimens)} configurations on {self.spec.device_id} failed: "
                f"{type(error).__name__}: {error}. Run one of them on its own to find the cause."
            ) from error
        if len(records) != len(specimens):
            raise MeasurementError(
                f"{self.spec.device_id} returned {len(records)} records for {len(specimens)} configurations; "
                "expected one each. This is an error in the device's own code."
            )
        for record in records:
            self._check(record)
        return records

    @property
    def identity(self) -> str:
        """What tells this device from another of the same name: numbers of the two do not go together."""
        return ""

    def spec_for(self, workload: Workload) -> DeviceSpec:
        """Facts of the device under a workload; they differ where the peak rate depends on the width of weights."""
        return self.spec

    def recall(self, specimens: Sequence[Specimen], workload: Workload, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on from measurements of an earlier process; a device that keeps nothing between calls does nothing.

        Args:
            specimens: What is being measured, the finished ones included.
            workload: What one pass processes.
            rows: Records of this machine, as a store gives them.
        """
        logger.debug("%s keeps nothing between calls; %d earlier records change nothing.", self.spec.name, len(rows))

    @abstractmethod
    def _measure(
        self, specimens: Sequence[Specimen], workload: Workload, purpose: Purpose, seed: int
    ) -> list[ProfileRecord]:
        """Run the specimens; one record each, in order. Called by `measure` alone, after counting."""

    def _check(self, record: ProfileRecord) -> None:
        where = f"{self.spec.device_id}, configuration {record.subnet_key}"
        for metric in METRICS:
            value, origin = getattr(record.cost, metric), getattr(record.origin, metric)
            if (value is None) != (origin is None):
                raise MeasurementError(f"{where}: {metric} is {value} with origin {origin}; each needs the other.")
            if value is not None and not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"{where}: {metric} came out as {value}, a positive number was expected. Measure again with more "
                    "passes; if it stays, the meter cannot be trusted."
                )
            if origin is Origin.MEASURED and metric != "latency_ms" and record.meter not in self.meters:
                raise MeasurementError(
                    f"{where}: {metric} calls itself measured by {record.meter or 'nothing'!r}, but the open meters "
                    f"are {', '.join(self.meters) or 'none'}. Without a meter a number is modelled or simulated."
                )


def stacked_papers(specimens: Sequence[Specimen], workload: Workload) -> list[PaperCost[float]]:
    """Counted costs of each specimen, in order; those of one backbone are counted in one go."""
    papers: dict[int, PaperCost[float]] = {}
    for shape, indices in by_shape(specimens):
        counts = Counts.stack([specimens[i].subnet for i in indices], shape)
        whole = paper_cost(shape, counts, workload)
        for row, index in enumerate(indices):
            papers[index] = PaperCost(
                flops=float(whole.flops[row]),
                weight_bytes=float(whole.weight_bytes[row]),
                act_bytes=float(whole.act_bytes[row]),
                kv_bytes=float(whole.kv_bytes[row]),
                n_ops=float(whole.n_ops[row]),
            )
    return [papers[i] for i in range(len(specimens))]


def by_shape(specimens: Sequence[Specimen]) -> list[tuple[BackboneShape, list[int]]]:
    """Indices of the specimens of each backbone."""
    groups: dict[BackboneShape, list[int]] = {}
    for index, specimen in enumerate(specimens):
        groups.setdefault(specimen.shape, []).append(index)
    return list(groups.items())


def make_record(
    spec: DeviceSpec,
    specimen: Specimen,
    workload: Workload,
    paper: PaperCost[float],
    cost: Cost[float | None],
    origin: Cost[Origin | None],
    **extra: Any,
) -> ProfileRecord:
    """A record with everything that device and specimen already tell.

    Args:
        spec: Facts of the device.
        specimen: What was measured.
        workload: What a pass processed.
        paper: Counted costs of the specimen.
        cost: The three numbers, per batch.
        origin: Where each of them comes from.
        **extra: Further fields of `ProfileRecord`.
    """
    counts = Counts.of(specimen.subnet, specimen.shape)
    return ProfileRecord(
        device=spec.device_id,
        model_id=specimen.shape.model_id,
        subnet_key=specimen.subnet.key,
        workload=workload,
        paper=paper,
        cost=cost,
        origin=origin,
        kept_layers=specimen.subnet.kept_layers,
        kept_heads=specimen.subnet.kept_heads,
        kept_ranks=int(counts.ranks.sum()),
        kept_ffn=specimen.subnet.kept_ffn_blocks,
        n_layers=specimen.shape.n_layers,
        device_class=spec.kind,
        runtime=spec.runtime,
        threads=spec.threads,
        **extra,
    )
