"""The run's tables: the front and every measurement made as Parquet, the answers to every example."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metas_peft.core.cost import METRIC_NAMES, METRICS
from metas_peft.core.files import replacing, write_text
from metas_peft.experiment.fronts import DENSE
from metas_peft.experiment.outcome import Outcome


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as one Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def write_answers(path: Path, outcome: Outcome) -> None:
    """Write what every member answered to every evaluation example, and what is right.

    Of classes, their numbers by method (and `dense`), (M, N), and under `labels` the true ones, (N,). Of written or
    weighed answers, the mark of each in [0, 1], and under `labels` the first accepted answer.
    """
    task = outcome.task
    found = dict(outcome.answers)
    labels = np.array(task.validation.references) if task.label_names else None
    if labels is None:
        found = {name: outcome.marks(name) for name in outcome.answers}
        labels = np.array([accepted[0] for accepted in task.validation.references])
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, labels=labels, **found)


def write_predictions(path: Path, outcome: Outcome) -> None:
    """Write every text that was written, one line of JSON per evaluation prompt; no file where none was."""
    names = {name: [m.name for m in front.members] for name, front in outcome.fronts.items()}
    written = {name: [outcome.judge.written(row) for row in outcome.answers[name]] for name in outcome.answers}
    if not written[DENSE][0]:
        return
    examples = outcome.task.validation
    lines = []
    for i, (prompt, accepted) in enumerate(zip(examples.texts, examples.references, strict=True)):
        line = {"prompt": prompt, "accepted": list(accepted), DENSE: written[DENSE][0][i]}
        line |= {name: {m: written[name][k][i] for k, m in enumerate(members)} for name, members in names.items()}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


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
