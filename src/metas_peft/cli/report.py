"""`metas report`: draw a run's report again."""

from pathlib import Path
from typing import Annotated

import typer

from metas_peft.core.errors import MetasPeftError


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
) -> None:
    """(Re)draw the HTML report of a run and print its path."""
    if not (folder / "results.json").is_file():
        raise MetasPeftError(f"{folder} holds no results.json; name the folder of a finished run, as outputs/demo.")
    from metas_peft.report import write_report

    typer.echo(write_report(folder))
