"""`metas profile`: measure gate configurations into a record store, plan them for a person, import what others did."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import typer

from metas_peft.cli.output import JsonOption, give, log_to_stderr, say, show_table
from metas_peft.core.cost import METRIC_NAMES, METRIC_UNITS, METRICS
from metas_peft.core.errors import UsageError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.registry import Registry
from metas_peft.core.shape import BackboneShape
from metas_peft.core.workload import Workload

EXIT_INTERRUPTED = 130
LOCAL = "local"

app = typer.Typer(help="Measure gate configurations, plan them, import records.", rich_markup_mode=None)

StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the record store.")]
BackboneOption = Annotated[str, typer.Option("--backbone", help="Catalogue name, hub id or folder.")]
CountOption = Annotated[int, typer.Option("--count", min=1, help="Configurations, the dense one included.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1)]
LengthOption = Annotated[int, typer.Option("--seq-len", min=1, help="Tokens per sequence; 1 in decode.")]
PhaseOption = Annotated[Literal["prefill", "decode"], typer.Option("--phase")]
ContextOption = Annotated[int, typer.Option("--context-len", min=0, help="Tokens in the cache (decode).")]
BitsOption = Annotated[int, typer.Option("--bits", help="Storage width of weights: 32, 16, 8 or 4.")]
AdapterOption = Annotated[Literal["merged", "separate"], typer.Option("--adapter")]
RuntimeOption = Annotated[
    str | None, typer.Option("--runtime", help="One of the device's; `metas devices` lists them.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads (local).")]
MeterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--meter-option",
        metavar="METER.OPTION=VALUE",
        help="What a meter cannot know by itself: ina219.bus=1, ina219.address=0x40, ina219.shunt_ohm=0.1.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Decides the configurations, their order, simulated noise.")]


@app.command()
def run(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="`local`, a simulated device, or a device file.")],
    store: StoreOption,
    backbone: BackboneOption = "minilm",
    count: CountOption = 60,
    seq_len: LengthOption = 128,
    batch_size: BatchOption = 1,
    phase: PhaseOption = "prefill",
    context_len: ContextOption = 0,
    bits: BitsOption = 32,
    adapter: AdapterOption = "merged",
    runtime: RuntimeOption = None,
    threads: ThreadsOption = None,
    power: Annotated[
        str | None,
        typer.Option(help="On `local`: `meter` (the default), the name of one, `modelled`, or `meter-or-modelled`."),
    ] = None,
    meter_options: MeterOption = None,
    weights: Annotated[
        Literal["random", "pretrained"] | None,
        typer.Option(help="Of models on `local`, random if absent; costs are the same."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Time limit per configuration on `local`; 3 if absent.")
    ] = None,
    seed: SeedOption = 0,
    label: Annotated[str, typer.Option(help="Tells apart rounds of the same configurations.")] = "",
    json_target: JsonOption = None,
) -> None:
    """Measure gate configurations of a backbone on a device.

    An interrupted command goes on where it stopped; one that is finished does nothing.
    """
    from metas_peft.core.store import RecordStore
    from metas_peft.devices import Specimen, TimingRules, open_device
    from metas_peft.devices.configurations import draw_configurations, with_sites
    from metas_peft.devices.profiling import GROUP, SIMULATED_GROUP, profile

    log_to_stderr()
    workload = _workload(phase, batch_size, seq_len, context_len, bits, adapter)
    if device == LOCAL:
        from metas_peft.cli.local_models import LocalModels, processor_threads

        opened = open_device(
            LOCAL, runtime=runtime, threads=threads or processor_threads(), power=power,
            meter_options=pairs(meter_options, "--meter-option"),
            rules=TimingRules() if seconds is None else TimingRules(seconds_per_subject=seconds),
        )  # fmt: skip
        models = LocalModels(
            backbone, runtime=opened.spec.runtime, weights=weights or "random", threads=opened.spec.threads, seed=seed
        )
        models.check(workload)
        shape, specimen = models.shape, models.specimen
    else:
        given = {
            "power": power, "threads": threads, "seconds": seconds, "weights": weights,
            "meter-option": meter_options or None,
        }  # fmt: skip
        idle = [f"--{name}" for name, value in given.items() if value is not None]
        if idle:
            raise UsageError(f"{' and '.join(idle)} belong to the device `local`; {device} is simulated.")
        opened = open_device(device, runtime=runtime)
        found = shape_of_name(backbone)
        shape = with_sites(found) if adapter == "separate" else found
        if phase == "decode" and not shape.causal:
            raise UsageError(f"{shape.model_id} is an encoder and has no decoding; use --phase prefill.")

        def specimen(subnet: Any) -> Specimen:
            return Specimen(subnet, shape)

    subnets = draw_configurations(shape, count, seed=seed, with_ranks=adapter == "separate")
    records = RecordStore(store)
    with _progress(len(subnets), f"{shape.model_id} on {opened.spec.device_id}") as show:
        try:
            done = profile(
                opened, [specimen(s) for s in subnets], workload, records, seed=seed, label=label, progress=show,
                # A simulator takes no time that would be lost; one file for many rows.
                group=GROUP if device == LOCAL else SIMULATED_GROUP,
            )  # fmt: skip
        except KeyboardInterrupt:
            say("Interrupted. The same command goes on where it stopped.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    result = {
        "store": str(store), "device": opened.spec.device_id, "runtime": opened.spec.runtime, "configurations": count,
        "measured": done.measured, "found": done.found, "failed": dict(done.failed),
    }  # fmt: skip
    if not give(result, json_target):
        return
    keys = {s.key for s in subnets}
    of_plan = [
        r
        for r in records.read().profile_records()
        if r.subnet_key in keys and r.device == opened.spec.device_id and r.workload == workload
        and r.runtime == opened.spec.runtime and r.model_id == shape.model_id
    ]  # fmt: skip
    _show(of_plan, f"{shape.model_id} on {opened.spec.device_id} ({opened.spec.runtime}), {_words(workload)}")
    typer.echo(f"{done.measured} measured now, {done.found} were in {store} already, {len(done.failed)} failed.")
    for key, why in done.failed.items():
        typer.echo(f"{key}: {why}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ssh(
    context: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="As `ssh` knows it: pi@raspberry.")],
    store: StoreOption,
    name: Annotated[str | None, typer.Option("--name", help="What the device is called in the records.")] = None,
    command: Annotated[str, typer.Option("--command", help="How `metas` is called there.")] = "metas",
) -> None:
    """Have a machine behind SSH measure itself with its own installation, and bring its records home.

    All other options are those of `metas profile run local` and go there as they are.
    """
    from metas_peft.core.store import RecordStore
    from metas_peft.devices.remote import profile_over_ssh

    log_to_stderr()
    try:
        added = profile_over_ssh(host, RecordStore(store), context.args, name=name, command=command)
    except KeyboardInterrupt:
        say("Interrupted. The same command goes on where it stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    say(f"{added} records of {host} were added to {store}.")


@app.command()
def plan(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="The sheet.")],
    device: Annotated[str, typer.Option("--device", help="What the device is to be called.")],
    backbone: BackboneOption = "minilm",
    count: CountOption = 20,
    seq_len: LengthOption = 128,
    batch_size: BatchOption = 1,
    phase: PhaseOption = "prefill",
    context_len: ContextOption = 0,
    bits: BitsOption = 32,
    runtime: Annotated[str, typer.Option("--runtime", help="What passes run on there.")] = "",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write a sheet of configurations for a device that only a person can reach; `import` reads it back."""
    from metas_peft.devices import Specimen
    from metas_peft.devices.configurations import draw_configurations
    from metas_peft.devices.sheet import TO_FILL_IN, write_sheet

    workload = _workload(phase, batch_size, seq_len, context_len, bits, "merged")
    shape = shape_of_name(backbone)
    specimens = [Specimen(subnet, shape) for subnet in draw_configurations(shape, count, seed=seed)]
    write_sheet(out, specimens, workload, device=device, runtime=runtime, threads=threads)
    typer.echo(out)
    columns = ", ".join(TO_FILL_IN)
    say(f"Fill in {columns} (what was not measured stays empty), then: metas profile import {out} --store DIR")


