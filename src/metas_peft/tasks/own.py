"""Text classification on a set of the user's own: a repository of the hub, a folder, or a file, with named columns.

Labels are whatever stands in the label column; their names, in order, number the classes.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.core.errors import DatasetError, DatasetUnavailableError
from metas_peft.tasks.base import TASKS, DatasetRequest, Task, TaskData, TextExamples
from metas_peft.tasks.classification import DATA_VARIABLE, TextClassification
from metas_peft.tasks.columns import to_examples
from metas_peft.tasks.hub import HubSource, SplitColumns, download, load_cached
from metas_peft.tasks.metrics import accuracy_scores, confusion
from metas_peft.tasks.splits import assemble, cut_evaluation
from metas_peft.tasks.tables import Columns, find_splits, read_shards, read_table

EVALUATION = ("validation", "dev", "test")
TEXT_COLUMNS, LABEL_COLUMN = ("text", "sentence"), "label"
MOST_CLASSES = 1000


def open_task(
    name: str, *, path: str | Path | None = None, source: str | None = None, text_column: str | None = None,
    label_column: str | None = None,
) -> Task:  # fmt: skip
    """The task that a run file names: one that we know, or a set of the user's own.

    Args:
        name: Name or alias of a task; for a set of one's own any name with `path` or `source`, or `OWNER/NAME`.
        path: Local folder or file.
        source: Where to look, see `DatasetRequest`.
        text_column: Column with the texts, where it is not called `text` or `sentence`.
        label_column: Column with the labels, where it is not called `label`.

    Raises:
        UnknownNameError: No task is called so, and nothing says where a set of this name would be.
        DatasetError: Columns were named for a task that has none to name.
    """
    if name in TASKS:
        task = TASKS[name]
        if text_column is None and label_column is None:
            return task
        if not isinstance(task, TextClassification):
            raise DatasetError(f"{task.name} has no columns to name; leave out text_column and label_column.")
        texts = task.text_columns if text_column is None else (text_column,)
        return dataclasses.replace(task, text_columns=texts, label_column=label_column or task.label_column)
    from_hub = source is not None and source.startswith(("huggingface:", "hub:"))
    if path is None and not from_hub and "/" not in name and source != "local":
        TASKS.resolve(name)  # says which name is the nearest
    return OwnTexts(name, TEXT_COLUMNS if text_column is None else (text_column,), label_column or LABEL_COLUMN)


@dataclass(frozen=True)
class OwnTexts(Task):
    """Texts and labels of a set that nobody but the user knows.

    Attributes:
        name: Name for tables; `OWNER/NAME` is a repository of the hub too.
        text_columns: Names the text column may have.
        label_column: Name of the label column.
    """

    name: str
    text_columns: tuple[str, ...] = TEXT_COLUMNS
    label_column: str = LABEL_COLUMN

    def score(self, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
        """Accuracy first."""
        size = max([*predictions, *labels], default=0) + 1
        return accuracy_scores(confusion(predictions, labels, size))

    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples from `request.path`, the folder of this name in METAS_DATA, or the hub.

        Raises:
            DatasetError: They are missing, or not a text and a label each.
        """
        splits, where = self._read(request)
        names = self._names([columns for columns in splits if columns is not None], where)
        train = self._examples(splits[0], names, where)
        if splits[1] is None:
            train, validation = cut_evaluation(train, where, request.evaluation_ratio)
            where = f"{where} ({len(validation)} rows held back)"
        else:
            validation = self._examples(splits[1], names, where)
        return assemble(self, names, train, validation, request, origin="real", source=where)

    def _read(self, request: DatasetRequest) -> tuple[tuple[Columns, Columns | None], str]:
        path = request.path
        root = os.environ.get(DATA_VARIABLE)
        if path is None and root and (Path(root) / self.name).is_dir():
            path = Path(root) / self.name
        if path is not None:
            return self._from_path(path)
        repo = request.source.partition(":")[2] if request.source and ":" in request.source else self.name
        if request.source == "local" or "/" not in repo:
            raise DatasetUnavailableError(
                f"The data set {self.name} is not on this computer. Give path=FOLDER or a file, a folder {self.name} "
                f"under {DATA_VARIABLE}, or source=huggingface:OWNER/NAME."
            )
        repository = HubSource(repo)
        found: SplitColumns = load_cached(repository, EVALUATION) or download(repository, EVALUATION)
        return (found.train, found.evaluation), found.where

    def _from_path(self, path: Path) -> tuple[tuple[Columns, Columns | None], str]:
        if path.is_file():
            return (read_table(path), None), f"local:{path}"
        if not path.is_dir():
            raise DatasetError(f"There is no file or folder {path}. Check the path of the data set {self.name}.")
        files = find_splits(path, (), EVALUATION)
        if files is None:
            seen = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
            raise DatasetError(
                f"{path} has no splits: train.parquet and one of {', '.join(f'{e}.parquet' for e in EVALUATION)} (or "
                f".tsv, .csv, .jsonl) were expected, but it holds {seen}."
            )
        return (read_shards(files.train), read_shards(files.evaluation)), f"local:{files.train[0].parent}"

    def _names(self, splits: Sequence[Columns], where: str) -> tuple[str, ...]:
        """Names of the classes: numbers in their own order, anything else in that of the alphabet."""
        values = [v for columns in splits for v in columns.get(self.label_column, ())]
        if any(v is None for v in values):
            raise DatasetError(f"{where}: a row has no label in {self.label_column!r}. Fill or remove it.")
        names = {_name(v) for v in values}
        if names and all(n.lstrip("-").isdigit() for n in names):
            if any(int(n) < 0 for n in names):
                raise DatasetError(f"{where}: labels below 0 mark a hidden test set; use another split.")
            ordered = sorted(names, key=int)
        else:
            ordered = sorted(names)
        if len(ordered) != len({n.lower() for n in ordered}):
            raise DatasetError(f"{where}: some labels in {self.label_column!r} differ only in capitals. Make them one.")
        if values and not 2 <= len(ordered) <= MOST_CLASSES:
            raise DatasetError(
                f"{where}: {self.label_column!r} holds {len(ordered)} different labels; 2 to {MOST_CLASSES} were "
                "expected. Name the column of the labels with dataset.label_column."
            )
        return tuple(ordered)

    def _examples(self, columns: Columns, names: tuple[str, ...], where: str) -> TextExamples:
        named = dict(columns)
        if self.label_column in named:
            named[self.label_column] = [_name(v) for v in named[self.label_column]]
        return to_examples(
            named, where, text_columns=self.text_columns, label_column=self.label_column, label_names=names
        )


def _name(value: Any) -> str:
    """A label as text; whole numbers without a point, however the file spells them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
