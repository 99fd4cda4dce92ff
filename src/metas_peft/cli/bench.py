"""`metas bench`: compact models against the dense one, timed here."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metas_peft.cli.output import JsonOption, give, log_to_stderr, show_table
from metas_peft.core.errors import UsageError, nearest
from metas_peft.core.units import BYTES_PER_MB

if TYPE_CHECKING:
    from metas_peft.export.bench import BenchTable

COLUMNS = ["model", "FLOPs", "MB", "latency ms", "per s", "speed-up", "speed-up x FLOPs", "energy J"]


def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run, or of one member.")],
    member: Annotated[list[str] | None, typer.Option(help="Only this member, by name or key; may be repeated.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="torch, torch-bf16, torch-int8, onnx, onnx-int8 or onnx-int4; may be repeated."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per pass.")] = 1,
    seq_len: Annotated[int, typer.Option(min=1, help="Tokens per sequence.")] = 128,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit per model and backend.")] = 3.0,
    json_target: JsonOption = None,
) -> None:
    """Time compact models against the dense one: the same backend, the same number format, in turn.

    Energy is shown where a meter reads it. Without --backend: torch, and ONNX Runtime in float32 and int8 where it is
    installed.
    """
    from metas_peft.core.workload import Workload
    from metas_peft.devices import TimingRules
    from metas_peft.export.backends import BACKENDS, usual_backends
    from metas_peft.export.bench import Bench
    from metas_peft.export.members import dense_of, find_member, members_of

    log_to_stderr()
    wanted = backend or usual_backends()
    for name in wanted:
        if name not in BACKENDS:
            raise UsageError(f"Unknown backend {name!r}: {nearest(name, BACKENDS)}")
    members = [find_member(folder, m) for m in member] if member else members_of(folder)
    timed = Bench(members, dense_of(folder), threads=threads, rules=TimingRules(seconds_per_subject=seconds))
    tables = [timed.run(name, Workload(batch_size=batch_size, seq_len=seq_len)) for name in wanted]
    if give({"folder": str(folder), "tables": [dataclasses.asdict(table) for table in tables]}, json_target):
        for table in tables:
            _show(table)


def _show(table: "BenchTable") -> None:
    cells = [
        [
            row.member,
            f"{row.flops_fraction:.0%}",
            f"{row.size_bytes / BYTES_PER_MB:.1f}",
            f"{row.latency_ms:.2f}",
            f"{row.sequences_per_s:.1f}",
            f"{row.speed_up:.2f} ±{row.known_to_pct:.1f}%",
            f"{row.speed_by_size:.2f}",
            "no meter" if row.energy_j is None else f"{row.energy_j:.3g}",
        ]
        for row in table.rows
    ]
    title = (
        f"{table.backend}: batch {table.batch_size}, {table.seq_len} tokens, {table.threads} thread(s); "
        f"two timings of the dense model differ by {table.noise_pct:.1f} %"
    )
    show_table(title, COLUMNS, cells, numeric=range(1, len(COLUMNS)))
