"""`metas run`: one experiment, or one per combination of swept values."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from metas_peft.cli.output import JsonOption, give, log_nowhere, log_to_file, log_to_stderr, say
from metas_peft.core.errors import UsageError
from metas_peft.core.launched import is_first, refuse_many

if TYPE_CHECKING:
    from metas_peft.conf import RunConfig

EXIT_INTERRUPTED = 130


def run(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Path of a run file, or the name of a packaged one: demo, demo_fast.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file, in Hydra's grammar."),
    ] = None,
    json_target: JsonOption = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="One run per combination of values, as in training.seed=0,1,2.")
    ] = False,
    cfg: Annotated[
        Literal["job", "hydra", "all"] | None,
        typer.Option("--cfg", "-c", help="Print the composed configuration and leave."),
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: resolve references.")] = False,
    package: Annotated[
        str | None, typer.Option("--package", "-p", metavar="SECTION", help="With --cfg: only this section.")
    ] = None,
    info: Annotated[
        Literal["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"] | None,
        typer.Option("--info", "-i", help="Print how Hydra composes the configuration and leave."),
    ] = None,
    launcher: Annotated[
        Literal["ray"] | None, typer.Option("--launcher", help="With --multirun: where the jobs run (docs/scaling.md).")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="With --launcher ray on this computer: jobs at once; 2 by default."),
    ] = None,
    config_dir: Annotated[
        str | None, typer.Option("--config-dir", metavar="DIR", help="Folder with further Hydra groups (launchers).")
    ] = None,
) -> None:
    """Tune once for a device that was never seen, cut a front of smaller models, measure it and report.

    An interrupted run goes on with the same command.
    """
    from metas_peft.conf.compose import Flags, launch

    if multirun and (cfg or info):
        raise UsageError("--multirun runs jobs, --cfg and --info only show one; leave out the one or the other.")
    if multirun:
        refuse_many(
            "A sweep", "Start it without a launcher; its jobs run one after the other, or --launcher spreads them."
        )
    if launcher and not multirun:
        raise UsageError("--launcher is for the jobs of a sweep; add --multirun, as in -m training.seed=0,1,2.")
    if workers and not launcher:
        raise UsageError("--workers is for --launcher; without one, jobs run one after the other.")
    flags = Flags(multirun, cfg, resolve, package, info, config_dir)
    try:
        if launcher:
            folders = _on_cluster(run, overrides or [], workers)
        else:
            folders = launch(run, overrides or [], flags, _job)
    except KeyboardInterrupt:
        say("Interrupted. The same command goes on where it stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if flags.only_shows or not is_first():
        return
    from metas_peft.cli.results import show_results
    from metas_peft.core.files import read_json

    if not folders:
        typer.echo("The launcher runs the jobs elsewhere; their folders are below the multirun's.", err=True)
        return
    results = [read_json(folder / "results.json") for folder, _ in folders]
    if not give(results if multirun else results[0], json_target):
        return
    for (folder, config), result in zip(folders, results, strict=True):
        show_results(folder, result, config.evaluation)


def _on_cluster(run: str, overrides: list[str], workers: int | None) -> "list[tuple[Path, RunConfig]]":
    """Every job of a sweep on a Ray cluster."""
    from metas_peft.cli.cluster import WORKERS, absolute, on_ray
    from metas_peft.conf.compose import jobs

    file, _ = absolute(run, "")
    return on_ray(_remote_job, [(file, job) for job in jobs(run, overrides)], workers=workers or WORKERS)


def _remote_job(run: str, overrides: list[str]) -> "tuple[Path, RunConfig]":
    from metas_peft.conf.compose import Flags, launch

    (done,) = launch(run, overrides, Flags(), _job)
    return done


def _job(config: "RunConfig", folder: Path) -> "tuple[Path, RunConfig]":
    """Run one experiment with its messages in `log.txt`; of a launcher's processes the first one speaks and writes."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    if is_first():
        log_to_stderr()
        kept, shown = log_to_file(folder / "log.txt"), logging_redirect_tqdm()
    else:
        log_nowhere()
        kept, shown = nullcontext(), nullcontext()
    # Libraries that print do so in passing; standard output belongs to the result.
    with kept, shown, redirect_stdout(sys.stderr):
        from metas_peft import experiment
        from metas_peft.report import write_report

        done = experiment.run(config, folder)
        if is_first():
            write_report(done)
    return done, config
