"""Prompts with answers to be written: how rows become prompts, and how replies are judged."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from metas_peft.core.errors import DatasetError, UnknownNameError, nearest
from metas_peft.tasks import replies
from metas_peft.tasks.base import DatasetRequest, Kind, PromptExamples, Task, TaskData
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.sources import FolderReader, Place, find, parse_source
from metas_peft.tasks.splits import assemble, both_parts
from metas_peft.tasks.tables import Columns
from metas_peft.tasks.wording import plain

LIKELIHOOD = "inverse_perplexity"
BANDS = 20  # in which two members whose answers are not written, only weighed, count as agreeing

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptTask(Task):
    """A task whose examples are a prompt and the answers that are accepted.

    A reply is judged by what was written, by the likelihood that the model gives to the reference, or by both.

    Attributes:
        name: Canonical name, which is also its folder under METAS_DATA.
        ask: A row -> its prompt, without white space at its end, and its accepted answers, best first.
        columns: Columns that `ask` needs.
        text_metrics: Name -> how good a written answer is beside the references, in [0, 1].
        read_off: What a written answer comes to: texts for which it is the same are the same answer.
        max_new_tokens: Tokens of a reply at most; 0 where nothing is written.
        weighs: Whether the likelihood of the reference is a metric; it heads the others.
        headline: Name of the headline metric; the first one by default.
        hub: Repositories of the hub, best first.
        evaluation: Names of the split to evaluate on, best first.
        subfolders: Further folders, relative to the one given, that may hold the splits.
        read_folder: Reads a folder laid out in the set's own way.
        remedy: What to do where the set cannot be had.
    """

    kind: ClassVar[Kind] = "generation"

    name: str
    ask: Callable[[Row], tuple[str, Sequence[str]]] = field(repr=False)
    columns: tuple[str, ...]
    text_metrics: Mapping[str, Callable[[str, Sequence[str]], float]] = field(repr=False)
    read_off: Callable[[str], str] = field(default=plain, repr=False)
    max_new_tokens: int = 128
    weighs: bool = False
    headline: str = ""
    hub: tuple[HubSource, ...] = ()
    evaluation: tuple[str, ...] = ("test", "validation", "dev")
    subfolders: tuple[str, ...] = ()
    read_folder: FolderReader | None = field(default=None, repr=False)
    remedy: str = ""

    @property
    def repository(self) -> str:
        """The best one that is known."""
        return self.hub[0].repo if self.hub else ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, headline first."""
        names = [*([LIKELIHOOD] if self.weighs else []), *(self.text_metrics if self.max_new_tokens else [])]
        first = self.headline or names[0]
        return (first, *(name for name in names if name != first))

    def asking(self, *, max_new_tokens: int | None, metric: str | None) -> "PromptTask":
        """The task with another length of reply, or another headline.

        Args:
            max_new_tokens: Tokens of a reply at most; None leaves them.
            metric: Headline metric; None leaves it.

        Raises:
            UnknownNameError: The task has no such metric.
            DatasetError: Nothing would be left to judge by.
        """
        wanted = self if max_new_tokens is None else dataclasses.replace(self, max_new_tokens=max_new_tokens)
        if not wanted.max_new_tokens and not wanted.weighs:
            raise DatasetError(f"dataset.max_new_tokens=0 leaves nothing to judge replies to {self.name} by. Raise it.")
        if metric is None:
            return wanted
        if metric not in wanted.metrics:
            raise UnknownNameError(f"Unknown metric {metric!r} of {self.name}: {nearest(metric, wanted.metrics)}")
        return dataclasses.replace(wanted, headline=metric)

    # ---- reading

    @property
    def place(self) -> Place:
        """Where the examples may be."""
        return Place(self.name, self.hub, self.evaluation, self.subfolders, self.read_folder, self.remedy)

    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples from the first source that has them: `request.path`, METAS_DATA, the hub."""
        if parse_source(self.place, request.source)[0] == "builtin":
            raise DatasetError(f"There are no generated examples for {self.name}; leave out source=builtin.")
        splits = find(self.place, request)
        train, validation, where = both_parts(splits, self._examples, request.evaluation_ratio)
        return assemble(self, (), train, validation, request, origin="real", source=where, notes=splits.notes)

    def _examples(self, columns: Columns, where: str) -> PromptExamples:
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise DatasetError(
                f"{where} has no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, columns)) or 'no columns'}. Rename the column."
            )
        size = len(next(iter(columns.values())))
        if not size:
            raise DatasetError(f"{where} has no rows; at least one example is needed.")
        asked = [self._ask({name: columns[name][i] for name in columns}, f"{where}, row {i + 1}") for i in range(size)]
        return PromptExamples(tuple(prompt for prompt, _ in asked), tuple(answers for _, answers in asked))

    def _ask(self, row: Row, where: str) -> tuple[str, tuple[str, ...]]:
        try:
            prompt, answers = self.ask(row)
            accepted = tuple(answer.strip() for answer in answers if isinstance(answer, str) and answer.strip())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where} is not laid out as {self.name} is ({error!r}). Fill or remove it.") from error
        if not prompt or not accepted:
            raise DatasetError(f"{where}: an empty {'answer' if prompt else 'prompt'}. Fill or remove the row.")
        return prompt, accepted

    # ---- judging

    def score(self, predictions: Any, references: Any, /) -> dict[str, float]:
        """Means of the metrics over the examples, headline first; of weighed references the nats per token too."""
        if len(predictions) != len(references) or not len(references):
            raise DatasetError(
                f"{len(predictions)} replies for {len(references)} prompts: one reply per example is needed."
            )
        found = {name: float(self._marks(name, predictions, references).mean()) for name in self.metrics}
        return found | ({"nats_per_token": float(predictions["nats"].mean())} if self.weighs else {})

    def marks(self, predictions: Any, references: Any, /) -> np.ndarray:
        """The headline metric of each reply, (N,)."""
        return self._marks(self.metrics[0], predictions, references)

    def _marks(self, metric: str, predictions: Any, references: Any) -> np.ndarray:
        if metric == LIKELIHOOD:
            return np.exp(-predictions["nats"])
        judge = self.text_metrics[metric]
        return np.array(
            [judge(str(text), answers) for text, answers in zip(predictions["text"], references, strict=True)]
        )

    def given(self, predictions: Any) -> np.ndarray:
        """What each written answer comes to; where none is written, in which of 20 bands its likelihood lies."""
        if not self.max_new_tokens:
            return np.minimum(np.exp(-predictions["nats"]) * BANDS, BANDS - 1).astype(np.int64)
        return np.array([self.read_off(str(text)) for text in predictions["text"]])

    def written(self, predictions: Any) -> list[str]:
        """The written answers."""
        return [str(text) for text in predictions["text"]] if self.max_new_tokens else []

    def guess(self, known: Sequence[Any], count: int) -> np.ndarray:
        """The most frequent answer; nobody who never reads the prompt gives the reference any likelihood."""
        comes_to = Counter(self.read_off(answers[0]) for answers in known)
        usual, _ = comes_to.most_common(1)[0]
        text = next(answers[0] for answers in known if self.read_off(answers[0]) == usual)
        return replies.as_array([text] * count, [float("inf")] * count)
