"""`metas devices`: the catalogue, and what this machine can measure."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metas_peft.cli.output import JsonOption, give, show_table
from metas_peft.cli.profile import MeterOption, pairs
from metas_peft.core.units import S_PER_MS

if TYPE_CHECKING:
    from metas_peft.devices.conditions import State
    from metas_peft.devices.meters import MeterRow

app = typer.Typer(help="Devices that can be simulated, and what this machine can measure.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def catalogue(context: typer.Context, json_target: JsonOption = None) -> None:
    """List the devices of the catalogue; `check` tells what this machine can measure."""
    if context.invoked_subcommand is not None:
        return
    from metas_peft.devices.loading import catalogue as entries

    registry = entries()
    rows: list[dict[str, Any]] = []
    for name in registry:
        entry = registry[name]
        runtime = entry.runtime()
        rows.append(
            {
                "device": entry.device_id,
                "name": entry.name,
                "kind": entry.kind,
                "runtime": runtime.name,
                "runtime_status": str(runtime.status),
                "idle_power_w": entry.idle_w,
                "power_cap_w": entry.cap_w,
                "bandwidth_gb_per_s": entry.bandwidth_gb_per_s,
                "aliases": list(entry.aliases),
                "assumptions": len(entry.assumptions()),
            }
        )
    if not give({"devices": rows}, json_target):
        return
    cells = [
        [
            row["device"],
            row["name"],
            row["kind"],
            f"{row['runtime']} ({row['runtime_status']})",
            f"{row['idle_power_w']:g}",
            f"{row['power_cap_w']:g}",
            f"{row['bandwidth_gb_per_s']:g}",
            ", ".join(row["aliases"]),
        ]
        for row in rows
    ]
    cells.append(["local", "this computer", "", "PyTorch", "", "", "", ""])
    columns = ["device", "name", "kind", "default runtime (how known)", "idle W", "cap W", "GB/s", "also called"]
    show_table("Simulated devices, and this computer", columns, cells, numeric=(4, 5, 6))


@app.command()
def check(meter_options: MeterOption = None, json_target: JsonOption = None) -> None:
    """Ask every meter that the project knows whether it works here, and why not; temperature and clocks, too."""
    from metas_peft.devices.conditions import HostProbe
    from metas_peft.devices.host import describe_host
    from metas_peft.devices.meters import check_meters

    host, meters, state = describe_host(), check_meters(pairs(meter_options, "--meter-option")), HostProbe().read()
    result = {
        "host": dataclasses.asdict(host),
        "meters": [dataclasses.asdict(m) for m in meters],
        "conditions": dataclasses.asdict(state),
    }
    if not give(result, json_target):
        return
    cells = [
        [
            meter.meter,
            meter.name,
            "yes" if meter.works else "no",
            meter.origin,
            "" if meter.update_period_ms is None else f"{meter.update_period_ms:g}",
            "" if meter.min_window_ms is None else f"{meter.min_window_ms * S_PER_MS:.3g}",
            _remark(meter),
        ]
        for meter in meters
    ]
    typer.echo(
        f"{host.model_name}, {host.processors} processors; power range {host.idle_w:g} to {host.limit_w:g} W "
        f"({host.power_note})"
    )
    columns = ["--power", "meter", "works", "its numbers are", "every ms", "window s", "what it takes, or why not"]
    show_table("", columns, cells, numeric=(4, 5))
    typer.echo(_conditions(state))


def _remark(meter: "MeterRow") -> str:
    text = meter.permission if meter.works else f"{meter.why_not}\nIt takes: {meter.permission}"
    if meter.origin != "measured" or meter.runtimes:
        return text
    return f"{text}\nIt reads a phone, and no command here runs passes there: metas profile plan, then import"


def _conditions(state: "State") -> str:
    """What this computer tells of itself, and what it does not."""
    told = {
        "temperature": None if state.temperature_c is None else f"{state.temperature_c:.0f} C",
        "clock": None if state.clock_mhz is None else f"{state.clock_mhz:.0f} MHz",
        "power mode": state.power_mode or None,
        "throttling": _throttling(state),
        "load": None if state.load_average is None else f"{state.load_average:g}",
    }
    known = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
    unknown = ", ".join(name for name, value in told.items() if value is None)
    return f"Noted with every measurement: {known or 'nothing'}." + (f" Not told here: {unknown}." if unknown else "")


def _throttling(state: "State") -> str | None:
    if state.is_throttling is not None:
        return "now" if state.is_throttling else "not now"
    return None if state.throttle_events is None else f"{state.throttle_events} times since start"


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE.csv", help="A recording of a meter.")],
    json_target: JsonOption = None,
) -> None:
    """Play a recording of a meter through the window that live meters are read in, and say what it tells."""
    from metas_peft.devices.meters.replay import load_trace
    from metas_peft.devices.meters.replay import replay as play

    recording = load_trace(trace)
    reading = play(recording)
    expected = recording.expected_j
    error_pct = None if expected is None else 100.0 * (reading.total_j / expected - 1.0)
    result = dataclasses.asdict(reading) | {
        "total_j": reading.total_j,
        "mean_power_w": reading.mean_power_w,
        "expected_j": expected,
        "error_pct": error_pct,
    }
    if not give(result, json_target):
        return
    typer.echo(
        f"{reading.meter}: {reading.total_j:.6g} J in {reading.duration_s:.3g} s, {reading.mean_power_w:.4g} W, known "
        f"to {reading.known_to_pct:.2g} %"
    )
    if reading.peak_power_w is not None:
        typer.echo(f"Peak {reading.peak_power_w:.4g} W, by samples of {reading.sampling_period_ms:g} ms")
    if reading.gap_pct is not None:
        typer.echo(f"Integrated power differs from the counter by {reading.gap_pct:+.2g} %")
    if error_pct is not None:
        typer.echo(f"Expected {expected:.6g} J: off by {error_pct:+.2g} %")
