"""`metas devices`: the catalogue, and what this machine can measure."""

import dataclasses
from typing import Any

import typer

from metas_peft.cli.output import JsonOption, give, show_table

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
def check(json_target: JsonOption = None) -> None:
    """Ask every meter that the project knows whether it works here, and why not."""
    from metas_peft.devices.host import describe_host
    from metas_peft.devices.meters import check_meters

    host, meters = describe_host(), check_meters()
    if not give({"host": dataclasses.asdict(host), "meters": [dataclasses.asdict(m) for m in meters]}, json_target):
        return
    cells = [
        [
            meter.name,
            "yes" if meter.works else "no",
            meter.origin,
            "" if meter.update_period_ms is None else f"{meter.update_period_ms:g}",
            meter.permission if meter.works else meter.why_not,
        ]
        for meter in meters
    ]
    title = f"{host.model_name}, {host.processors} processors; power range {host.idle_w:g} to {host.limit_w:g} W"
    show_table(
        f"{title} ({host.power_note})",
        ["meter", "works", "its numbers are", "every ms", "needs, or why not"],
        cells,
        numeric=(3,),
    )
