"""`metas deploy`: the best member of a finished run inside budgets, on a device that the run has never seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metas_peft.cli.output import JsonOption, give, log_to_stderr, print_rich, say
from metas_peft.cli.profile import MeterOption, pairs
from metas_peft.cli.stopping import leaving_when_told
from metas_peft.core.errors import BudgetInfeasibleError, MetasPeftError, UsageError

if TYPE_CHECKING:
    from metas_peft.core.device import DeviceSpec
    from metas_peft.deploy.candidates import FinishedRun
    from metas_peft.deploy.sources import Source

LOCAL = "local"
LEFT = "What was there before is there again."
Format = Literal["hf", "onnx"]


def deploy(
    words: Annotated[
        list[str], typer.Argument(metavar="DIR [NAME=LIMIT]...", help="Folder of a finished run; further budgets.")
    ],
    device: Annotated[str, typer.Option("--device", help="`local`, a simulated device, a device file; or any name.")],
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="NAME=LIMIT", help="latency_ms=80, energy_j=0.05, peak_power_w=3."),
    ] = None,
    kind: Annotated[Format, typer.Option("--format", help="Of the exported model: hf (model files) or onnx.")] = "hf",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: DIR/deploy/DEVICE.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE.csv", help="Only write the five as a sheet for a person to measure."),
    ] = None,
    records: Annotated[
        list[Path] | None, typer.Option("--records", metavar="FILE", help="What the person measured; repeatable.")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Of a simulated device.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads (local).")] = None,
    power: Annotated[
        str | None,
        typer.Option(
            "--power",
            help="On `local`: meter, the name of one, modelled, or meter-or-modelled; the latter where no budget "
            "needs more than a clock, else meter.",
        ),
    ] = None,
    meter_options: MeterOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Random order of trials, a simulator's noise.")] = 0,
    json_target: JsonOption = None,
) -> None:
    """Five measurements, the best member inside the budgets, exported and verified on the device. No training.

    Leaves with 0 only if the budgets hold when measured.
    """
    from metas_peft.deploy.budgets import parse_budgets

    log_to_stderr()
    folder, further = _folder(words)
    budgets = parse_budgets([*(budget or ()), *further])
    if plan is not None and records:
        raise UsageError("--plan asks for measurements and --records brings them; leave out the one or the other.")
    from metas_peft.deploy.candidates import open_run

    run = open_run(folder)
    if plan is not None:
        _refuse(
            {"power": power, "meter-option": meter_options, "out": out},
            "would do nothing: --plan only writes what a person will measure. Leave it out.",
        )
        from metas_peft.deploy import write_plan
        from metas_peft.devices.sheet import TO_FILL_IN

        models = write_plan(run, device, plan, kind, runtime=runtime or "", threads=threads, seed=seed)
        if give({"sheet": str(plan), "models": str(models)}, json_target):
            typer.echo(plan)
        say(f"Run the models in {models}, fill in {', '.join(TO_FILL_IN)}, then the same command with --records {plan}")
        return
    from metas_peft.deploy import Request, walk
    from metas_peft.deploy.sources import BroughtRecords

    target = out if out is not None else folder / "deploy" / _file_name(device)
    walk.check_out(target)
    if records:
        _refuse(
            {"runtime": runtime, "threads": threads, "power": power, "meter-option": meter_options},
            "would measure here, but --records brings measurements. Leave it out.",
        )
        source: Source = BroughtRecords(device, records, run.workload, _known_spec(device))
        with leaving_when_told(LEFT):
            done = walk.deploy(Request(run, budgets, target, kind, seed), source)
    else:
        import tempfile

        with leaving_when_told(LEFT), tempfile.TemporaryDirectory(prefix="metas-deploy-") as scratch:
            source = _open(
                run, device, budgets, kind, Path(scratch), runtime=runtime, threads=threads, power=power,
                meter_options=meter_options, seed=seed,
            )  # fmt: skip
            done = walk.deploy(Request(run, budgets, target, kind, seed), source)
    if give(done.result, json_target):
        _show(done.result, done.folder)
    if done.failure:
        raise (BudgetInfeasibleError if done.result["chosen"] is None else MetasPeftError)(done.failure)


def _folder(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The run's folder among what was written without an option, and the rest (`b=2` of `--budget a=1 b=2`)."""
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    if len(folders) != 1:
        raise UsageError(f"One folder of a finished run was expected, seen {', '.join(folders) or 'none'}.")
    return Path(folders[0]), [word for word in words if word not in folders]


def _file_name(device: str) -> str:
    return Path(device).stem if device.lower().endswith((".yaml", ".yml")) else device.replace("/", "-")


def _known_spec(device: str) -> "DeviceSpec | None":
    from metas_peft.devices import catalogue

    known = catalogue()
    return known[device].spec() if device in known else None


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Refuse those options that were given, since they would do nothing here."""
    idle = [f"--{name}" for name, value in options.items() if value]
    if idle:
        raise UsageError(f"{' and '.join(idle)} {why}")


def _open(
    run: "FinishedRun", device: str, budgets: Mapping[str, float], kind: Format, scratch: Path, *, runtime: str | None,
    threads: int | None, power: str | None, meter_options: Sequence[str] | None, seed: int,
) -> "Source":  # fmt: skip
    """A device that can be asked here."""
    from metas_peft.deploy.sources import RUNTIMES, OpenDevice, Runs
    from metas_peft.devices import open_device
    from metas_peft.experiment.workbench import set_threads

    if device != LOCAL:
        _refuse(
            {"threads": threads, "power": power, "meter-option": meter_options},
            f"belong to the device `local`; {device} is simulated.",
        )
        opened = open_device(device, runtime=runtime)
        return OpenDevice(opened, run.shape, run.workload, Runs(kind, scratch, 1), seed=seed)
    if runtime is not None:
        raise UsageError("--runtime belongs to simulated devices; on `local` the --format decides what runs it.")
    needs_meter = bool({"energy_j", "peak_power_w"} & set(budgets))
    used = set_threads(threads)
    opened = open_device(
        LOCAL, runtime=RUNTIMES[kind], threads=used, power=power or ("meter" if needs_meter else "meter-or-modelled"),
        meter_options=pairs(meter_options, "--meter-option"),
    )  # fmt: skip
    return OpenDevice(opened, run.shape, run.workload, Runs(kind, scratch, used), seed=seed)


def _show(result: Mapping[str, Any], folder: Path) -> None:
    """Tables for people."""
    from metas_peft.report.deployment import budgets_table, points_table
    from metas_peft.report.tables import as_rich
    from metas_peft.report.words import quality_text

    print_rich(as_rich(points_table(result)))
    budgets = budgets_table(result)
    if budgets is not None:
        print_rich(as_rich(budgets))
    for note in result["notes"]:
        typer.echo(note)
    chosen = result["chosen"]
    if chosen is not None:
        quality = quality_text(chosen["quality"], result["quality_metric"])
        typer.echo(
            f"{chosen['name']}: {quality} {result['quality_metric']} ({chosen['quality_of']}), "
            f"{folder / chosen['export']['file']}"
        )
    counted = result["measurements"]
    typer.echo(f"Measurements: {counted['calibration']} before the choice, {counted['evaluation']} after it")
    typer.echo(f"Report: {folder / 'report.html'}")
