"""The walk of a deployment: five measurements, calibration, choice, export, verification, and the folder it leaves.

OUT/
  deployment.json   everything that was found; written last, so that a folder that has it is whole
  report.html       the same for people
  model/            what was exported (not where nothing fits)
  records/          the measurements, each with its origin
  verify.csv        only where a person must measure: the chosen configuration as a sheet
"""

import contextlib
import csv
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metas_peft.core.errors import OutputError, UsageError
from metas_peft.core.files import write_json
from metas_peft.core.store import RecordStore
from metas_peft.deploy.candidates import FinishedRun, points_to_measure
from metas_peft.deploy.choosing import Shortfall
from metas_peft.deploy.deciding import decide
from metas_peft.deploy.exporting import export
from metas_peft.deploy.sources import Format, Source
from metas_peft.deploy.telling import SHEET, Findings, Request
from metas_peft.devices import Specimen
from metas_peft.devices.sheet import write_sheet
from metas_peft.export.members import filling
from metas_peft.report.deployment import write_deployment

RESULT, REPORT, MODEL, RECORDS = "deployment.json", "report.html", "model", "records"


@dataclass(frozen=True)
class Deployment:
    """What came of it.

    Attributes:
        folder: Where it lies.
        result: Content of `deployment.json`.
    """

    folder: Path
    result: Mapping[str, Any] = field(repr=False)

    @property
    def failure(self) -> str:
        """Why the budgets do not hold, in a sentence; empty where they hold when measured."""
        return str(self.result["failure"])


def deploy(request: Request, source: Source) -> Deployment:
    """Deploy a run on a device.

    Args:
        request: What is wanted.
        source: Who measures.

    Raises:
        MetasPeftError: The device failed, records do not fit, or nothing can be written. A choice that does not hold
            its budgets is no error here but a result with a `failure`.
    """
    run = request.run
    check_out(request.out)
    decision = decide(run, request.budgets, source, request.seed)
    findings = Findings(request, source, decision)
    measured, choice = decision.measured, decision.choice
    with _written(request.out):
        records = list(measured)
        if isinstance(choice, Shortfall):
            outcome = findings.nothing(choice)
        else:
            candidate = run.candidates[choice.index]
            facts = export(run, candidate, request.out / MODEL, request.kind)
            record = source.verify(candidate, request.out / facts["file"])
            if record is None:
                specimen = Specimen(candidate.subnet, run.shape)
                write_sheet(
                    request.out / SHEET, [specimen], run.workload, device=source.device, runtime=measured[0].runtime,
                    threads=None,
                )  # fmt: skip
            else:
                records.append(record)
            outcome = findings.chosen(choice, facts, record)
        result = findings.common() | outcome
        RecordStore(request.out / RECORDS).append(records)
        write_deployment(result, request.out / REPORT)
        write_json(request.out / RESULT, result)
    return Deployment(request.out, result)


def write_plan(
    run: FinishedRun, device: str, sheet: Path, kind: Format, *, runtime: str = "", threads: int | None = None,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write the five configurations for a person to measure: a sheet, and their models beside it.

    Args:
        run: Finished run.
        device: What the device is called.
        sheet: CSV file.
        kind: Format of the models.
        runtime: What passes run on there; may be empty.
        threads: Processor threads that they are to use there, where it matters.
        seed: Of everything random.

    Returns:
        Folder of the models.

    Raises:
        UsageError: The sheet is not called `.csv`.
        OutputError: The folder of the models holds something already, or the sheet cannot be written.
    """
    if sheet.suffix.lower() != ".csv":
        raise UsageError(
            f"--plan {sheet}: a sheet is a CSV file, and --records reads it by its name. Call it FILE.csv."
        )
    points = points_to_measure(run, seed)
    models = sheet.with_name(f"{sheet.stem}-models")
    if models.exists() and any(models.iterdir()):
        raise OutputError(f"{models} is not empty. Choose another --plan file, or delete it.")
    with filling(models):
        for candidate in points:
            export(run, candidate, models / candidate.subnet.key, kind)
        specimens = [Specimen(c.subnet, run.shape) for c in points]
        write_sheet(sheet, specimens, run.workload, device=device, runtime=runtime, threads=threads)
    return models


def check_out(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier deployment, or something that a person wrote into it.

    Raises:
        OutputError: It does.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RESULT).exists())):
        raise OutputError(f"{out} holds something else than a deployment. Choose another folder with --out.")
    if _is_filled_in(out / SHEET):
        raise OutputError(
            f"{out / SHEET} has been filled in, and this folder is written anew. Move it elsewhere and give it as one "
            "more --records."
        )


def _is_filled_in(sheet: Path) -> bool:
    """Whether somebody has written a latency into a sheet."""
    if not sheet.exists():
        return False
    with sheet.open(encoding="utf-8", newline="") as file:
        return any((row.get("latency_ms") or "").strip() for row in csv.DictReader(file))


@contextlib.contextmanager
def _written(out: Path) -> Iterator[None]:
    """Make the folder anew. If the block fails, what was there before is there again.

    The earlier one steps aside, rather than the new one being moved at the end: files in it name their own folder.
    """
    check_out(out)
    place = out.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        earlier = aside / place.name
        if place.exists():
            place.rename(earlier)
    except OSError as error:
        raise OutputError(f"{out} cannot be made ({error.strerror}). Choose another folder with --out.") from error
    try:
        place.mkdir()
        yield
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        if earlier.exists():
            earlier.rename(place)
        aside.rmdir()  # only if empty: what cannot be put back is not deleted
        raise
    shutil.rmtree(aside, ignore_errors=True)
