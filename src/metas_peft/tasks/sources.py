"""Where a data set is found, in one order for all tasks: a path, the folder METAS_DATA, the hub's cache, the hub.

The folder stands in for the set's official repository alone: another one that the user names may hold other rows.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metas_peft.core.errors import DatasetError, DatasetUnavailableError
from metas_peft.tasks.base import DatasetRequest
from metas_peft.tasks.hub import HubSilentError, HubSource, SplitColumns, download, load_cached
from metas_peft.tasks.tables import TRAIN_STEMS, find_split, find_splits, read_shards, read_table

logger = logging.getLogger(__name__)

DATA_VARIABLE = "METAS_DATA"
FolderReader = Callable[[Path], SplitColumns | None]


@dataclass(frozen=True)
class Place:
    """Where the tables of a data set may be.

    Attributes:
        name: Name of the set, which is also its folder under METAS_DATA.
        hub: Repositories of the hub, the official one first.
        evaluation: Names of the split to evaluate on, best first.
        subfolders: Further folders, relative to the one given, that may hold the splits.
        read_folder: Reads a folder laid out in the set's own way; None where that is not such a folder.
        remedy: What to do where the set cannot be had, a sentence; the usual advice if empty.
    """

    name: str
    hub: tuple[HubSource, ...] = ()
    evaluation: tuple[str, ...] = ("validation", "dev")
    subfolders: tuple[str, ...] = ()
    read_folder: FolderReader | None = None
    remedy: str = ""


class NotHereError(DatasetUnavailableError):
    """A data set that no source has.

    Attributes:
        silence: Why the hub could not be asked; empty where it answered, or was not to be asked.
    """

    def __init__(self, message: str, silence: str = "") -> None:
        super().__init__(message)
        self.silence = silence


def find(place: Place, request: DatasetRequest) -> SplitColumns:
    """The tables of a data set from the first source that has them.

    Args:
        place: Where they may be.
        request: Path and source that the user names.

    Returns:
        Columns of both splits; `evaluation` is None where there is but one table.

    Raises:
        DatasetError: A path that holds something else, or an unknown source.
        NotHereError: No source has them.
    """
    kind, repositories = parse_source(place, request.source, request.config)
    if request.path is not None:
        return _from_path(place, request.path)
    if (kind == "local" or is_official(place, repositories)) and (local := _from_environment(place)) is not None:
        return local if kind != "huggingface" else _standing_in(local, repositories[0], place)
    if kind == "local":
        raise NotHereError(
            f"source=local, but there is no path and no folder {place.name} under {DATA_VARIABLE}. "
            f"{place.remedy or 'Give path=FOLDER.'}"
        )
    return _from_hub(place, repositories)


def parse_source(
    place: Place, source: str | None, config: str | None = None
) -> tuple[str | None, tuple[HubSource, ...]]:
    """Kind of source, and the repositories it leaves to ask, with the configuration that the user names if any."""
    usual = place.hub if config is None else tuple(_with_config(entry, config) for entry in place.hub)
    if source is None:
        return None, usual
    kind, _, repo = source.partition(":")
    if kind in ("local", "builtin") and not repo:
        return kind, ()
    if kind in ("huggingface", "hub"):
        known = tuple(entry for entry in usual if entry.repo.lower() == repo.lower())
        return "huggingface", (known or (HubSource(repo, config, alone=True),)) if repo else usual
    raise DatasetError(
        f"Unknown source {source!r} of the data set {place.name}; expected local, builtin, huggingface or "
        "huggingface:OWNER/NAME."
    )


def is_official(place: Place, repositories: Sequence[HubSource]) -> bool:
    """Whether a set's own repository is asked first, and not another one that the user names."""
    return tuple(repositories[:1]) == place.hub[:1]


def _standing_in(local: SplitColumns, repository: HubSource, place: Place) -> SplitColumns:
    """A local copy with a sentence that says that it was read in place of a repository that the user names."""
    note = (
        f"dataset.source asks for {repository.label}; the copy of {place.name} under {DATA_VARIABLE} was read in its "
        f"place ({local.where}). Unset {DATA_VARIABLE} to ask the hub."
    )
    logger.warning(note)
    return dataclasses.replace(local, notes=(*local.notes, note))


def _with_config(entry: HubSource, config: str) -> HubSource:
    """A repository with the user's configuration; with another one than usual, as one that the user names."""
    return entry if entry.config == config else HubSource(entry.repo, config, alone=True)


def _from_path(place: Place, path: Path) -> SplitColumns:
    if path.is_file():
        return single_table(path)
    if not path.is_dir():
        raise DatasetError(f"There is no file or folder {path}. Check the path of the data set {place.name}.")
    found = None if place.read_folder is None else place.read_folder(path)
    if found is None:
        below = (*place.subfolders, place.name, *(f"{place.name}/{sub}" for sub in place.subfolders))
        files = find_splits(path, below, place.evaluation)
        found = _whole(place, path) if files is None else SplitColumns(
            read_shards(files.train), read_shards(files.evaluation), f"local:{files.train[0].parent}",
            str(files.train[0]), str(files.evaluation[0]),
        )  # fmt: skip
    if found is None:
        seen = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
        raise DatasetError(
            f"{path} has no splits of {place.name}: train.parquet and {place.evaluation[0]}.parquet "
            f"(or .tsv, .csv, .jsonl) were expected there or in {place.name}/, but it holds {seen}.{_and(place.remedy)}"
        )
    return found


def _whole(place: Place, folder: Path) -> SplitColumns | None:
    """The one file of a set that has no split to evaluate on, under its own name or as `train`."""
    names = [folder / source.file for source in place.hub if source.file]
    found = [path for path in names if path.is_file()] or list(find_split(folder, TRAIN_STEMS) if names else ())
    return single_table(found[0]) if found else None


def single_table(path: Path) -> SplitColumns:
    """A file that holds all rows."""
    return SplitColumns(read_table(path), None, f"local:{path}", str(path), str(path))


def _from_environment(place: Place) -> SplitColumns | None:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return None
    if not Path(root).is_dir():
        raise DatasetError(f"{DATA_VARIABLE} names {root}, which is no folder. Correct or unset the variable.")
    folder = Path(root) / place.name
    return _from_path(place, folder) if folder.is_dir() else None


def _from_hub(place: Place, repositories: Sequence[HubSource]) -> SplitColumns:
    for repository in repositories:
        if (cached := load_cached(repository, place.evaluation)) is not None:
            return cached
    reasons: list[str] = []
    silence = ""
    for repository in repositories:
        try:
            return download(repository, place.evaluation)
        except DatasetUnavailableError as error:
            reasons.append(str(error))
            if isinstance(error, HubSilentError):
                silence = reasons[-1]
                break
    usual = (
        f"Give path=FOLDER, or set {DATA_VARIABLE} to a folder with {place.name}/train.parquet and "
        f"{place.name}/{place.evaluation[0]}.parquet, or connect to the hub."
    )
    raise NotHereError(
        f"The data set {place.name} is not on this computer: {'; '.join(reasons) or 'no repository is known'}. "
        f"{place.remedy or usual}",
        silence,
    )


def _and(sentence: str) -> str:
    return f" {sentence}" if sentence else ""
