"""Stages of a run: each leaves files and a mark; a run started again takes up at the first stage without a mark.

Of several processes the first one computes, and writes; the others wait for the facts, or compute too where the stage
trains.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metas_peft.core.errors import CheckpointError, OutputError, UsageError
from metas_peft.core.files import read_json, write_json
from metas_peft.core.launched import is_first
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)

FOLDER = "stages"
SETTINGS = "settings.json"
# What changes where a run writes, how it talks or what is searched around it, not what it computes.
IRRELEVANT = ("output_dir", "run_id", "report_to", "optuna")


class Stages:
    """Marks and results of the stages of one run.

    Args:
        run_dir: The run's folder.
        settings: The resolved configuration as plain data.

    Raises:
        UsageError: The folder holds finished stages of a run with other settings.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        self._folder = run_dir / FOLDER
        self._settings = {k: v for k, v in json.loads(json.dumps(settings)).items() if k not in IRRELEVANT}
        self.seconds: dict[str, float] = {}
        known = self._folder / SETTINGS
        if any(mark != known for mark in self._folder.glob("*.json")) and known.exists():
            # Folders of older versions hold settings that count no more.
            before = {k: v for k, v in _read(known).items() if k not in IRRELEVANT}
            # Earlier versions did not look into device files.
            now = {k: v for k, v in self._settings.items() if k != "device_files" or k in before}
            changed = _differences(before, now)
            if changed:
                raise UsageError(
                    f"{run_dir} holds a run with other settings ({'; '.join(changed[:4])}). "
                    "Choose another run_id, or delete that folder to start over."
                )

    def begin(self) -> None:
        """Note the settings; from the first finished stage on the folder belongs to them.

        Raises:
            OutputError: The folder cannot be written.
        """
        if is_first():
            write_json(self._folder / SETTINGS, self._settings)

    def run(
        self, name: str, compute: Callable[[Path], dict[str, Any]], *, trains: bool = False
    ) -> tuple[Path, dict[str, Any]]:
        """Compute a stage, or find it done.

        Args:
            name: Name of the stage.
            compute: Writes files into the folder it is given and returns JSON facts.
            trains: Whether every process of the run computes; what the others write and return is dropped.

        Returns:
            The stage's folder and facts.
        """
        folder = self._folder / name
        mark = self._folder / f"{name}.json"
        is_done = agreed(mark.exists())
        stored: dict[str, Any] = {}
        if is_first():
            stored = _read(mark) if is_done else self._compute(name, folder, mark, compute)
        elif trains and not is_done:
            with tempfile.TemporaryDirectory(prefix="metas-peft-") as scratch:
                compute(Path(scratch))
        if is_done:
            logger.info("Stage %s is done already.", name)
        stored = agreed(stored)
        self.seconds[name] = stored["seconds"]
        return folder, stored["facts"]

    @staticmethod
    def _compute(name: str, folder: Path, mark: Path, compute: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Do what was not done; gives what the mark holds from then on."""
        shutil.rmtree(folder, ignore_errors=True)  # half a stage from an interrupted run
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"Cannot create {folder}: {error.strerror}.") from error
        logger.info("Stage %s begins.", name)
        started = time.monotonic()
        facts = compute(folder)
        stored = {"seconds": time.monotonic() - started, "facts": facts}
        write_json(mark, stored)
        return stored


def digest(data: Any) -> str:
    """Ten hexadecimal digits over JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Delete the run's folder and start over.") from error


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [d for k in keys for d in _differences(before.get(k), after.get(k), f"{path}.{k}".lstrip("."))]
    return [] if before == after else [f"{path} was {before}, is {after}"]
