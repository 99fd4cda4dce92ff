"""Run files: found by path or by name, read, and checked against the schema."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from metas_peft.conf import values, yaml12
from metas_peft.conf.keys import locate
from metas_peft.core.errors import UnknownNameError, nearest


@dataclass(frozen=True)
class RunFile:
    """A run file in the schema's own names.

    Attributes:
        name: Path or packaged name, as the user gave it.
        data: Nested checked values; only what the file sets.
        lines: Dotted path of each key that the schema knows -> its line.
    """

    name: str
    data: Mapping[str, Any]
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def given(self) -> frozenset[str]:
        """Dotted paths of the keys that the file sets."""
        return values.leaves(self.data)

    @property
    def stem(self) -> str:
        """Name of the run when the file gives none."""
        return Path(self.name).name.removesuffix(".yaml").removesuffix(".yml") or "run"


def packaged() -> list[str]:
    """Names of the run files that come with the package."""
    folder = resources.files("metas_peft.conf") / "run"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_run(run: str) -> RunFile:
    """Read a run file.

    Args:
        run: Path of a file, or the name of a packaged one.

    Raises:
        UnknownNameError: No such file or name.
        UnknownKeyError: A key that the schema does not have.
        RunFileError: Not YAML, or a value that does not fit; with line and column.
    """
    path = Path(run).expanduser()
    if run in packaged() and not path.is_file():
        with resources.as_file(resources.files("metas_peft.conf") / "run" / f"{run}.yaml") as inside:
            document = yaml12.read(inside, f"run {run}")
    elif path.is_file():
        document = yaml12.read(path, run)
    elif path.is_dir():
        raise UnknownNameError(f"{run} is a folder; name a run file, such as {path / 'config.yaml'}.")
    elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        here = [str(p) for p in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        folder = "this folder" if path.parent == Path() else str(path.parent)
        raise UnknownNameError(
            f"No run file at {run}; " + (nearest(run, here) if here else f"{folder} holds no run files.")
        )
    else:
        raise UnknownNameError(f"No run file or packaged run is called {run!r}; {nearest(run, packaged())}")
    data = values.normalise(document.data, document.where)
    return RunFile(run, data, {locate(path).path: line for path, line in document.lines.items()})
