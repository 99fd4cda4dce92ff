"""The run's tables: the front and every measurement made as Parquet, the answers to every example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metas_peft.core.files import replacing
from metas_peft.core.records import METRIC_NAMES, METRICS


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as one Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def write_answers(path: Path, answers: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
    """Write what every member answered to every evaluation example, and what is right.

    Args:
        path: Where to.
        answers: Predicted classes by method (and `dense`), (M, N).
        labels: True classes, (N,).
    """
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, labels=labels, **answers)


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