@app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, TSV, Parquet, JSON or JSON lines.")],
    store: StoreOption,
    names: Annotated[
        list[str] | None, typer.Option("--map", metavar="THEIRS=OURS", help="A column under our name.")
    ] = None,
    units: Annotated[
        list[str] | None, typer.Option("--unit", metavar="COLUMN=UNIT", help="What its numbers are in: latency=s.")
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", metavar="COLUMN=VALUE", help="A column that the files lack.")
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Keep the good rows of a file with wrong ones.")
    ] = False,
    json_target: JsonOption = None,
) -> None:
    """Add somebody else's measurements to a record store."""
    from metas_peft.core.store import RecordStore
    from metas_peft.devices.importing import ImportRules, import_files

    log_to_stderr()
    rules = ImportRules(pairs(names, "--map"), pairs(units, "--unit"), pairs(constants, "--set"))
    rows: list[dict[str, Any]] = [
        {
            "file": str(f.path), "added": len(f.records), "left_out": list(f.records.left_out),
            "without_latency": list(f.waiting),
        }
        for f in import_files(files, RecordStore(store), rules, skip_invalid=skip_invalid)
    ]  # fmt: skip
    if not give({"store": str(store), "files": rows}, json_target):
        return
    for row in rows:
        typer.echo(f"{row['file']}: {row['added']} rows added to {store}, {len(row['left_out'])} problems left out")
        for problem in row["left_out"]:
            say(problem)
        if row["without_latency"]:
            say(f"Not measured yet, and left for later: row {', '.join(map(str, row['without_latency']))}")


