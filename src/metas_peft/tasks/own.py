"""A set of the user's own: a repository of the hub, a folder, or a file, with named columns.

Labels are whatever stands in the label column; their names, in order, number the classes. A set with an answer column
is one of prompts and answers instead.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.core.errors import DatasetError, DatasetUnavailableError
from metas_peft.tasks.base import TASKS, ClassTask, DatasetRequest, Task, TaskData, TextExamples
from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.columns import to_examples
from metas_peft.tasks.hub import HubSource, SplitColumns, download, load_cached
from metas_peft.tasks.metrics import accuracy_scores, confusion
from metas_peft.tasks.prompts import PromptTask, Row
from metas_peft.tasks.sources import DATA_VARIABLE
from metas_peft.tasks.splits import assemble, cut_evaluation
from metas_peft.tasks.tables import Columns, find_splits, read_shards, read_table
from metas_peft.tasks.wording import exact_match, rouge_l

EVALUATION = ("validation", "dev", "test")
TEXT_COLUMNS, LABEL_COLUMN = ("text", "sentence"), "label"
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Wishes:
    """What a run file says of its task besides the name; None where it says nothing.

    Attributes:
        text_column: Column with the texts, where it is not called `text` or `sentence`.
        label_column: Column with the labels, where it is not called `label`.
        prompt_column: Column with the prompts, where it is not called `prompt`.
        answer_column: Column with the answers; naming it or the prompts' makes a set one of prompts and answers.
        max_new_tokens: Tokens of a reply at most.
        metric: Headline metric of a task of prompts and answers.
    """

    text_column: str | None = None
    label_column: str | None = None
    prompt_column: str | None = None
    answer_column: str | None = None
    max_new_tokens: int | None = None
    metric: str | None = None

    def named(self, *names: str) -> list[str]:
        """Which of some wishes there are."""
        return [name for name in names if getattr(self, name) is not None]


OF_CLASSES = ("text_column", "label_column")
OF_PROMPTS = ("prompt_column", "answer_column")


def open_task(name: str, *, path: str | Path | None = None, source: str | None = None, **wishes: Any) -> Task:
    """The task that a run file names: one that we know, or a set of the user's own.

    Args:
        name: Name or alias of a task; for a set of one's own any name with `path` or `source`, or `OWNER/NAME`.
        path: Local folder or file.
        source: Where to look, see `DatasetRequest`.
        **wishes: Fields of `Wishes`.

    Raises:
        UnknownNameError: No task is called so, and nothing says where a set of this name would be; or it has no such
            metric.
        DatasetError: Columns were named for a task that has none to name, or both kinds of columns.
    """
    wanted = Wishes(**wishes)
    if name in TASKS:
        return _known(TASKS[name], wanted)
    from_hub = source is not None and source.startswith(("huggingface:", "hub:"))
    if path is None and not from_hub and "/" not in name and source != "local":
        TASKS.resolve(name)  # says which name is the nearest
    if wanted.named(*OF_PROMPTS):
        _refuse(name, wanted, OF_CLASSES, "columns of prompts are named too")
        return _own_prompts(name, wanted)
    _refuse(name, wanted, ("max_new_tokens", "metric"), "it is a set of classes; name dataset.answer_column for one of "
            "prompts and answers")  # fmt: skip
    texts = TEXT_COLUMNS if wanted.text_column is None else (wanted.text_column,)
    return OwnTexts(name, texts, wanted.label_column or LABEL_COLUMN)


def _known(task: Task, wanted: Wishes) -> Task:
    """One of our tasks, its columns or its way to ask changed as wished."""
    if isinstance(task, PromptTask):
        _refuse(task.name, wanted, (*OF_CLASSES, *OF_PROMPTS), "its columns are known")
        return task.asking(max_new_tokens=wanted.max_new_tokens, metric=wanted.metric)
    _refuse(task.name, wanted, (*OF_PROMPTS, "max_new_tokens", "metric"), "it has classes, not prompts and answers")
    if not wanted.named(*OF_CLASSES):
        return task
    if not isinstance(task, TextClassification):
        raise DatasetError(f"{task.name} has no columns to name; leave out text_column and label_column.")
    texts = task.text_columns if wanted.text_column is None else (wanted.text_column,)
    return dataclasses.replace(task, text_columns=texts, label_column=wanted.label_column or task.label_column)


def _refuse(name: str, wanted: Wishes, keys: Sequence[str], because: str) -> None:
    if found := wanted.named(*keys):
        raise DatasetError(f"{name}: leave out {', '.join(f'dataset.{key}' for key in found)}; {because}.")


def _own_prompts(name: str, wanted: Wishes) -> PromptTask:
    """Prompts and answers of a set that nobody but the user knows; an answer is a text or a list of accepted ones."""
    prompt, answer = wanted.prompt_column or "prompt", wanted.answer_column or "answer"

    def ask(row: Row) -> tuple[str, Sequence[str]]:
        accepted = row[answer]
        return row[prompt].strip(), [accepted] if isinstance(accepted, str) else accepted

    task = PromptTask(
        name=name,
        ask=ask,
        columns=(prompt, answer),
        text_metrics={"rouge_l": rouge_l, "exact_match": exact_match},
        weighs=True,
        headline="rouge_l" if wanted.max_new_tokens != 0 else "",
        hub=(HubSource(name),) if "/" in name else (),
        evaluation=EVALUATION,
    )
    return task.asking(max_new_tokens=wanted.max_new_tokens, metric=wanted.metric)


@dataclass(frozen=True)
class OwnTexts(ClassTask):
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
