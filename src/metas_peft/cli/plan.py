"""`metas plan`: a matrix of methods, backbones and tasks as run files."""

from pathlib import Path
from typing import Annotated

import typer

from metas_peft.cli.output import JsonOption, give, show_table


def plan(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="YAML with the lists methods, backbones and tasks (docs/search.md).")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the run files.")],
    force: Annotated[bool, typer.Option("--force", help="Replace files that say something else.")] = False,
    json_target: JsonOption = None,
) -> None:
    """Write one run file per method, backbone, task and repetition, with the settings of the source's study."""
    from metas_peft.conf.plan import read_plan, write_plan

    cells = read_plan(spec)
    paths = write_plan(cells, out, spec=spec.name, force=force)
    rows = [
        {"file": str(path), "method": c.method, "backbone": c.backbone, "task": c.task, "iteration": c.iteration}
        for path, c in zip(paths, cells, strict=True)
    ]
    if give(rows, json_target):
        cells_of = [[str(v) for v in row.values()] for row in rows]
        show_table("", ("Run file", "Method", "Backbone", "Task", "Iteration"), cells_of, numeric=(4,))