def shape_of_name(name: str) -> BackboneShape:
    """Sizes of a backbone; of the best-known ones without torch.

    Raises:
        UnknownNameError: No such backbone.
    """
    from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE

    known: Registry[BackboneShape] = Registry("backbone")
    known.add("minilm", MINILM, ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"))
    known.add("roberta-base", ROBERTA_BASE, ("FacebookAI/roberta-base",))
    known.add("llama-2-7b", LLAMA_2_7B, ("meta-llama/Llama-2-7b-hf", "pucpr-br/Clinical-BR-LlaMA-2-7B"))
    if name in known:
        return known[name]
    from metas_peft.cli.local_models import LocalModels
    from metas_peft.devices.meters.registry import CPU

    return LocalModels(name, runtime=CPU).shape


def _workload(
    phase: Literal["prefill", "decode"],
    batch_size: int,
    seq_len: int,
    context_len: int,
    bits: int,
    adapter: Literal["merged", "separate"],
) -> Workload:
    if bits not in (32, 16, 8, 4):
        raise UsageError(f"--bits {bits}: weights are stored in 32, 16, 8 or 4 bits.")
    if phase == "prefill" and context_len:
        raise UsageError("--context-len belongs to --phase decode.")
    if phase == "decode" and not context_len:
        raise UsageError("--phase decode needs the tokens that are in the cache: --context-len 512, say.")
    tokens = 1 if phase == "decode" else seq_len
    return Workload(phase, batch_size, tokens, context_len, bits, adapter)


def _words(workload: Workload) -> str:
    length = f"{workload.context_len} tokens before" if workload.phase == "decode" else f"{workload.seq_len} tokens"
    return f"{workload.phase} of {length}, batch {workload.batch_size}, {workload.param_bits}-bit weights"


def pairs(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """What was given as `left=right`, by its left side.

    Raises:
        UsageError: One has no two sides.
    """
    found: dict[str, str] = {}
    for text in given or ():
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise UsageError(f"{option} {text}: two names with an equals sign between them were expected.")
        found[left] = right
    return found


def _show(records: Sequence[ProfileRecord], title: str) -> None:
    rows: list[list[str]] = []
    for metric in METRICS:
        values = [v for r in records if (v := getattr(r.cost, metric)) is not None]
        origins = sorted({str(o) for r in records if (o := getattr(r.origin, metric)) is not None})
        if values:
            spread = [f"{v:.4g}" for v in (min(values), median(values), max(values))]
            label = f"{METRIC_NAMES[metric]} ({METRIC_UNITS[metric]})"
            rows.append([label, *spread, str(len(values)), ", ".join(origins)])
    columns = ["per batch", "least", "median", "most", "records", "origin"]
    typer.echo(title)
    show_table("", columns, rows, numeric=(1, 2, 3, 4))


@contextmanager
def _progress(total: int, title: str) -> Generator[Callable[[int, int], None]]:
    """A bar on standard error while configurations are measured."""
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="configuration", leave=False, delay=1.0) as bar:

        def show(done: int, total: int) -> None:
            bar.update(done - bar.n)

        yield show
