"""Single texts with one label each."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import ClassTask, DatasetRequest, Task, TaskData, TextExamples
from metas_peft.tasks.columns import to_examples
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.metrics import confusion
from metas_peft.tasks.sources import DATA_VARIABLE, NotHereError, Place, find, is_official, parse_source
from metas_peft.tasks.splits import assemble, both_parts
from metas_peft.tasks.tables import Columns

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextClassification(ClassTask):
    """A task whose examples are a text and a label.

    Attributes:
        name: Canonical name, which is also its folder under METAS_DATA.
        label_names: Name of each label index.
        scores: Confusion counts -> metrics, headline first.
        hub: Repositories of the hub, best first.
        text_columns: Names the text column may have.
        label_column: Name of the label column.
        evaluation: Names of the split to evaluate on, best first.
        subfolders: Further folders, relative to the one given, that may hold the splits.
        stand_in: Generated examples for machines that have neither a copy nor a network.
    """

    name: str
    label_names: tuple[str, ...]
    scores: Callable[[np.ndarray], dict[str, float]]
    hub: tuple[HubSource, ...] = ()
    text_columns: tuple[str, ...] = ("sentence", "text")
    label_column: str = "label"
    evaluation: tuple[str, ...] = ("validation", "dev")
    subfolders: tuple[str, ...] = ()
    stand_in: Task | None = field(default=None, repr=False)

    @property
    def repository(self) -> str:
        """The best one that is known."""
        return self.hub[0].repo if self.hub else ""

    def score(self, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
        """Metrics of predicted label indices, headline first."""
        return self.scores(confusion(predictions, labels, len(self.label_names)))

    @property
    def place(self) -> Place:
        """Where the examples may be."""
        return Place(self.name, self.hub, self.evaluation, self.subfolders)

    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples from the first source that has them.

        The order: `request.path`; the folder in METAS_DATA; the hub's cache and the hub; for a task with a
        stand-in the generated examples, with a warning.
        """
        kind, repositories = parse_source(self.place, request.source, request.config)
        if kind == "builtin":
            if request.path is not None:
                raise DatasetError(f"source=builtin contradicts path={request.path}. Give one of the two.")
            return self._from_stand_in(request)
        try:
            splits = find(self.place, request)
        except NotHereError as error:
            # Only a missing network calls for the stand-in; a wrong repository is for the user to correct, and one
            # that the user chose over the official one is not to be replaced.
            if not error.silence or self.stand_in is None or not is_official(self.place, repositories):
                raise
            logger.warning(
                "%s: no local copy, and %s. GENERATED sentences stand in for the real data; figures on them say "
                "nothing about %s. Give path=FOLDER or set %s to use the real ones.",
                self.name, error.silence, self.name, DATA_VARIABLE,
            )  # fmt: skip
            return self._from_stand_in(request)
        train, validation, where = both_parts(splits, self._examples, request.evaluation_ratio)
        return assemble(
            self, self.label_names, train, validation, request, origin="real", source=where, notes=splits.notes
        )

    def _from_stand_in(self, request: DatasetRequest) -> TaskData:
        if self.stand_in is None:
            raise DatasetError(f"There are no generated examples for {self.name}; source=builtin is for sst2 only.")
        data = self.stand_in.load(dataclasses.replace(request, source=None))
        return dataclasses.replace(data, name=f"{self.name} (synthetic stand-in)")

    def _examples(self, columns: Columns, where: str) -> TextExamples:
        return to_examples(
            columns, where,
            text_columns=self.text_columns, label_column=self.label_column, label_names=self.label_names,
        )  # fmt: skip
