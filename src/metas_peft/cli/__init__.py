"""The command line: `metas`, `metas-peft`, `python -m metas_peft`.

Commands parse, call the library and show what it returned. Results go to standard output, everything else to
standard error. Exit status: 0 done, 1 a failure that a sentence explains, 2 wrong usage. Nothing heavy is
imported before a command runs: `metas --help` is for impatient people.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from metas_peft import __version__
from metas_peft.cli import (
    bench,
    compare,
    deploy,
    devices,
    export,
    plan,
    predict,
    profile,
    report,
    run,
    surrogate,
    sweep,
)
from metas_peft.cli.output import say
from metas_peft.core.errors import MetasPeftError, UsageError
from metas_peft.core.launched import number, processes

EXIT_FAILURE = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="metas",
    help="One fine-tuning, five measurements, and a front of smaller models for a device never seen before.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(name="run")(run.run)
app.command(name="plan")(plan.plan)
app.command(name="sweep")(sweep.sweep)
app.command(name="compare")(compare.compare)
app.command(name="report")(report.report)
app.command(name="export")(export.export)
app.command(name="bench")(bench.bench)
app.command(name="deploy")(deploy.deploy)
app.command(name="predict")(predict.predict)
app.add_typer(devices.app, name="devices")
app.add_typer(profile.app, name="profile")
app.add_typer(surrogate.app, name="surrogate")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (anywhere on the line).")] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status.

    Args:
        arguments: Without the program's name; those of the process if absent.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    try:
        app(args=given, prog_name="metas")
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        sys.stdout = None
        sys.exit(EXIT_FAILURE)
    except MetasPeftError as error:
        if debug:
            raise
        who = f"process {number() + 1} of {processes()}: " if processes() > 1 else ""
        say(f"{who}{error}")
        sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE)
    except Exception as error:
        if debug:
            raise
        say(f"{type(error).__name__}: {error}. This should not happen; the same command with --debug shows where.")
        sys.exit(EXIT_FAILURE)
