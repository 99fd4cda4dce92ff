"""How fast compact models really are: each against the dense model in the same backend, in turn, on this computer.

Timing is the device layer's: round-robin, every time by the dense model's of the same round. The dense model takes
part twice, so that two timings of one and the same thing tell how far such figures can be trusted. A member in int8 is
only ever compared with the dense model in int8.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from metas_peft.backbones.shape import longest_sequence, shape_of
from metas_peft.backbones.skeleton import build
from metas_peft.backbones.store import backbone_of, load, read_plan
from metas_peft.core.cost import Origin
from metas_peft.core.errors import CheckpointError, MeterUnavailableError, UsageError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.units import MS_PER_S
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import LOCAL, Device, Purpose, Specimen, TimingRules, open_device
from metas_peft.export.backends import BACKENDS, Prepared, prepare
from metas_peft.export.members import StoredMember

logger = logging.getLogger(__name__)

DENSE = "dense"


@dataclass(frozen=True)
class BenchRow:
    """One model in one backend under one workload.

    Attributes:
        member: Its name; `dense` for the whole model.
        key: Key of its subnet.
        flops_fraction: Its FLOPs over the dense model's.
        size_bytes: Bytes of its weights in this backend.
        latency_ms: Median time of a pass.
        sequences_per_s: Throughput.
        speed_up: Dense latency over its own.
        known_to_pct: Half width of the interval around the speed-up, in percent of it.
        speed_by_size: Speed-up times fraction of FLOPs: 1 where speed follows size exactly.
        energy_j: Energy of a pass as a meter read it; None without a meter.
    """

    member: str
    key: str
    flops_fraction: float
    size_bytes: int
    latency_ms: float
    sequences_per_s: float
    speed_up: float
    known_to_pct: float
    speed_by_size: float
    energy_j: float | None


@dataclass(frozen=True)
class BenchTable:
    """All models in one backend under one workload, the dense one first.

    Attributes:
        backend: Key of `BACKENDS`.
        batch_size: Sequences per pass.
        seq_len: Tokens per sequence.
        threads: Processor threads.
        noise_pct: Difference between two timings of the dense model in the same rounds.
        load_average: Runnable processes on the computer meanwhile.
        meter: What read the energy; None where nothing did.
        rows: The models.
    """

    backend: str
    batch_size: int
    seq_len: int
    threads: int
    noise_pct: float
    load_average: float | None
    meter: str | None
    rows: tuple[BenchRow, ...]


class Bench:
    """Members of one backbone and the whole model beside them.

    Args:
        members: What to time.
        dense: The whole model as stored by the run; None builds one with random weights, whose cost is the same.
        threads: Processor threads.
        rules: When timing may stop.
        files: Where ONNX files are kept for the next time; None throws them away with this object.
        seed: Seed of the order within rounds.

    Raises:
        CheckpointError: A plan is damaged.
        UsageError: The members come from different backbones.
    """

    def __init__(
        self,
        members: Sequence[StoredMember],
        dense: StoredMember | None = None,
        *,
        threads: int = 1,
        rules: TimingRules | None = None,
        files: Path | None = None,
        seed: int = 0,
    ) -> None:
        plans = [read_plan(m.folder) for m in members]
        backbone = plans[0].get("architecture"), plans[0].get("config")
        if any((p.get("architecture"), p.get("config")) != backbone for p in plans):
            raise UsageError("These members were cut from different backbones; bench them one by one.")
        # A plan may be whole and yet describe no model.
        try:
            self._architecture, self._config = backbone_of(plans[0])
            empty = build(self._architecture, copy.deepcopy(self._config), buffers=False)
            self.shape: BackboneShape = shape_of(empty)
        except Exception as error:
            raise CheckpointError(
                f"The plan in {members[0].folder} describes no backbone ({error}). Export the member again."
            ) from error
        self._longest = longest_sequence(empty)
        self._whole = Subnet.dense(self.shape)
        self._members = [m for m in members if m.key != self._whole.key]
        self._dense = dense
        self._threads, self._rules, self._seed = threads, rules, seed
        self._scratch = TemporaryDirectory(prefix="metas-bench-") if files is None else None
        self._files = Path(self._scratch.name) if self._scratch is not None else Path(str(files))
        torch.set_num_threads(threads)

    def run(self, backend: str, workload: Workload) -> BenchTable:
        """Time all models in one backend.

        Args:
            backend: Key of `BACKENDS`.
            workload: Batch size and length.

        Raises:
            ExportError: The backend is not installed, or cannot run these models.
            MeasurementError: Timing failed.
            UsageError: More tokens than the model reads.
        """
        self._check_length(workload.seq_len)
        chosen = BACKENDS[backend]
        workload = replace(workload, param_bits=chosen.bits)
        device = self._open_device(chosen.runtime)
        ready: dict[str, Prepared] = {}

        def opener(key: str, open_model: Callable[[], Any]) -> Callable[[Workload], Callable[[], object]]:
            def open_pass(workload: Workload) -> Callable[[], object]:
                ready[key] = prepare(chosen, workload, open_model, self._files / key, self._threads)
                return ready[key].run

            return open_pass

        whole = Specimen(self._whole, self.shape, opener(self._whole.key, self._dense_model))
        others = [
            Specimen(m.subnet, self.shape, opener(m.key, lambda folder=m.folder: load(folder))) for m in self._members
        ]
        records = device.measure([whole, whole, *others], workload, purpose=Purpose.EVALUATION, seed=self._seed)
        for record in (r for r in records if not r.is_valid):
            logger.warning("%s: its energy does not count (%s).", record.subnet_key, record.why_invalid.rstrip("."))
        names = [DENSE, *(m.name for m in self._members)]
        dense, again = records[:2]
        rows = [
            self._row(name, record, dense, ready[record.subnet_key].size_bytes)
            for name, record in zip(names, [dense, *records[2:]], strict=True)
        ]
        return BenchTable(
            backend=backend,
            batch_size=workload.batch_size,
            seq_len=workload.seq_len,
            threads=self._threads,
            noise_pct=100.0 * abs(_latency_ms(again) / _latency_ms(dense) - 1.0),
            load_average=dense.conditions.load_average,
            meter=device.meters[0] if device.meters else None,
            rows=tuple(rows),
        )

    def _open_device(self, runtime: str) -> Device:
        options: dict[str, Any] = {"runtime": runtime, "threads": self._threads, "rules": self._rules}
        try:
            return open_device(LOCAL, power="meter", **options)
        except MeterUnavailableError:  # the table says that nothing read the energy
            return open_device(LOCAL, power="modelled", **options)

    def _check_length(self, seq_len: int) -> None:
        if self._longest is not None and seq_len > self._longest:
            raise UsageError(f"The model reads at most {self._longest} tokens, not {seq_len}. Use a smaller --seq-len.")

    def _dense_model(self) -> Any:
        if self._dense is not None:
            return load(self._dense.folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._architecture(copy.deepcopy(self._config)).eval()

    def _row(self, name: str, record: ProfileRecord, dense: ProfileRecord, size: int) -> BenchRow:
        work, latency = record.workload, _latency_ms(record)
        whole = paper_cost(self.shape, Counts.dense(self.shape), work).flops
        fraction, speed_up = float(record.paper.flops / whole), _latency_ms(dense) / latency
        return BenchRow(
            member=name,
            key=record.subnet_key,
            flops_fraction=fraction,
            size_bytes=size,
            latency_ms=latency,
            sequences_per_s=work.batch_size * MS_PER_S / latency,
            speed_up=speed_up,
            known_to_pct=_own_part(record),
            speed_by_size=speed_up * fraction,
            energy_j=record.cost.energy_j if record.is_valid and record.origin.energy_j is Origin.MEASURED else None,
        )


def _own_part(record: ProfileRecord) -> float:
    """What is not known of a time besides the scale it is given on, in percent."""
    whole, scale = record.known_to_pct or 0.0, record.conditions.scale_known_to_pct or 0.0
    return math.sqrt(max(0.0, whole**2 - scale**2))


def _latency_ms(record: ProfileRecord) -> float:
    assert record.cost.latency_ms is not None, "a local device times every pass"
    return record.cost.latency_ms
