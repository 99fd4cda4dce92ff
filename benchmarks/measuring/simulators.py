"""The page on simulators: every published measurement of the catalogue against the simulator.

`python benchmarks/measuring/simulators.py --write` writes `docs/simulators.md`; without `--write` it prints the page. A
test holds the committed page against what this command gives.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from metas_peft.core.files import write_text
from metas_peft.devices import DeviceEntry, catalogue
from metas_peft.devices.entry import Status
from metas_peft.devices.published import Comparison, compare_all

PAGE = Path(__file__).parents[2] / "docs" / "simulators.md"
COMMAND = "python benchmarks/measuring/simulators.py --write"

INTRODUCTION = f"""# Simulated devices, against what others measured

Written by `{COMMAND}`; do not edit by hand.

A simulated device is computed from its file in `src/metas_peft/devices/catalogue/`: a roofline per product of a pass, a
time per kernel, power from energies per operation and byte, the device's power limit, and the window of the sensor that
a real measurement would read. The equations stand at the head of `src/metas_peft/devices/simulated.py`. Noise and the
sensor's gain error are left out of everything on this page.

How a runtime's parameters were found decides how far its times are trusted, either way:

* **fitted** to several published points of this device and runtime: x1.35
* **calibrated** to one point, which therefore checks nothing by itself: x1.35
* **borrowed** from a relative, another device of the same kind: x2
* **assumed**: x3

