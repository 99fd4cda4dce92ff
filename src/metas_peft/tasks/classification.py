"""Single texts with one label each: where such a data set is found, in one order for all of them."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metas_peft.core.errors import DatasetError, DatasetUnavailableError
from metas_peft.tasks.base import DatasetRequest, Task, TaskData, TextExamples
from metas_peft.tasks.columns import to_examples
from metas_peft.tasks.hub import HubSilentError, HubSource, SplitColumns, download, load_cached
from metas_peft.tasks.metrics import confusion
from metas_peft.tasks.splits import assemble, cut_evaluation
from metas_peft.tasks.tables import Columns, find_splits, read_shards, read_table

logger = logging.getLogger(__name__)

DATA_VARIABLE = "METAS_DATA"


@dataclass(frozen=True)
class TextClassification(Task):
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

    def load(self, request: DatasetRequest) -> TaskData:
        """Read the examples from the first source that has them.

        The order: `request.path`; the folder in METAS_DATA; the hub's cache and the hub; for a task with a
        stand-in the generated examples, with a warning.
        """
        kind, repositories = self._parse(request.source)
        if request.path is not None:
            if kind == "builtin":
                raise DatasetError(f"source=builtin contradicts path={request.path}. Give one of the two.")
            return self._from_path(request.path, request)
        if kind == "builtin":
            return self._from_stand_in(request)
        if (local := self._from_environment(request)) is not None:
            return local
        if kind == "local":
            raise DatasetUnavailableError(
                f"source=local, but there is no path and no folder {self.name} under {DATA_VARIABLE}. Give path=FOLDER."
            )
        return self._from_hub(repositories, request)

    def _parse(self, source: str | None) -> tuple[str | None, tuple[HubSource, ...]]:
        """Kind of source, and the repositories it leaves to ask."""
        if source is None:
            return None, self.hub
        kind, _, repo = source.partition(":")
        if kind in ("local", "builtin") and not repo:
            return kind, ()
        if kind in ("huggingface", "hub"):
            known = tuple(entry for entry in self.hub if entry.repo.lower() == repo.lower())
            return "huggingface", (known or (HubSource(repo),)) if repo else self.hub
        raise DatasetError(
            f"Unknown source {source!r} of the data set {self.name}; expected local, builtin, huggingface or "
            "huggingface:OWNER/NAME."
        )

    def _from_path(self, path: Path, request: DatasetRequest) -> TaskData:
        if path.is_file():
            rows = self._examples(read_table(path), str(path))
            train, validation = cut_evaluation(rows, str(path), request.evaluation_ratio)
            logger.info("%s is one file: %d of its rows are held back for evaluation.", path, len(validation))
            return self._assemble(train, validation, f"local:{path} ({len(validation)} rows held back)", request)
        if not path.is_dir():
            raise DatasetError(f"There is no file or folder {path}. Check the path of the data set {self.name}.")
        data = self._from_folder(path, request)
        if data is None:
            seen = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
            raise DatasetError(
                f"{path} has no splits of {self.name}: train.parquet and {self.evaluation[0]}.parquet "
                f"(or .tsv, .csv, .jsonl) were expected there or in {self.name}/, but it holds {seen}."
            )
        return data

    def _from_environment(self, request: DatasetRequest) -> TaskData | None:
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            return None
        if not Path(root).is_dir():
            raise DatasetError(f"{DATA_VARIABLE} names {root}, which is no folder. Correct or unset the variable.")
        folder = Path(root) / self.name
        return self._from_path(folder, request) if folder.is_dir() else None

    def _from_folder(self, folder: Path, request: DatasetRequest) -> TaskData | None:
        subfolders = (*self.subfolders, self.name, *(f"{self.name}/{sub}" for sub in self.subfolders))
        files = find_splits(folder, subfolders, self.evaluation)
        if files is None:
            return None
        train = self._examples(read_shards(files.train), str(files.train[0]))
        validation = self._examples(read_shards(files.evaluation), str(files.evaluation[0]))
        return self._assemble(train, validation, f"local:{files.train[0].parent}", request)

    def _from_hub(self, repositories: Sequence[HubSource], request: DatasetRequest) -> TaskData:
        for repository in repositories:
            if (cached := load_cached(repository, self.evaluation)) is not None:
                return self._from_columns(cached, request)
        reasons: list[str] = []
        is_silent = False
        for repository in repositories:
            try:
                return self._from_columns(download(repository, self.evaluation), request)
            except DatasetUnavailableError as error:
                reasons.append(str(error))
                is_silent = isinstance(error, HubSilentError)
                if is_silent:
                    break
        # Only a missing network calls for the stand-in; a wrong repository is for the user to correct.
        if is_silent and self.stand_in is not None:
            logger.warning(
                "%s: no local copy, and %s. GENERATED sentences stand in for the real data; figures on them say "
                "nothing about %s. Give path=FOLDER or set %s to use the real ones.",
                self.name, reasons[-1], self.name, DATA_VARIABLE,
            )  # fmt: skip
            return self._from_stand_in(request)
        raise DatasetUnavailableError(
            f"The data set {self.name} is not on this computer: {'; '.join(reasons) or 'no repository is known'}. "
            f"Give path=FOLDER, or set {DATA_VARIABLE} to a folder with {self.name}/train.parquet and "
            f"{self.name}/{self.evaluation[0]}.parquet, or connect to the hub."
        )

    def _from_columns(self, splits: SplitColumns, request: DatasetRequest) -> TaskData:
        train = self._examples(splits.train, f"{splits.where} (train)")
        validation = self._examples(splits.evaluation, f"{splits.where} (evaluation)")
        return self._assemble(train, validation, splits.where, request)

    def _from_stand_in(self, request: DatasetRequest) -> TaskData:
        if self.stand_in is None:
            raise DatasetError(f"There are no generated examples for {self.name}; source=builtin is for sst2 only.")
        data = self.stand_in.load(dataclasses.replace(request, source=None))
        return dataclasses.replace(data, name=f"{self.name} (synthetic stand-in)")

    def _assemble(
        self, train: TextExamples, validation: TextExamples, source: str, request: DatasetRequest
    ) -> TaskData:
        return assemble(self, self.label_names, train, validation, request, origin="real", source=source)

    def _examples(self, columns: Columns, where: str) -> TextExamples:
        return to_examples(
            columns, where,
            text_columns=self.text_columns, label_column=self.label_column, label_names=self.label_names,
        )  # fmt: skip
