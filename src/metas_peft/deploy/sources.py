"""Who measures: a device that is open here, or a person who brings records.

    plan      the five configurations as a sheet, their models beside it; nothing is measured here
    records   the filled sheet comes back: the rows of the five calibrate; once a member is chosen, a row of it verifies

Rows are recognised by the key of their configuration, so that files may hold more than was asked for.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CalibrationError, MeasurementError, MetasPeftError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.store import check_table
from metas_peft.core.workload import Workload
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
    import transformers

    # The class that it was saved as: a language model opened as a classifier would lose its head.
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    architecture: Any = getattr(transformers, config.architectures[0])
    return architecture.from_pretrained(folder, local_files_only=True).eval()


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
        self._files = [_read(file, device, workload) for file in files]
        contents: dict[bytes, Path] = {}
        for file in (f for f in files if f.is_file()):
            content = file.read_bytes()
            if content in contents:
                raise CalibrationError(
                    f"{contents[content]} and {file} hold the same readings. Leave one of them out of --records."
                )
            contents[content] = file
        self._spent: list[ProfileRecord] = []

    def calibrate(self, points: Sequence[Candidate]) -> list[ProfileRecord]:
        """The first row of each point: of the first file that has them all, else of all files in order."""
        keys = [c.subnet.key for c in points]
        whole = [rows for rows in self._files if set(keys) <= {r.subnet_key for r in rows}]
        rows = whole[0] if whole else [r for rows in self._files for r in rows]
        found = {key: next((r for r in rows if r.subnet_key == key), None) for key in keys}
        missing = [key for key, record in found.items() if record is None]
        if missing:
            raise CalibrationError(
                f"The records hold no measured row of {', '.join(missing)}; all {len(points)} configurations of the "
                "plan calibrate. Fill in their latency_ms (--plan FILE writes the sheet)."
            )
        records = [record for record in found.values() if record is not None]
        self._spent = records
        self.ledger.add(self.device, Purpose.CALIBRATION, len(records))
        return records

    def verify(self, chosen: Candidate, artefact: Path) -> ProfileRecord | None:
        """The first row of the chosen one that did not calibrate.

        Raises:
            CalibrationError: All that is left of it are copies of rows that calibrated.
        """
        key, used = chosen.subnet.key, {id(r) for r in self._spent}
        left = [r for rows in self._files for r in rows if r.subnet_key == key and id(r) not in used]
        if not left:
            return None
        fresh = [r for r in left if not any(_without_source(r) == _without_source(s) for s in self._spent)]
        if not fresh:
            raise CalibrationError(
                f"The further row of {key} is the one that calibrated, digit for digit: it verifies nothing. Measure "
                f"{chosen.name} again, or leave the copy out of --records."
            )
        self.ledger.add(self.device, Purpose.EVALUATION)
        return fresh[0]


def _without_source(record: ProfileRecord) -> ProfileRecord:
    """A reading, whichever file it came from."""
    return dataclasses.replace(record, source="")


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
