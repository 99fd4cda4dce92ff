"""Who measures: a device that is open here, or a person who brings records.

    plan      the five configurations as a sheet, their models beside it; nothing is measured here
    records   the filled sheet comes back: the rows of the five calibrate; once a member is chosen, a row of it verifies

Rows are recognised by the key of their configuration, so that files may hold more than was asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metas_peft.core.errors import CalibrationError, MeasurementError, MetasPeftError
from metas_peft.core.records import BackboneShape, DeviceSpec, ProfileRecord, Workload
from metas_peft.core.store import check_table
from metas_peft.deploy.candidates import Candidate
from metas_peft.devices import Device, Ledger, Purpose, Specimen
from metas_peft.devices.importing import ImportRules, read_foreign
from metas_peft.export.backends import ONNX, TORCH, Backend, prepare

Format = Literal["hf", "onnx"]
RUNTIMES: Mapping[Format, str] = {"hf": TORCH, "onnx": ONNX}
OpenModel = Callable[[], Any]


class Source(ABC):
    """Gives measurements of candidates.

    Attributes:
        device: Name of the device.
        spec: Its spec sheet, where known.
        ledger: Counts what was measured.
    """

    device: str
    spec: DeviceSpec | None
    ledger: Ledger

    @abstractmethod
    def calibrate(self, points: Sequence[Candidate]) -> list[ProfileRecord]:
        """One record of each point, in order.

        Raises:
            MetasPeftError: The device failed, or records are missing.
        """

    @abstractmethod
    def verify(self, chosen: Candidate, artefact: Path) -> ProfileRecord | None:
        """A record of what was chosen, made after the choice; None where somebody else must measure it first.

        Args:
            chosen: What was chosen.
            artefact: What was exported: a folder of model files or an ONNX file.
        """


class OpenDevice(Source):
    """A device that is open here.

    Args:
        opened: The device.
        shape: Backbone.
        workload: What one pass processes.
        runs: Opens models where the device runs them; simulators need none.
        seed: Random order of trials, and a simulator's noise.
    """

    def __init__(
        self, opened: Device, shape: BackboneShape, workload: Workload, runs: "Runs", *, seed: int = 0
    ) -> None:
        self._device, self._shape, self._workload, self._runs, self._seed = opened, shape, workload, runs, seed
        self.device, self.spec, self.ledger = opened.spec.device_id, opened.spec, opened.ledger

    def calibrate(self, points: Sequence[Candidate]) -> list[ProfileRecord]:
        """Measure the points, counted as calibration."""
        specimens = [Specimen(c.subnet, self._shape, self._runs.of(c.subnet.key, c.open)) for c in points]
        try:
            records = self._device.measure(specimens, self._workload, purpose=Purpose.CALIBRATION, seed=self._seed)
        except MetasPeftError as error:
            raise type(error)(
                f"{self.device} failed during the {len(points)} calibration measurements: nothing was chosen. {error}"
            ) from error
        for candidate, record in zip(points, records, strict=True):
            if not record.is_valid:
                raise MeasurementError(
                    f"{self.device} failed during the {len(points)} calibration measurements: nothing was chosen. "
                    f"{candidate.name} came out as invalid ({record.why_invalid}). Measure on a quieter machine."
                )
        return records

    def verify(self, chosen: Candidate, artefact: Path) -> ProfileRecord | None:
        """Measure what was exported, counted as evaluation."""
        specimen = Specimen(chosen.subnet, self._shape, self._runs.exported(artefact))
        (record,) = self._device.measure([specimen], self._workload, purpose=Purpose.EVALUATION, seed=self._seed + 1)
        return record


@dataclass(frozen=True)
class Runs:
    """How models are run on this computer.

    Attributes:
        kind: Format that is deployed, which decides the runtime.
        scratch: Folder for ONNX files.
        threads: Processor threads.
    """

    kind: Format
    scratch: Path
    threads: int

    def of(self, key: str, open_model: OpenModel) -> Callable[[Workload], Callable[[], object]]:
        """Opener of a pass of a candidate."""
        backend = Backend(RUNTIMES[self.kind], 32)
        return lambda workload: prepare(backend, workload, open_model, self.scratch / key, self.threads).run

    def exported(self, artefact: Path) -> Callable[[Workload], Callable[[], object]]:
        """Opener of a pass of what was exported."""
        if self.kind == "onnx":
            # A file that is there under the name that the runner looks for is used as it is.
            backend = Backend(ONNX, 32)
            return lambda workload: prepare(backend, workload, _no_model, self._linked(artefact), self.threads).run
        return self.of(artefact.name, lambda: load_exported(artefact))

    def _linked(self, artefact: Path) -> Path:
        name = self.scratch / "exported"
        target = name.with_name(f"{name.name}-32.onnx")
        target.unlink(missing_ok=True)
        target.symlink_to(artefact.resolve())
        return name


def load_exported(folder: Path) -> Any:
    """A model of `metas export --format hf`, whichever of its two kinds it is."""
    from metas_peft.backbones.store import PLAN, load

    if (folder / PLAN).exists():
        return load(folder)
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()


def _no_model() -> Any:
    raise MeasurementError("The exported file is gone. Deploy again.")


class BroughtRecords(Source):
    """Records that somebody measured elsewhere.

    Args:
        device: Name of the device; rows of others are refused.
        files: CSV, Parquet or JSON files, such as a filled sheet.
        workload: What one pass processes; rows of others are refused.
        spec: Spec sheet of the device, where the catalogue knows it.
    """

    def __init__(self, device: str, files: Sequence[Path], workload: Workload, spec: DeviceSpec | None) -> None:
        self.device, self.spec, self.ledger = device, spec, Ledger()
        self._records = [r for file in files for r in _read(file, device, workload)]
        self._spent: set[int] = set()

    def calibrate(self, points: Sequence[Candidate]) -> list[ProfileRecord]:
        """The first row of each point."""
        found = {c.subnet.key: self._take(c.subnet.key, Purpose.CALIBRATION) for c in points}
        missing = [key for key, record in found.items() if record is None]
        if missing:
            raise CalibrationError(
                f"The records hold no measured row of {', '.join(missing)}; all {len(points)} configurations of the "
                "plan calibrate. Fill in their latency_ms (--plan FILE writes the sheet)."
            )
        return [record for record in found.values() if record is not None]

    def verify(self, chosen: Candidate, artefact: Path) -> ProfileRecord | None:
        """A row of the chosen one that did not calibrate."""
        return self._take(chosen.subnet.key, Purpose.EVALUATION)

    def _take(self, key: str, purpose: Purpose) -> ProfileRecord | None:
        """The first row of a configuration that was not taken yet."""
        for index, record in enumerate(self._records):
            if record.subnet_key == key and index not in self._spent:
                self._spent.add(index)
                self.ledger.add(self.device, purpose)
                return record
        return None


def _read(file: Path, device: str, workload: Workload) -> list[ProfileRecord]:
    table = read_foreign(file, ImportRules())
    waiting: set[int] = set()
    if "latency_ms" in table.column_names:
        waiting = {i for i, v in enumerate(table["latency_ms"].to_pylist()) if v is None or not str(v).strip()}
    records = check_table(table, file, waiting=waiting).profile_records()
    for record in records:
        if record.device != device:
            raise CalibrationError(f"{file} holds records of {record.device}, not of {device}. Name their device.")
        if record.workload != workload:
            raise CalibrationError(
                f"{file} holds records of another workload ({record.workload}) than the run's ({workload}). Measure "
                "passes as the plan describes them."
            )
    return records
