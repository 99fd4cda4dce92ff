"""What is kept of a measurement: its trials, the conditions it was made under, and its way through a flat row."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metas_peft.core.cost import METRIC_NAMES, METRICS, PAPER_COSTS, Cost, Origin, PaperCost
from metas_peft.core.workload import Workload


@dataclass(frozen=True)
class Trial:
    """A few passes in a row between two readings of the clocks; one that does not count is kept, and says why.

    Attributes:
        round: Number of the round that it was made in, from 0.
        wall_ms: Wall time of a pass.
        cpu_ms: Processor time of a pass.
        problem: Why it does not count; empty if it does.
    """

    round: int
    wall_ms: float
    cpu_ms: float
    problem: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under what conditions a measurement was made; None and empty where nobody can tell.

    Attributes:
        temperature_before_c: Temperature of the chip before the first pass.
        temperature_after_c: Temperature after the last one.
        clock_mhz: Mean of the clocks just before the first pass and just after the last.
        power_mode: Governor, power profile or limit in force.
        is_throttled: Whether the device slowed itself down to stay cool or within its power, by what it counts; a look
            at the moment, which is never during a pass, can say yes alone.
        load_average: Runnable processes on the machine, mean of a minute; the passes' own are among them.
        anchor_key: Configuration that ran along as a yardstick.
        anchor_ms: What the yardstick took meanwhile.
        scale_ms: What it took when it was first measured; latency is given on this scale.
        scale_known_to_pct: Half width of the 95 % interval of the latter; part of what the record claims, and no matter
            between records on one scale.
        anchor_energy_j: Energy that a meter read for the yardstick meanwhile.
        scale_energy_j: What it read first; energy is given on this scale.
        idle_power_after_w: Power at rest after the passes; `idle_power_w` of the record is the mean of both.
        meter_gap_pct: Integrated power by the energy counter's energy, less one, in percent.
    """

    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    clock_mhz: float | None = None
    power_mode: str = ""
    is_throttled: bool | None = None
    load_average: float | None = None
    anchor_key: str = ""
    anchor_ms: float | None = None
    scale_ms: float | None = None
    scale_known_to_pct: float | None = None
    anchor_energy_j: float | None = None
    scale_energy_j: float | None = None
    idle_power_after_w: float | None = None
    meter_gap_pct: float | None = None


@dataclass(frozen=True)
class ProfileRecord:
    """One measurement: one protocol run of one subnet under one workload on one device.

    `cost` is per batch. None means not measured, never 0. `origin` tells the source of each metric. `known_to_pct` is
    the half width of the 95 % interval around the median latency, `energy_known_to_pct` that of a metered energy, both
    with the scale's; `energy_std_j` is its spread over `n_windows` windows that count; `trials` are all that were made,
    where they were kept.
    """

    device: str
    model_id: str
    subnet_key: str
    workload: Workload
    paper: PaperCost[float]
    cost: Cost[float | None]
    origin: Cost[Origin | None]
    kept_layers: int
    kept_heads: int
    kept_ranks: int
    kept_ffn: int
    n_layers: int
    device_class: str = ""
    runtime: str = ""
    meter: str = ""
    source: str = ""
    n_repeats: int = 1
    latency_std_ms: float | None = None
    mean_power_w: float | None = None
    idle_power_w: float | None = None
    energy_above_idle_j: float | None = None
    cpu_time_ms: float | None = None
    threads: int | None = None
    sampling_period_ms: float | None = None
    is_valid: bool = True
    why_invalid: str = ""
    known_to_pct: float | None = None
    energy_std_j: float | None = None
    energy_known_to_pct: float | None = None
    n_windows: int | None = None
    n_invalid: int | None = None
    conditions: Conditions = Conditions()
    trials: tuple[Trial, ...] | None = None

    def as_row(self) -> dict[str, Any]:
        """One flat row in the public column names of a record store."""
        row = dataclasses.asdict(self)
        for name in ("workload", "paper", "cost", "conditions"):
            row |= row.pop(name)
        known = [o for _, o in self.origin.items() if o is not None]
        row["origin"] = str(Origin.weakest(known)) if known else None
        for metric, origin in self.origin.items():
            row[f"origin_{METRIC_NAMES[metric]}"] = None if origin is None else str(origin)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ProfileRecord":
        """Inverse of `as_row`; columns it does not know are left to the store."""
        apart = {"workload", "paper", "cost", "origin", "conditions", "trials"}
        names = {f.name for f in dataclasses.fields(cls)} - apart
        whole = row.get("origin")
        trials = row.get("trials")
        return cls(
            workload=Workload(**{f.name: row[f.name] for f in dataclasses.fields(Workload)}),
            paper=PaperCost(**{p: row[p] for p in PAPER_COSTS}),
            cost=Cost[float | None].of({m: row[m] for m in METRICS}),
            origin=Cost(*(_origin(row.get(f"origin_{METRIC_NAMES[m]}"), row[m], whole) for m in METRICS)),
            conditions=Conditions(**{f.name: row[f.name] for f in dataclasses.fields(Conditions) if f.name in row}),
            trials=None if trials is None else tuple(Trial(**trial) for trial in trials),
            **{n: row[n] for n in names if n in row},
        )


def _origin(own: str | None, value: float | None, whole: str | None) -> Origin | None:
    text = own if own is not None else (whole if value is not None else None)
    return None if text is None else Origin(text)
