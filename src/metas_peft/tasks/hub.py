"""Data sets from the model and data hub: the copy in its local cache first, then a download."""

import contextlib
import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metas_peft.core.errors import DatasetUnavailableError
from metas_peft.core.hub import hub_is_reachable
from metas_peft.tasks.tables import (
    TRAIN_STEMS,
    Columns,
    MissingShardsError,
    find_splits,
    only_split,
    read_shards,
    read_table,
)

logger = logging.getLogger(__name__)

# For the one question whether a repository answers, asked before a client that retries for minutes.
ANSWER_TIMEOUT_S = 1.5


@dataclass(frozen=True)
class HubSource:
    """A repository with examples.

    Attributes:
        repo: `OWNER/NAME`.
        config: Which of its configurations, where it has several.
        file: The one file of a repository that has no split to evaluate on; None where it has.
        alone: Whether a training split without one to evaluate on will do: in a repository that the user names.
    """

    repo: str
    config: str | None = None
    file: str | None = None
    alone: bool = False

    @property
    def label(self) -> str:
        """Repository and configuration, for tables."""
        return f"huggingface:{self.repo}" + (f" ({self.config})" if self.alone and self.config else "")


@dataclass(frozen=True)
class SplitColumns:
    """Columns of a training and an evaluation split, and where they come from.

    Attributes:
        train: Training rows; all rows where there is no evaluation split.
        evaluation: Evaluation rows; None where a part of `train` must do.
        where: Where both come from, for tables.
        train_where: Where the training rows come from, for messages.
        evaluation_where: The same for the evaluation rows.
        notes: Sentences for the log and the report.
    """

    train: Columns
    evaluation: Columns | None
    where: str
    train_where: str = ""
    evaluation_where: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_where", self.train_where or f"{self.where} (train)")
        object.__setattr__(self, "evaluation_where", self.evaluation_where or f"{self.where} (evaluation)")


def load_cached(source: HubSource, evaluation: Sequence[str]) -> SplitColumns | None:
    """Splits from the hub's cache on this machine, without any connection.

    Args:
        source: Repository.
        evaluation: Names of the evaluation split, best first.

    Returns:
        The columns, or None where the cache holds no copy of what is needed.
    """
    folders = _cached_folders(source)
    if source.file is not None:
        paths = [folder / source.file for folder in folders]
        return next((SplitColumns(read_table(path), None, source.label) for path in paths if path.is_file()), None)
    for folder in folders:
        # A download that was interrupted has left some shards: it is downloaded again.
        with contextlib.suppress(MissingShardsError):
            if (files := find_splits(folder, (), evaluation)) is not None:
                logger.info("Reading %s from the hub's cache.", source.repo)
                return SplitColumns(read_shards(files.train), read_shards(files.evaluation), source.label)
    return None


def _cached_folders(source: HubSource) -> list[Path]:
    """Folders of the hub's cache that may hold the splits."""
    from huggingface_hub import constants

    # The cache's layout is public; asking the client for it would also compare versions over the network.
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{source.repo.replace('/', '--')}"
    try:
        root = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return []
    # What lies beside the folders of the configurations belongs to another one.
    return [root, root / "data"] if source.config is None else [root / source.config, root / "data" / source.config]


def _cached_alone(source: HubSource) -> SplitColumns | None:
    """A training split that is the only table of its folder in the hub's cache."""
    for folder in _cached_folders(source) if source.alone else ():
        with contextlib.suppress(MissingShardsError):
            if found := only_split(folder, TRAIN_STEMS):
                return SplitColumns(read_shards(found), None, source.label)
    return None


def download(source: HubSource, evaluation: Sequence[str]) -> SplitColumns:
    """Splits through the `datasets` library.

    Args:
        source: Repository.
        evaluation: Names of the evaluation split, best first.

    Raises:
        DatasetUnavailableError: The hub or the repository does not answer, or lacks a split.
    """
    try:
        _ask(source)
    except HubSilentError:
        # Only the hub can say whether there is more than a training split; without it the cached copy must do.
        if (cached := _cached_alone(source)) is not None:
            return cached
        raise
    import datasets  # a second to import; only a download needs it

    try:
        loaded = datasets.load_dataset(source.repo, source.config)
    except Exception as error:  # whatever the client meets, from sockets to formats, means: not from here
        raise DatasetUnavailableError(_what_failed(source, error)) from error
    held_back = next((name for name in evaluation if name in loaded), None)
    may_lack = source.file is not None or (source.alone and len(loaded) == 1)
    if "train" not in loaded or (held_back is None and not may_lack):
        raise DatasetUnavailableError(
            f"{source.repo} has the splits {', '.join(map(str, loaded))}; "
            f"'train' and one of {', '.join(map(repr, evaluation))} are needed"
        )

    def columns(split: str) -> Columns:
        return {name: list(loaded[split][name]) for name in loaded[split].column_names}

    held = None if held_back is None else columns(held_back)
    return SplitColumns(columns("train"), held, source.label)


def _ask(source: HubSource) -> None:
    """Return if the repository answers at all, at the price of one short question."""
    if not hub_is_reachable():
        raise HubSilentError("the hub cannot be reached (no connection opens, or HF_HUB_OFFLINE is set)")
    from huggingface_hub import constants, get_token

    token = get_token()
    question = urllib.request.Request(
        f"{constants.ENDPOINT}/api/datasets/{source.repo}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    try:
        with urllib.request.urlopen(question, timeout=ANSWER_TIMEOUT_S) as answer:
            # Log-in pages and gateways answer too, but not in JSON.
            is_hub = answer.headers.get_content_type() == "application/json"
    except urllib.error.HTTPError as error:
        # The hub says 401, or names its reason; a bare 404 is some gateway's.
        if error.code == 401 or error.headers.get("X-Error-Code"):
            raise DatasetUnavailableError(f"the hub knows no public data set {source.repo}") from error
        raise HubSilentError(f"the hub does not answer (status {error.code})") from error
    except (OSError, http.client.HTTPException) as error:
        raise HubSilentError(f"the hub does not answer ({_first_line(error)})") from error
    if not is_hub:
        raise HubSilentError("something else answers in place of the hub")


class HubSilentError(DatasetUnavailableError):
    """No hub here: asking for another repository would be as vain."""


def _what_failed(source: HubSource, error: Exception) -> str:
    """Why the client could not download a repository; of several configurations the user is to name one."""
    names = re.search(r"[Cc]onfig.*(?:Available|available configs): *\[(.*?)\]", str(error), re.DOTALL)
    if names is None:
        return f"{source.repo} cannot be downloaded: {_first_line(error)}"
    told = "no configuration was named" if source.config is None else f"{source.config!r} is none of them"
    return f"{source.repo} has the configurations {names[1]}, but {told}; choose one with dataset.config=NAME"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
