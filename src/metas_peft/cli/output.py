"""Where output goes: results to standard output or a JSON file, tables for people, logs to standard error."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from metas_peft.core.errors import OutputError
from metas_peft.core.files import write_json

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the result as JSON; `-` prints it instead of a table."),
]

WIDE = 250


def say(sentence: str) -> None:
    """One sentence to standard error."""
    print(f"metas: {sentence}", file=sys.stderr)


def give(result: Any, json_target: str | None) -> bool:
    """Write a result as JSON where that was asked for.

    Returns:
        Whether people are still waiting for a table on standard output.
    """
    if json_target == "-":
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
        return False
    if json_target is not None:
        write_json(Path(json_target), result)
    return True


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> None:
    """Print a table to standard output.

    Args:
        title: Line above it; may be empty.
        columns: Headings.
        rows: Cells, one sequence per row.
        numeric: Indices of the columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_rich(table)


def print_rich(renderable: Any) -> None:
    """Print something that rich draws to standard output."""
    from rich.console import Console

    # A file or a pipe has no width; a table that is cut or folded there would lose figures.
    console = Console(highlight=False, markup=False)
    Console(highlight=False, markup=False, width=console.width if console.is_terminal else WIDE).print(renderable)


def log_to_stderr() -> None:
    """Show this project's messages from INFO and everybody else's from WARNING on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("metas_peft").setLevel(logging.INFO)
    # What libraries say to their own developers: deprecations among themselves, kernels for other hardware.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|torch")
    logging.getLogger("torchao").setLevel(logging.ERROR)


def log_nowhere() -> None:
    """Keep a process quiet beside another one that says the same."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    warnings.filterwarnings("ignore")


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Also append all messages to a file, with dates, while the block runs.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}. Choose another folder.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
