"""A set of the user's own: a repository of the hub, a folder, or a file, with named columns.

Labels are whatever stands in the label column; their names, in order, number the classes. A set with an answer column
is one of prompts and answers instead.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import TASKS, ClassTask, DatasetRequest, Task, TaskData, TextExamples
from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.columns import to_examples
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.metrics import accuracy_scores, confusion
from metas_peft.tasks.prompts import PromptTask, Row
from metas_peft.tasks.sources import DATA_VARIABLE, Place, find, parse_source
from metas_peft.tasks.splits import assemble, both_parts
from metas_peft.tasks.tables import Columns
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


def open_task(
    name: str, *, path: str | Path | None = None, source: str | None = None, config: str | None = None, **wishes: Any
) -> Task:
    """The task that a run file names: one that we know, or a set of the user's own.

    Args:
        name: Name or alias of a task; for a set of one's own any name with `path` or `source`, or `OWNER/NAME`.
        path: Local folder or file.
        source: Where to look, see `DatasetRequest`.
        config: Configuration of a repository of the hub; a set of one's own carries it in its name.
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
    hub = (HubSource(name, config, alone=True),) if "/" in name else ()
    if config is not None and path is None:
        name = f"{name}/{config}"  # two configurations of a repository are two sets
    if wanted.named(*OF_PROMPTS):
        _refuse(name, wanted, OF_CLASSES, "columns of prompts are named too")
        return _own_prompts(name, hub, wanted)
    _refuse(name, wanted, ("max_new_tokens", "metric"), "it is a set of classes; name dataset.answer_column for one of "
            "prompts and answers")  # fmt: skip
    texts = TEXT_COLUMNS if wanted.text_column is None else (wanted.text_column,)
    return OwnTexts(name, texts, wanted.label_column or LABEL_COLUMN, hub)


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


def _own_prompts(name: str, hub: tuple[HubSource, ...], wanted: Wishes) -> PromptTask:
    """Prompts and answers of a set that nobody but the user knows; an answer is a text or a list of accepted ones."""
    prompt, answer = wanted.prompt_column or "prompt", wanted.answer_column or "answer"

    def ask(row: Row) -> tuple[str, Sequence[str]]:
        accepted = row[answer]
        if isinstance(accepted, list):  # a file may fill lists up to one length
            accepted = [a for a in accepted if a is not None and a == a]
        else:
            accepted = [accepted]
        return row[prompt].strip(), [_text(a) for a in accepted]

    task = PromptTask(
        name=name,
        ask=ask,
        columns=(prompt, answer),
        text_metrics={"rouge_l": rouge_l, "exact_match": exact_match},
        weighs=True,
        headline="rouge_l" if wanted.max_new_tokens != 0 else "",
        hub=hub,
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
        hub: The repository of this name, where there can be one.
    """

    name: str
    text_columns: tuple[str, ...] = TEXT_COLUMNS
    label_column: str = LABEL_COLUMN
    hub: tuple[HubSource, ...] = ()

    @property
    def place(self) -> Place:
        """Where the examples may be."""
        remedy = (
            f"Give path=FOLDER or a file, a folder {self.name} under {DATA_VARIABLE}, or source=huggingface:OWNER/NAME."
        )
        return Place(self.name, self.hub, EVALUATION, remedy=remedy)

    def score(self, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
        """Accuracy first."""
        size = max([*predictions, *labels], default=0) + 1
        return accuracy_scores(confusion(predictions, labels, size))

    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples from `request.path`, the folder of this name in METAS_DATA, or the hub.

        Raises:
            DatasetError: They are missing, or not a text and a label each.
        """
        if parse_source(self.place, request.source)[0] == "builtin":
            raise DatasetError(f"There are no generated examples for {self.name}; leave out source=builtin.")
        splits = find(self.place, request)
        tables = [columns for columns in (splits.train, splits.evaluation) if columns is not None]
        names = self._names(tables, splits.where)
        train, validation, where = both_parts(
            splits, lambda columns, at: self._examples(columns, names, at), request.evaluation_ratio
        )
        return assemble(self, names, train, validation, request, origin="real", source=where, notes=splits.notes)

    def _names(self, splits: Sequence[Columns], where: str) -> tuple[str, ...]:
        """Names of the classes: numbers in their own order, anything else in that of the alphabet."""
        values = [v for columns in splits for v in columns.get(self.label_column, ())]
        if any(v is None or v != v or (isinstance(v, str) and not v.strip()) for v in values):
            raise DatasetError(f"{where}: a row has no label in {self.label_column!r}. Fill or remove it.")
        odd = next((v for v in values if not isinstance(v, str | bool | int) and not _is_whole(v)), None)
        if odd is not None:
            raise DatasetError(
                f"{where}: {self.label_column!r} holds {odd!r}, which names no class; a text or a whole number was "
                "expected, one per example. Name the column of the labels with dataset.label_column."
            )
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


_WHOLE = re.compile(r"^(-?\d+)\.0+$")


def _name(value: Any) -> str:
    """A label as text; whole numbers without a point, however the file spells them."""
    text = str(int(value) if _is_whole(value) else value).strip()
    return _WHOLE.sub(r"\1", text)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _text(answer: Any) -> str:
    """An answer as text, which a file may hold as a number.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer != answer:
        raise TypeError(f"{answer!r} is no answer")
    return str(int(answer) if _is_whole(answer) else answer)