Several runtimes have as many free parameters as points, one has more, so a good fit says little by itself; the points
that were *held out* of every fit say more. Ratios are simulated by published time, so above 1 it is too slow. A
relative is another device whose published points stand in for those that nobody published of the device itself.
"""


def render() -> str:
    """The whole page."""
    rows = compare_all()
    parts = [INTRODUCTION, *_summary(rows), *_times(rows), *_powers(rows), *_left_out(rows), *_assumptions()]
    return "\n".join(parts).rstrip("\n") + "\n"


def _summary(rows: Sequence[Comparison]) -> Iterator[str]:
    simulated = [row for row in rows if row.is_simulated]
    yield f"## In short\n\n{len(rows)} published points, {len(simulated)} of them simulated.\n"
    yield from _table(
        ("parameters", "points", "promised within", "within", "median ratio", "least", "most"),
        [
            (
                str(status),
                str(len(own)),
                f"x{status.trust_factor:g}",
                f"{sum(r.is_within for r in own)} ({sum(r.is_within for r in own) / len(own):.0%})",
                f"{median(_ratios(own)):.2f}",
                f"{min(_ratios(own)):.2f}",
                f"{max(_ratios(own)):.2f}",
            )
            for status in Status
            if (own := [r for r in simulated if r.status is status])
        ],
    )
    held_out = [r for r in simulated if r.point.is_held_out]
    yield (
        f"\nHeld out: {len(held_out)} points, ratios {min(_ratios(held_out)):.2f} to {max(_ratios(held_out)):.2f}, "
        f"median {median(_ratios(held_out)):.2f}."
    )
    without = [str(s) for s in Status if not any(r.status is s for r in simulated)]
    if without:
        yield f"No point was published of a runtime whose parameters are {' or '.join(without)}: nothing checks those."
    checked, entries = {(r.device, r.point.runtime) for r in simulated}, catalogue()
    unchecked = [
        f"{name} {runtime} ({status})"
        for name in sorted(entries)
        for runtime in entries[name].runtimes
        if (name, runtime) not in checked and str(status := entries[name].runtime(runtime).status) not in without
    ]
    if unchecked:
        yield f"Nor does any simulated point check {', '.join(unchecked)}."
    remembered = [r for r in simulated if "from memory" in r.point.source]
    if remembered:
        yield f"{len(remembered)} of the points are quoted from memory (see the sources)."
    outside = [r for r in simulated if not r.is_within]
    if outside:
        yield "\nExceptions, outside of what their parameters promise:\n"
        yield from (f"* {_device(r)}, {r.point.runtime}, {_work(r)}: {r.time_ratio:.2f}" for r in outside)
    else:
        yield "\nExceptions, outside of what their parameters promise: none."
    yield ""


def _times(rows: Sequence[Comparison]) -> Iterator[str]:
    yield "## Times\n"
    columns = ("device", "runtime", "pass", "published", "simulated", "ratio", "parameters", "source")
    sources = _sources(rows)
    cells: list[tuple[str, ...]] = []
    for row in rows:
        ratio = row.time_ratio
        if ratio is None:
            continue
        marks = (str(row.status), "held out" if row.point.is_held_out else "", "" if row.is_within else "outside")
        cells.append(
            (
                _device(row),
                row.point.runtime,
                _work(row),
                _time(row.point.latency_ms, row.point.tokens_per_s),
                _time(row.latency_ms, row.tokens_per_s),
                f"{ratio:.2f}",
                ", ".join(mark for mark in marks if mark),
                str(sources[row.point.source]),
            )
        )
    yield from _table(columns, cells)
    yield "\nSources:\n"
    yield from (f"{number}. {source}" for source, number in sources.items())
    yield ""


def _powers(rows: Sequence[Comparison]) -> Iterator[str]:
    yield "## Powers\n"
    yield (
        "Few powers were published, most of them of relatives; the simulator's energies per operation and byte are "
        "derived from these or assumed.\n"
    )
    cells: list[tuple[str, ...]] = []
    for row in rows:
        pairs = (
            ("mean", row.point.mean_power_w, row.mean_power_w),
            ("peak", row.point.peak_power_w, row.peak_power_w),
        )
        for kind, published, simulated in pairs:
            if published is not None and simulated is not None:
                cells.append(
                    (_device(row), row.point.runtime, _work(row), kind, f"{published:g} W", f"{simulated:.3g} W",
                     f"{simulated / published:.2f}")
                )  # fmt: skip
    yield from _table(("device", "runtime", "pass", "power", "published", "simulated", "ratio"), cells)
    yield ""


def _left_out(rows: Sequence[Comparison]) -> Iterator[str]:
    yield "## Published, but not simulated\n"
    for row in rows:
        if not row.is_simulated:
            point = row.point
            numbers = [
                _time(point.latency_ms, None) if point.latency_ms is not None else "",
                f"{point.mean_power_w:g} W" if point.mean_power_w is not None else "",
                f"{point.energy_j:g} J" if point.energy_j is not None else "",
            ]
            found = ", ".join(n for n in numbers if n)
            yield f"* {_device(row)}, {point.runtime}, {_work(row)} ({found}; {point.source}): {point.why_not}."
    yield ""


def _assumptions() -> Iterator[str]:
    yield "## Which parameters are assumptions\n"
    yield (
        "Figures that nobody published, with the value that the simulator uses. All others in the catalogue are the "
        "maker's, measured by somebody, or derived from such figures.\n"
    )
    devices = catalogue()
    marks = Counter(str(mark) for name in devices for mark in devices[name].marks.values())
    yield f"Of {sum(marks.values())} figures: {', '.join(f'{n} {mark}' for mark, n in sorted(marks.items()))}.\n"
    for name in sorted(devices):
        entry = devices[name]
        raw = _raw(entry)
        yield f"### {entry.name}\n"
        yield f"Power covers: {entry.power_boundary}.\n"
        cells = [(path, _value(raw, path), entry.remarks.get(path, "")) for path in entry.assumptions()]
        yield from _table(("figure", "value", "remark"), cells)
        runtimes = [f"{r.name} ({r.status}: {r.calibration})" for r in entry.runtimes.values()]
        yield "\nRuntimes:\n"
        yield from (f"* {text}" for text in runtimes)
        yield ""


def _ratios(rows: Sequence[Comparison]) -> list[float]:
    return [ratio for row in rows if (ratio := row.time_ratio) is not None]


def _sources(rows: Sequence[Comparison]) -> dict[str, int]:
    return {source: n for n, source in enumerate(dict.fromkeys(r.point.source for r in rows if r.time_ratio), 1)}


def _device(row: Comparison) -> str:
    entry = catalogue()[row.device]
    variant = row.point.variant
    if variant is None:
        return row.device
    return f"{variant} for {row.device}" if entry.variants[variant].is_relative else f"{row.device}, {variant}"


def _work(row: Comparison) -> str:
    point = row.point
    if point.phase == "generate":
        work = f"{point.seq_len} + {point.output_len} tokens"
    elif point.phase == "decode":
        work = f"decode behind {point.context_len}"
    else:
        work = f"{point.seq_len} tokens"
    return f"{point.model}, {work}, batch {point.batch_size}, {point.param_bits} bits"


def _time(latency_ms: float | None, tokens_per_s: float | None) -> str:
    if latency_ms is not None:
        return f"{latency_ms:.4g} ms"
    return "" if tokens_per_s is None else f"{tokens_per_s:.4g} tokens/s"


def _raw(entry: DeviceEntry) -> dict[str, Any]:
    file = resources.files("metas_peft.devices") / "catalogue" / f"{entry.device_id}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _value(raw: dict[str, Any], path: str) -> str:
    """The value of a figure; names of variants may hold dots and blanks."""
    found: Any = raw
    rest = path
    while rest:
        key = next(k for k in found if rest == str(k) or rest.startswith(f"{k}."))
        found, rest = found[key], rest[len(str(key)) + 1 :]
    return f"{found[0]:g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} instead of printing it")
    if parser.parse_args().write:
        write_text(PAGE, render())
    else:
        print(render(), end="")


if __name__ == "__main__":
    main()
