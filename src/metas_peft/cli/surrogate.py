"""`metas surrogate`: the predictor of costs on its own, from record files."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metas_peft.cli.output import JsonOption, give, log_to_stderr, show_table
from metas_peft.core.cost import METRIC_NAMES, METRIC_UNITS, METRICS
from metas_peft.core.errors import CheckpointError, InvalidRecordError, MetasPeftError, UsageError, nearest
from metas_peft.core.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from metas_peft.core.device import DeviceSpec
    from metas_peft.core.records import ProfileRecord
    from metas_peft.surrogate import MetaTrained, Surrogate

app = typer.Typer(
    help="Predict costs on a device from a handful of records: train, evaluate, calibrate, predict.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip

CALIBRATION_VERSION = 1
ALL = "all"
COLUMNS = ("configuration", *(f"{METRIC_NAMES[m]} {METRIC_UNITS[m]}" for m in METRICS))

PoolOption = Annotated[
    list[Path], typer.Option("--pool", metavar="FILE", help="Records to learn from: Parquet file or store; repeatable.")
]
SkipOption = Annotated[bool, typer.Option("--skip-invalid", help="Leave wrong rows out instead of refusing a file.")]
SurrogateOption = Annotated[
    Path | None, typer.Option("--surrogate", metavar="FILE", help="One that `train` wrote; the shipped one if absent.")
]
KindOption = Annotated[
    str, typer.Option("--kind", help="`auto`, `metas`, `roofline` or `reference`, as far as the surrogate holds it.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of everything random.")]


@app.command()
def train(
    pool: PoolOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="`*.safetensors`, or `*.pt` (tensors only).")],
    seed: SeedOption = 0,
    skip_invalid: SkipOption = False,
    json_target: JsonOption = None,
) -> None:
    """Learn from records of three devices or more, and tell the errors on each when it is left out."""
    from metas_peft.surrogate.training import train as learn

    log_to_stderr()
    records = _read(pool, skip_invalid)
    with _bar("training") as report:
        trained = learn(
            records, seed=seed, specs=_specs(records), kinds=("metas", "reference", "roofline"), progress=report
        )
    trained.save(out)
    result = {
        "surrogate": str(out), "pool": list(trained.devices), "records": trained.n_records,
        "chosen": trained.choose("device"), "why": trained.why("device"), "errors": dict(trained.errors),
    }  # fmt: skip
    if give(result, json_target):
        _show_errors(trained.errors["device"], "Left out in turn: five random records calibrate")
        typer.echo(f"{trained.why('device')}\nWritten to {out}.")


@app.command()
def evaluate(
    pool: PoolOption,
    unseen: Annotated[
        list[Path] | None,
        typer.Option("--unseen", metavar="FILE", help="Records of devices to test on; else each of the pool in turn."),
    ] = None,
    calibration_samples: Annotated[int, typer.Option("--calibration-samples", min=2, help="Records per draw.")] = 5,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Random draws per device.")] = 20,
    seed: SeedOption = 0,
    methods: Annotated[str, typer.Option("--methods", help="Names with commas between them, or `all`.")] = ALL,
    skip_invalid: SkipOption = False,
    json_target: JsonOption = None,
) -> None:
    """Errors on devices that nothing was learnt from, every method on the same draws."""
    from metas_peft.surrogate.evaluate import METHODS
    from metas_peft.surrogate.evaluate import evaluate as assess

    log_to_stderr()
    chosen = METHODS if methods == ALL else tuple(name.strip() for name in methods.split(",") if name.strip())
    wrong = [name for name in chosen if name not in METHODS]
    if wrong or not chosen:
        raise UsageError(f"--methods {methods}: {nearest(wrong[0] if wrong else '', METHODS)}")
    records, others = _read(pool, skip_invalid), _read(unseen or [], skip_invalid)
    with _bar("evaluation") as report:
        result = assess(
            records, others, samples=calibration_samples, draws=draws, seed=seed, methods=chosen,
            specs=_specs([*records, *others]), progress=report,
        )  # fmt: skip
    if give(result, json_target):
        _show_errors(result["devices"], f"{calibration_samples} random records calibrate, {draws} draws")
        for sentence in result["skipped"]:
            typer.echo(sentence)


@app.command()
def calibrate(
    records: Annotated[
        list[Path], typer.Option("--records", metavar="FILE", help="A few records of the target; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSON file for `predict`.")],
    surrogate: SurrogateOption = None,
    kind: KindOption = "auto",
    device: Annotated[str | None, typer.Option("--device", help="Which device, where the file holds several.")] = None,
    scale_shift: Annotated[
        bool | None,
        typer.Option("--scale-shift/--no-scale-shift", help="A scale and a shift per metric; else as the kind needs."),
    ] = None,
    skip_invalid: SkipOption = False,
    json_target: JsonOption = None,
) -> None:
    """Fit the surrogate to a device from a handful of its records (five are usual)."""
    log_to_stderr()
    own = _read(records, skip_invalid)
    if device is not None:
        names = sorted({r.device for r in own})
        own = [r for r in own if r.device == device]
        if not own:
            raise UsageError(f"--device {device}: {nearest(device, names)}")
    fitted = _fit(_open(surrogate), kind, own, scale_shift)
    result = {
        "device": fitted.device, "kind": fitted.kind, "alpha": fitted.alpha.as_dict(), "beta": fitted.beta.as_dict(),
        "points": [
            {"key": p.key, "predicted": p.predicted.as_dict(), "measured": p.measured.as_dict()} for p in fitted.points
        ],
    }  # fmt: skip
    stored = {
        "calibration_version": CALIBRATION_VERSION, "surrogate": None if surrogate is None else str(surrogate),
        "scale_shift": scale_shift, **result, "records": [r.as_row() for r in own],
    }  # fmt: skip
    write_json(out, stored)
    if give(result, json_target):
        rows = [
            [p["key"], *(f"{p['predicted'][m]:.4g} / {_number(p['measured'][m])}" for m in METRICS)]
            for p in result["points"]
        ]
        show_table(f"{fitted.device}: {fitted.kind} on its own points, predicted / measured", COLUMNS, rows, (1, 2, 3))
        typer.echo(f"Written to {out}.")


@app.command()
def predict(
    passes: Annotated[
        list[Path], typer.Option("--passes", metavar="FILE", help="Passes to predict, as record files; repeatable.")
    ],
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="What `calibrate` wrote; else zero-shot.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Zero-shot: a device of the catalogue, for its spec sheet.")
    ] = None,
    surrogate: SurrogateOption = None,
    kind: KindOption = "auto",
    skip_invalid: SkipOption = False,
    json_target: JsonOption = None,
) -> None:
    """Predict energy, latency and peak power of passes whose counts are known."""
    log_to_stderr()
    fitted = _stored(calibration) if calibration is not None else _zero_shot(_open(surrogate), kind, device)
    rows = []
    for record in _read(passes, skip_invalid):
        row = {"key": record.subnet_key, **fitted.predict(record.paper, record.workload).as_dict()}
        if fitted.gives_interval:
            low, high = fitted.interval(record.paper, record.workload)
            row["interval_80"] = {m: [float(getattr(low, m)), float(getattr(high, m))] for m in METRICS}
        rows.append(row)
    result = {"device": fitted.device, "kind": fitted.kind, "origin": "predicted", "passes": rows}
    if give(result, json_target):
        cells = [[row["key"], *(_with_interval(row, m) for m in METRICS)] for row in rows]
        name = fitted.device or "a device nobody described"
        show_table(f"{name}: predicted by {fitted.kind}", COLUMNS, cells, (1, 2, 3))


def _read(paths: Sequence[Path], skip_invalid: bool) -> "list[ProfileRecord]":
    from metas_peft.surrogate.from_files import read_records

    return read_records(paths, skip_invalid=skip_invalid)


def _open(path: Path | None) -> "MetaTrained":
    from metas_peft.surrogate import MetaTrained, shipped

    return shipped() if path is None else MetaTrained.load(path)


def _specs(records: "Sequence[ProfileRecord]") -> "dict[str, DeviceSpec]":
    """Spec sheets of those devices that the catalogue knows."""
    from metas_peft.devices.loading import catalogue

    known = catalogue()
    return {r.device: known[r.device].spec() for r in records if r.device in known}


def _fit(trained: "MetaTrained", kind: str, own: "Sequence[ProfileRecord]", scale_shift: bool | None) -> "Surrogate":
    if not own:
        raise InvalidRecordError("The files hold no valid record. Name files with records of the target.")
    chosen = trained.choose("device") if kind == "auto" else kind
    return trained.fit(chosen, own, _specs(own).get(own[0].device), scale_shift=scale_shift)


def _stored(path: Path) -> "Surrogate":
    from metas_peft.core.records import ProfileRecord

    try:
        stored = read_json(path)
        version = stored["calibration_version"]
        if version != CALIBRATION_VERSION:
            raise CheckpointError(
                f"{path} has version {version}, this program reads {CALIBRATION_VERSION}. Calibrate anew."
            )
        own = [ProfileRecord.from_row(row) for row in stored["records"]]
        source = None if stored["surrogate"] is None else Path(stored["surrogate"])
        return _fit(_open(source), stored["kind"], own, stored["scale_shift"])
    except MetasPeftError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not what `metas surrogate calibrate` writes ({type(error).__name__}: {error}). Calibrate anew."
        ) from error


def _zero_shot(trained: "MetaTrained", kind: str, device: str | None) -> "Surrogate":
    from metas_peft.devices.loading import catalogue

    spec = None if device is None else catalogue()[device].spec()
    return trained.zero_shot(trained.choose("zero_shot") if kind == "auto" else kind, spec)


@contextmanager
def _bar(title: str) -> "Generator[Callable[[float], None]]":
    from tqdm.auto import tqdm

    with tqdm(total=100, desc=title, delay=2.0, leave=False, dynamic_ncols=True) as bar:

        def show(part: float) -> None:
            bar.update(round(100 * part) - bar.n)

        yield show


def _show_errors(devices: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], title: str) -> None:
    """Mean, median and 90th percentile per device and method."""
    names = list(METRIC_NAMES.values())
    rows = [
        [device, method, *(_errors(by_metric.get(name)) for name in names)]
        for device, by_method in devices.items()
        for method, by_metric in by_method.items()
    ]
    columns = ["device", "method", *(f"{name}, %: mean / median / p90" for name in names)]
    show_table(title, columns, rows, (2, 3, 4))


def _errors(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "not measured"
    return " / ".join(f"{figures[name]:.1f}" for name in ("mape", "median_ape", "p90_ape"))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    bounds = row.get("interval_80", {}).get(metric)
    shown = f"{row[metric]:.4g}"
    return shown if bounds is None else f"{shown} ({bounds[0]:.3g} to {bounds[1]:.3g})"
