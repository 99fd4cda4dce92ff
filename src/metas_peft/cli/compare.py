"""`metas compare`: tables, tests and pictures over several runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from metas_peft.cli.output import JsonOption, give, print_rich


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs, or folders that hold them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write comparison.html, .md, .tex, .csv and .json there."),
    ] = None,
    form: Annotated[
        Literal["text", "markdown", "latex", "csv"], typer.Option("--format", help="What is printed.")
    ] = "text",
    draws: Annotated[int, typer.Option("--draws", min=0, help="Draws of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    json_target: JsonOption = None,
) -> None:
    """Compare runs: means and spread over seeds, hyper-volumes with intervals, paired tests, measurements used."""
    from metas_peft.report.compare import as_plain
    from metas_peft.report.compare import compare as compare_runs
    from metas_peft.report.compare_page import all_tables, write_comparison
    from metas_peft.report.compare_tables import comma_separated, latex, markdown
    from metas_peft.report.tables import as_rich

    cells = compare_runs(folders, draws=draws, seed=seed)
    written = write_comparison(cells, out) if out is not None else []
    if not give(as_plain(cells), json_target):
        return
    tables = all_tables(cells)
    if form == "text":
        for table in tables:
            print_rich(as_rich(table))
    else:
        typer.echo(
            {
                "markdown": lambda: markdown(tables),
                "latex": lambda: latex(tables),
                "csv": lambda: comma_separated(cells),
            }[form](),
            nl=False,
        )
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        typer.echo(note, err=True)
    if written:
        typer.echo(f"Comparison: {written[0]}", err=form != "text")
