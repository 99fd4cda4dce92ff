"""Folders that a run file names and that may not be writable here."""

import os
import tempfile
from pathlib import Path


def writable_or(run_dir: Path, wanted: str | Path) -> tuple[Path, str | None]:
    """A place that can be written: the wanted one, or one of the same name in the run's folder.

    Args:
        run_dir: The run's own folder.
        wanted: A folder, or a file (a name with a suffix), that the run file names.

    Returns:
        The path to use, and a sentence for the log and the report if it is not the wanted one. The folder
        (of a file: the one that holds it) exists afterwards.
    """
    path = Path(wanted).expanduser()
    is_file = bool(path.suffix)
    reason = _obstacle(path.parent if is_file else path)
    if reason is None and is_file and path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        reason = "is not a file that may be written"
    if reason is None:
        return path, None
    fallback = run_dir / path.name
    (run_dir if is_file else fallback).mkdir(parents=True, exist_ok=True)
    return fallback, f"{wanted} cannot be written ({reason}); {fallback} is used instead."


def _obstacle(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only an attempt tells: permission bits say nothing about read-only mounts, quotas or the super-user.
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return (error.strerror or str(error)).lower()
