"""The run's Parquet files: the front, and every measurement made."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metas_peft.core.files import replacing
from metas_peft.core.records import METRIC_NAMES, METRICS


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as one Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def front_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat row per member of the run's front: counts, quality, costs predicted and measured, origins."""
    rows = []
    for member in results["front"]:
        predicted = member["predicted"] or {}
        row = {k: v for k, v in member.items() if not isinstance(v, dict | list)}
        row |= {f"predicted_{m}": predicted.get(m) for m in METRICS}
        row |= {f"origin_{name}": member["origin"][name] for name in METRIC_NAMES.values()}
        rows.append(row)
    return rows
