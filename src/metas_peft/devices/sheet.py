"""A sheet for a device that only a person can reach: what to measure there, with empty places for the results.

The sheet is a CSV file that any spreadsheet opens. Filled in, it is imported like any other file; rows without a
latency are not measured yet.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.files import replacing
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts
from metas_peft.devices.base import Specimen, stacked_papers

TO_FILL_IN = ("latency_ms", "latency_std_ms", "n_repeats", "energy_j", "peak_power_w", "mean_power_w", "meter")
HEADS, BLOCKS = "heads_per_layer", "ffn_blocks_per_layer"


def write_sheet(
    path: Path, specimens: Sequence[Specimen], workload: Workload, *, device: str, runtime: str, threads: int | None
) -> None:
    """Write the sheet of some configurations, which keep the first so many heads and FFN blocks of each layer.

    Args:
        path: The CSV file.
        specimens: What to measure.
        workload: What one pass processes.
        device: Name of the device.
        runtime: What passes run on there; may be empty.
        threads: Processor threads, where that is a choice.

    Raises:
        OutputError: The file cannot be written.
    """
    rows = [
        _row(specimen, workload, paper) | {"device": device, "runtime": runtime, "threads": threads}
        for specimen, paper in zip(specimens, stacked_papers(specimens, workload), strict=True)
    ]
    names = ["device", "runtime", "threads", *(n for n in rows[0] if n not in ("device", "runtime", "threads"))]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*names, *TO_FILL_IN], restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if value is None else value for name, value in row.items()})


def read_configurations(path: Path) -> list[Subnet]:
    """The configurations of a sheet, in order, for building the models that it asks for.

    Raises:
        InvalidRecordError: The file is not a sheet.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InvalidRecordError(f"Cannot read the sheet {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidRecordError(f"The sheet {path} is no text in UTF-8 ({error}). Save it as such.") from error
    try:
        return [Subnet.prefix(*([int(n) for n in row[column].split()] for column in (HEADS, BLOCKS))) for row in rows]
    except (KeyError, ValueError, AttributeError) as error:
        raise InvalidRecordError(
            f"{path} is not a sheet of this program: whole numbers in {HEADS} and {BLOCKS} were expected ({error})."
        ) from error


def _row(specimen: Specimen, workload: Workload, paper: Any) -> dict[str, Any]:
    subnet, shape = specimen.subnet, specimen.shape
    kept = [(len(p.heads) * p.attention, len(p.ffn_blocks) * p.ffn) for p in subnet.layers]
    row: dict[str, Any] = {
        "model_id": shape.model_id,
        "subnet_key": subnet.key,
        HEADS: " ".join(str(heads) for heads, _ in kept),
        BLOCKS: " ".join(str(blocks) for _, blocks in kept),
    }
    row |= dataclasses.asdict(workload)
    row |= {name: int(value) for name, value in dataclasses.asdict(paper).items()}
    row |= {
        "kept_layers": subnet.kept_layers,
        "kept_heads": subnet.kept_heads,
        "kept_ranks": int(Counts.of(subnet, shape).ranks.sum()),
        "kept_ffn": subnet.kept_ffn_blocks,
        "n_layers": shape.n_layers,
    }
    return row
