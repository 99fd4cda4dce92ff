"""Measures many configurations into a record store, a few at a time; the same call goes on where it stopped.

What is finished is read from the store itself, so nothing else can be lost or contradict it: a configuration is done
when a valid record of it under the same device, runtime, threads, workload and label is there (on this computer: of
the same machine and power source, too). A configuration that
cannot be measured leaves a record that says why and is tried again the next time.
"""

import dataclasses
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.errors import MeasurementError, MeterUnavailableError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.devices.base import Device, Purpose, Specimen, make_record, stacked_papers
from metas_peft.devices.local import LOCAL
from metas_peft.devices.machine import describe_machine

logger = logging.getLogger(__name__)

GROUP, SIMULATED_GROUP = 8, 1000
NOTED_PACKAGES = ("metas-peft", "torch", "transformers", "onnxruntime", "numpy")
WORKLOAD_COLUMNS = tuple(f.name for f in dataclasses.fields(Workload))
IDENTITY = ("device", "runtime", "threads", "model_id", "subnet_key", "label", *WORKLOAD_COLUMNS)
# Every computer calls itself `local`, and modelled power is no substitute for what a meter reads.
LOCAL_IDENTITY = (*IDENTITY, "machine", "meter")


@dataclass(frozen=True)
class Profiled:
    """What a call did.

    Attributes:
        measured: Configurations measured now.
        found: Configurations that the store had already.
        failed: Configuration -> why it could not be measured.
    """

    measured: int
    found: int
    failed: Mapping[str, str]


def profile(
    device: Device,
    specimens: Sequence[Specimen],
    workload: Workload,
    store: RecordStore,
    *,
    seed: int = 0,
    label: str = "",
    group: int = GROUP,
    progress: Callable[[int, int], None] | None = None,
) -> Profiled:
    """Measure what the store does not have yet.

    Args:
        device: Asked for what is missing; its ledger counts under `Purpose.POOL`.
        specimens: The whole plan, in order.
        workload: What one pass processes.
        store: Where records go, and where finished ones are found.
        seed: Decides random order and a simulator's noise.
        label: Tells apart rounds that measure the same configurations again.
        group: Configurations measured, and written, at a time.
        progress: Called with the number done and the number in all.

    Raises:
        MeterUnavailableError: The meter stopped answering; what was measured before is in the store.
    """
    known = _known_rows(store)
    spec = device.spec_for(workload)
    names = LOCAL_IDENTITY if spec.device_id == LOCAL else IDENTITY
    done = {_identity(row, names) for row in known if row.get("is_valid") is not False}
    extra = {"label": label, "machine": describe_machine(spec.runtime), "software": describe_software()}

    def identity(specimen: Specimen) -> tuple[Any, ...]:
        own: dict[str, Any] = dataclasses.asdict(workload) | {
            "device": spec.device_id, "runtime": spec.runtime, "threads": spec.threads, "label": label,
            "model_id": specimen.shape.model_id, "subnet_key": specimen.subnet.key, "machine": extra["machine"],
            "meter": ", ".join(device.meters), "origin_energy": str(Origin.MEASURED),
        }  # fmt: skip
        return _identity(own, names)

    missing = [s for s in specimens if identity(s) not in done]
    found = len(specimens) - len(missing)
    if missing and found:
        device.recall(specimens, workload, _same_machine(known, extra))
    failed: dict[str, str] = {}
    for start in range(0, len(missing), group):
        crew = missing[start : start + group]
        records = _measure(device, crew, workload, seed)
        store.append(records, extra)
        failed |= {r.subnet_key: r.why_invalid for r in records if not r.is_valid}
        if progress is not None:
            progress(found + start + len(crew), len(specimens))
    return Profiled(len(missing) - len(failed), found, failed)


def describe_software() -> str:
    """Versions of what takes part, for records."""
    found = [f"python {platform.python_version()}"]
    for package in NOTED_PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _measure(device: Device, crew: Sequence[Specimen], workload: Workload, seed: int) -> list[ProfileRecord]:
    """Records of a group; when it fails as a whole, of one configuration at a time."""
    try:
        return device.measure(crew, workload, purpose=Purpose.POOL, seed=seed)
    except MeterUnavailableError:
        raise
    except MeasurementError as error:
        if len(crew) == 1:
            logger.warning("Configuration %s could not be measured: %s", crew[0].subnet.key, error)
            return [_failure(device, crew[0], workload, str(error))]
        logger.info("A group of %d failed (%s); its configurations are measured one by one.", len(crew), error)
    return [record for specimen in crew for record in _measure(device, [specimen], workload, seed)]


def _failure(device: Device, specimen: Specimen, workload: Workload, why: str) -> ProfileRecord:
    (paper,) = stacked_papers([specimen], workload)
    nothing = Cost[Any].uniform(None)
    return make_record(
        device.spec_for(workload), specimen, workload, paper, nothing, nothing, n_repeats=0, is_valid=False,
        why_invalid=why,
    )  # fmt: skip


def _known_rows(store: RecordStore) -> list[dict[str, Any]]:
    return store.read().rows() if store.parts() else []


def _same_machine(rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of this very computer and software: only they share a scale of time with what comes."""
    return [r for r in rows if all(r.get(name) == extra[name] for name in ("label", "machine", "software"))]


def _identity(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """Values that decide whether two records are of the same configuration.

    An absent label is an empty one; a meter counts only where it read the energy.
    """
    meter = (row.get("meter") or "") if row.get("origin_energy") == Origin.MEASURED else ""
    own = {**row, "label": row.get("label") or "", "meter": meter}
    return tuple(own.get(name) for name in names)
