"""What a task is: examples with what is right, a score, and a place in the registry.

Texts stay texts here; the tokeniser belongs to the backbone, so one loaded task serves them all. A task is of one of
two kinds: texts with a class each (`ClassTask`), or prompts with answers to be written (`PromptTask`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

from metas_peft.core.errors import DatasetError
from metas_peft.core.registry import Registry

DataOrigin = Literal["real", "synthetic"]
Kind = Literal["classification", "generation"]


class Examples(Protocol):
    """What a model is given and what is right, in order."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What the model is given, one per example."""
        ...

    @property
    def references(self) -> Sequence[Any]:
        """What is right, one entry per example: a label index, or the accepted answers."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Iterable[int]) -> Self:
        """The examples at these positions, in this order."""
        ...


@dataclass(frozen=True)
class TextExamples:
    """Texts and their labels, in order.

    Attributes:
        texts: One text per example.
        labels: Index of each example's label, same length.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise DatasetError(f"{len(self.texts)} texts came with {len(self.labels)} labels; each text needs one.")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def references(self) -> tuple[int, ...]:
        """The labels."""
        return self.labels

    def take(self, indices: Iterable[int]) -> "TextExamples":
        """The examples at these positions, in this order."""
        chosen = list(indices)
        return TextExamples(tuple(self.texts[i] for i in chosen), tuple(self.labels[i] for i in chosen))


@dataclass(frozen=True)
class PromptExamples:
    """Prompts and the answers that are accepted for each, in order.

    Attributes:
        texts: One prompt per example.
        answers: At least one answer per example; the first is what a model is trained to write.
    """

    texts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.answers) or not all(self.answers):
            raise DatasetError(
                f"{len(self.texts)} prompts came with {len(self.answers)} lists of answers; each prompt needs one, and "
                "each list an answer."
            )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def references(self) -> tuple[tuple[str, ...], ...]:
        """The accepted answers."""
        return self.answers

    def take(self, indices: Iterable[int]) -> "PromptExamples":
        """The examples at these positions, in this order."""
        chosen = list(indices)
        return PromptExamples(tuple(self.texts[i] for i in chosen), tuple(self.answers[i] for i in chosen))


