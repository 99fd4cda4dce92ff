"""MATH: competition problems with worked solutions (Hendrycks et al. 2021); the boxed answer must be right."""

import json
from collections.abc import Sequence
from pathlib import Path

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.hub import HubSource, SplitColumns
from metas_peft.tasks.numbers import last_boxed, plain_mathematics
from metas_peft.tasks.prompts import PromptTask, Row
from metas_peft.tasks.tables import Columns

SPLITS = ("train", "test")


def ask(row: Row) -> tuple[str, list[str]]:
    """The problem; the worked solution."""
    return f"Problem: {row['problem'].strip()}\nSolution:", [row["solution"]]


def answer_in(text: str) -> str:
    """The boxed answer in one spelling; empty where there is none."""
    return plain_mathematics(last_boxed(text))


def is_right(text: str, references: Sequence[str]) -> float:
    """1 if the boxed answer is that of a reference, spelling apart; a text without a box has not answered."""
    answer = answer_in(text)
    return float(bool(answer) and any(answer == answer_in(reference) for reference in references))


def read_folder(folder: Path) -> SplitColumns | None:
    """The release's own layout, `{train,test}/<subject>/<number>.json`, in the folder or in `MATH/` below it."""
    for root in (folder, folder / "MATH"):
        parts = [sorted((root / split).glob("*/*.json")) for split in SPLITS]
        if all(parts):
            train, test = (_columns(paths) for paths in parts)
            return SplitColumns(train, test, f"local:{root}", str(root / SPLITS[0]), str(root / SPLITS[1]))
    return None


def _columns(paths: Sequence[Path]) -> Columns:
    rows = []
    for path in paths:
        try:
            rows.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read as JSON: {error}. Check or replace the file.") from error
        if not isinstance(rows[-1], dict) or not {"problem", "solution"} <= rows[-1].keys():
            raise DatasetError(f"{path} has no problem and solution. Check or replace the file.")
    return {name: [row[name] for row in rows] for name in ("problem", "solution")}


MATH = PromptTask(
    name="math",
    ask=ask,
    columns=("problem", "solution"),
    text_metrics={"exact_match": is_right},
    read_off=answer_in,
    max_new_tokens=512,
    hub=(HubSource("nlile/hendrycks-MATH-benchmark"),),
    read_folder=read_folder,
)
