"""Records of anybody's file as records of passes: what the file does not tell is neutral or zero."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metas_peft.core.cost import PAPER_COSTS
from metas_peft.core.records import ProfileRecord
from metas_peft.core.store import RecordStore

# A file needs flops and weight_bytes; what else it does not count costs nothing there, and is left out of every fit.
NEUTRAL = {
    "phase": "prefill", "seq_len": 1, "context_len": 0, "param_bits": 32, "adapter": "merged", "model_id": "",
    "subnet_key": "", "kept_layers": 0, "kept_heads": 0, "kept_ranks": 0, "kept_ffn": 0, "n_layers": 0, "n_repeats": 1,
    "energy_j": None, "peak_power_w": None, "is_valid": True, "why_invalid": "", "device_class": "", "runtime": "",
    "meter": "", "source": "", "power_mode": "", "anchor_key": "", **dict.fromkeys(PAPER_COSTS, 0.0),
}  # fmt: skip


def read_records(paths: Sequence[Path], *, skip_invalid: bool = False) -> list[ProfileRecord]:
    """Valid records of several files or stores.

    Args:
        paths: Parquet files, or folders of part files.
        skip_invalid: Leave wrong rows out instead of refusing the file.

    Raises:
        InvalidRecordError: A file cannot be read, lacks a needed column, or a row is wrong.
    """
    found: list[ProfileRecord] = []
    for path in paths:
        rows = RecordStore(path).read(skip_invalid=skip_invalid).rows()
        records = [ProfileRecord.from_row(_whole(row)) for row in rows]
        found += [r for r in records if r.is_valid]
    return found


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    full = {**NEUTRAL, **row}
    for name, value in NEUTRAL.items():
        if full[name] is None and value is not None:
            full[name] = value
    if full.get("origin") is None:
        full["origin"] = "imported"
    return full