@dataclass(frozen=True)
class TaskData:
    """The examples of a task, ready for a tokeniser.

    Attributes:
        name: Name for tables; it says so where generated data stand in for real ones.
        train: Examples to train on; none of their texts is in `holdout`.
        holdout: Slice of the training set that every choice is made on.
        validation: Examples for evaluation only: never used to choose anything.
        label_names: Name of each label index; empty where answers are written, not chosen.
        origin: `real`, or `synthetic` where the project generated the texts.
        source: Where the texts come from, for tables.
        quality_metric: Name of the headline metric.
        chance_quality: Headline metric on `validation` of always giving the most frequent training answer.
        notes: Sentences for the report on where the examples come from.
    """

    name: str
    train: Examples
    holdout: Examples
    validation: Examples
    label_names: tuple[str, ...]
    origin: DataOrigin
    source: str
    quality_metric: str
    chance_quality: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRequest:
    """Which examples are wanted, and from where.

    Attributes:
        path: Folder with one file per split, or a single file of which a part is held back for evaluation.
            It goes before every other source.
        source: `local` (only `path` or the folder METAS_DATA), `huggingface:OWNER/NAME` (which repository of the
            hub to ask; a copy in METAS_DATA stands in for the task's official one alone), `huggingface` (the usual
            ones), `builtin` (the generated corpus), or None for the usual order: METAS_DATA, hub, generated corpus.
        train_limit: At most so many training examples, `holdout` included; a seeded draw.
        evaluation_limit: At most so many evaluation examples; the same ones for every seed.
        seed: Seed of the draws from the training set.
        holdout_ratio: Part of the training set that choices are made on, at most 1000 examples.
        evaluation_ratio: Part of a single table that is evaluated on, at most 1000 examples.
        config: Which configuration of a repository of the hub is asked for; None for the usual or the only one.
    """

    path: Path | None = None
    source: str | None = None
    train_limit: int | None = None
    evaluation_limit: int | None = None
    seed: int = 0
    holdout_ratio: float = 0.1
    evaluation_ratio: float = 0.1
    config: str | None = None

    def __post_init__(self) -> None:
        for name in ("train_limit", "evaluation_limit"):
            limit = getattr(self, name)
            if limit is not None and limit < 2:
                raise DatasetError(f"{name} is {limit}; at least 2 examples are needed. Leave it out to use all.")
        for name in ("holdout_ratio", "evaluation_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise DatasetError(f"{name} is {getattr(self, name)}; a part between 0 and 1 was expected.")


class Task(ABC):
    """Something a model can be tuned for.

    A task is asked twice: `load` once per run, before anything is trained, and `score`, `marks` and `given` whenever
    predictions on its examples are at hand. It holds no data itself.

    Attributes:
        name: Canonical name.
        kind: `classification` (a prediction is a label index) or `generation` (a prediction is a reply, see
            `replies.as_array`).
    """

    name: str
    kind: ClassVar[Kind]

    @property
    def repository(self) -> str:
        """Repository of the hub that has the examples, `OWNER/NAME`; empty where none has."""
        return ""

    @abstractmethod
    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples.

        Raises:
            DatasetError: They are missing, empty, or not what they should be.
        """

    @abstractmethod
    def score(self, predictions: Any, references: Any, /) -> dict[str, float]:
        """Metrics, headline first; the headline is in [0, 1], higher is better.

        Args:
            predictions: One per example, length N.
            references: What is right, one entry per example, length N.

        Raises:
            DatasetError: There is nothing to score, or the lengths differ.
        """

    @abstractmethod
    def marks(self, predictions: Any, references: Any, /) -> np.ndarray:
        """How good each prediction is, (N,) in [0, 1]."""

    @abstractmethod
    def given(self, predictions: Any) -> np.ndarray:
        """What each prediction comes to, (N,): equal entries are the same answer."""

    @abstractmethod
    def written(self, predictions: Any) -> list[str]:
        """The texts of predictions that are texts; empty where they are not."""

    @abstractmethod
    def guess(self, known: Sequence[Any], count: int) -> Any:
        """Predictions of somebody who knows the training answers and never reads the question.

        Args:
            known: What is right in the training examples.
            count: How many predictions.

        Returns:
            The most frequent answer, `count` times.
        """


class ClassTask(Task):
    """A task whose examples are texts with one class each."""

    kind: ClassVar[Kind] = "classification"

    def marks(self, predictions: Any, references: Any, /) -> np.ndarray:
        """1 where the predicted class is the true one."""
        return (np.asarray(predictions) == np.asarray(references)).astype(np.float64)

    def given(self, predictions: Any) -> np.ndarray:
        """The predicted classes."""
        return np.asarray(predictions)

    def written(self, predictions: Any) -> list[str]:
        """None: classes are told by their number."""
        return []

    def guess(self, known: Sequence[Any], count: int) -> list[int]:
        """The most frequent class."""
        return [int(np.bincount(known).argmax())] * count


TASKS: Registry[Task] = Registry("task")


def register(task: Task, *aliases: str) -> Task:
    """Make a task known by its name and other spellings."""
    return TASKS.add(task.name, task, aliases)


def load_task(
    name: str,
    *,
    path: str | Path | None = None,
    source: str | None = None,
    train_limit: int | None = None,
    evaluation_limit: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Load the examples of a task by name or alias.

    Args:
        name: Task name, such as `sst2`, `cola`, `gsm8k`, `builtin`.
        path: Local folder or file, see `DatasetRequest`.
        source: `local`, `huggingface:OWNER/NAME`, `builtin` or None, see `DatasetRequest`.
        train_limit: At most so many training examples, `holdout` included.
        evaluation_limit: At most so many evaluation examples.
        seed: Seed of the draws from the training set.

    Raises:
        UnknownNameError: No task is called so.
        DatasetError: The examples are missing, empty, or not what they should be.
    """
    request = DatasetRequest(None if path is None else Path(path), source, train_limit, evaluation_limit, seed)
    return TASKS[name].load(request)
