"""`metas sweep`: the `optuna` block of a run file, by as many workers as run this command."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metas_peft.cli.output import JsonOption, give, log_to_file, log_to_stderr, say, show_table
from metas_peft.cli.stopping import leaving_when_told
from metas_peft.core.errors import UsageError
from metas_peft.core.launched import refuse_many

if TYPE_CHECKING:
    from metas_peft.conf import RunConfig

EXIT_INTERRUPTED = 130
SHOWN_TRIALS = 10


def sweep(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Path of a run file, or the name of a packaged one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file, optuna.* included."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials of the whole study.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="postgresql://... or mysql://...; else a journal file."),
    ] = None,
    launcher: Annotated[
        Literal["ray"] | None, typer.Option("--launcher", help="Where workers run (docs/scaling.md); else here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --launcher: how many; 2 by default.")
    ] = None,
    json_target: JsonOption = None,
) -> None:
    """Search over the keys that the run file names. Start it again, here or elsewhere, for further workers.

    A study goes on where it stopped; trials of a worker that died or was told to stop are run again.
    """
    from metas_peft.cli.cluster import WORKERS, absolute, on_ray
    from metas_peft.conf import values
    from metas_peft.conf.compose import load
    from metas_peft.conf.overrides import as_text
    from metas_peft.core.files import write_json

    refuse_many("A search", "Start the command once for each worker, without a launcher (docs/scaling.md).")
    if workers and not launcher:
        raise UsageError("--workers is for --launcher; without one, start the command again for each further worker.")
    given = {"optuna.n_trials": trials, "optuna.storage": storage}
    options = {path: value for path, value in given.items() if value is not None}
    config = values.replace(load(run, overrides or []), options)
    log_to_stderr()
    from metas_peft.search import Worker, open_search, summarise, write_best
    from metas_peft.search.summary import SUMMARY

    file, folder = absolute(run, config.output_dir)
    if launcher:
        config = values.replace(config, {"output_dir": folder})
    search = open_search(config)
    try:
        if launcher:
            told = [*(overrides or []), f"output_dir={as_text(folder)}"]
            count = workers or WORKERS
            on_ray(_remote_worker, [(file, told, options)] * count, workers=count)
        else:
            # The trial goes back to the queue at once, and the attempt is not held against it.
            with leaving_when_told("The same command goes on where it stopped."):
                Worker(search, _evaluate).run()
    except KeyboardInterrupt:
        say("Interrupted. The same command goes on where it stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    summary = summarise(search)
    write_json(search.folder / SUMMARY, summary)
    best = write_best(search)
    if not give(summary, json_target):
        return
    show(summary)
    if best is not None:
        typer.echo(f"The best trial on the evaluation examples: metas run {best}")


def _remote_worker(run: str, overrides: list[str], options: Mapping[str, Any]) -> int:
    """A worker on a node; gives how many trials it finished."""
    from metas_peft.conf import values
    from metas_peft.conf.compose import load
    from metas_peft.search import Worker, open_search

    log_to_stderr()
    return Worker(open_search(values.replace(load(run, overrides), options)), _evaluate).run()


def _evaluate(config: "RunConfig", folder: Path) -> Mapping[str, float | None]:
    """Run one experiment and give its figures."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    with log_to_file(folder / "log.txt"), logging_redirect_tqdm(), redirect_stdout(sys.stderr):
        from metas_peft import experiment
        from metas_peft.core.files import read_json
        from metas_peft.report import write_report
        from metas_peft.report.scalars import scalars

        done = experiment.run(config, folder)
        write_report(done)
        return scalars(read_json(done / "results.json"), config.optuna.reference_quality)


def show(summary: Mapping[str, Any]) -> None:
    """Print the best trials and what mattered."""
    names = list(summary["objectives"])
    sign = -1 if summary["objectives"][names[0]] == "minimize" else 1
    done = [t for t in summary["trials"] if t["state"] == "complete"]
    done.sort(key=lambda t: -sign * t["values"][names[0]])
    best = {t["number"] for t in summary["best"]}
    searched = list(done[0]["params"]) if done else []
    counts = ", ".join(f"{n} {state}" for state, n in summary["states"].items() if n)
    title = f"{summary['study']}: {counts}; judged on the held-out part of the training set"
    rows = [
        [
            f"{t['number']}{' *' if t['number'] in best else ''}",
            *(f"{t['values'][n]:.4g}" for n in names),
            *(_short(t["params"][p]) for p in searched),
        ]
        for t in done[:SHOWN_TRIALS]
    ]
    columns = ["Trial", *names, *(p.rpartition(".")[2] for p in searched)]
    show_table(title, columns, rows, numeric=range(len(columns)))
    for name, shares in summary["importance"].items():
        if shares:
            listed = ", ".join(f"{path.rpartition('.')[2]} {share:.0%}" for path, share in shares.items())
            typer.echo(f"What {name} depends on ({summary['importance_method']}): {listed}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
