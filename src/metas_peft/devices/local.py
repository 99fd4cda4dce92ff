"""This computer as a device: latency is always timed, energy and power are metered or modelled.

Passes are timed by the protocol of `protocol`; the anchor of the first measurement of a backbone (the dense model
where it is among the specimens, else the first one given) stays the yardstick of all later ones under the same
workload: it runs in their rounds too, and their times are given on its first scale. So two calls minutes apart on a
busy machine can be compared, and so can two processes, if the second `recall`s the records of the first. A yardstick
that runs along is not a measurement of its own and is not counted.

The number of processor threads belongs to whoever opens the models (a specimen's `open`); here it is noted, and
contradicted when the processor time shows otherwise.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metas_peft.core.cost import Cost, Origin, PaperCost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeasurementError
from metas_peft.core.records import Conditions, ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.units import MS_PER_S, S_PER_MS
from metas_peft.core.workload import Workload
from metas_peft.devices.base import Device, Ledger, Purpose, Specimen, by_shape, make_record, stacked_papers
from metas_peft.devices.conditions import ConditionProbe, HostProbe, between
from metas_peft.devices.machine import describe_machine
from metas_peft.devices.metering import EnergyScale
from metas_peft.devices.power import MeterRules, PassTime, PowerFigures, PowerSource
from metas_peft.devices.protocol import Clock, Run, Timing, TimingRules, time_flight

logger = logging.getLogger(__name__)

LOCAL = "local"
OVERUSE = 1.25  # processors in use by threads noted, above which the note is contradicted


@dataclass(frozen=True)
class _Yardstick:
    """The anchor of a backbone under a workload, its times when it was first measured, and how well they are known."""

    specimen: Specimen
    wall_s: float
    cpu_s: float
    known_to: float
    energy: EnergyScale | None = None


class LocalDevice(Device):
    """This computer.

    Args:
        spec: Facts of the computer.
        power: Where energy and power come from.
        ledger: Where measurements are counted.
        rules: When timing may stop.
        clock: Clocks to read.
        probe: Tells temperature, clocks and throttling.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        power: PowerSource,
        *,
        ledger: Ledger | None = None,
        rules: TimingRules | None = None,
        clock: Clock | None = None,
        probe: ConditionProbe | None = None,
    ) -> None:
        super().__init__(spec, ledger, power.meters)
        self.power = power
        self.rules = rules if rules is not None else TimingRules()
        self._clock = clock if clock is not None else Clock()
        self._probe = probe if probe is not None else HostProbe()
        self._yardsticks: dict[tuple[BackboneShape, Workload], _Yardstick] = {}

    @property
    def identity(self) -> str:
        """The computer, and its board where passes run on one."""
        return describe_machine(self.spec.runtime)

    def recall(self, specimens: Sequence[Specimen], workload: Workload, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the yardstick of earlier records, so that what comes is given on their scale."""
        wanted = dataclasses.asdict(workload) | {
            "device": self.spec.device_id, "runtime": self.spec.runtime, "threads": self.spec.threads,
        }  # fmt: skip
        own = [r for r in rows if all(r.get(k) == v for k, v in wanted.items()) and r.get("is_valid") is not False]
        for shape, indices in by_shape(specimens):
            by_key = {specimens[i].subnet.key: specimens[i] for i in indices}
            for row in own:
                is_anchor = row.get("anchor_key") == row["subnet_key"] and row["model_id"] == shape.model_id
                if is_anchor and row["subnet_key"] in by_key and row.get("cpu_time_ms") is not None:
                    wall_s, cpu_s = row["scale_ms"] * S_PER_MS, row["cpu_time_ms"] * S_PER_MS
                    known_to = (row.get("known_to_pct") or 0.0) / 100.0
                    energy = self._recalled_energy(row)
                    yardstick = _Yardstick(by_key[row["subnet_key"]], wall_s, cpu_s, known_to, energy)
                    self._yardsticks.setdefault((shape, workload), yardstick)
                    logger.info(
                        "Times are given on the scale of earlier records: %.3g ms of the anchor.", row["scale_ms"]
                    )
                    break

    def _recalled_energy(self, row: Mapping[str, Any]) -> EnergyScale | None:
        """The anchor's energy of an earlier record, if it was read by the meter that is open now."""
        if row.get("origin_energy") != Origin.MEASURED or row.get("meter") != self.power.name:
            return None
        return EnergyScale(row["energy_j"], (row.get("energy_known_to_pct") or 0.0) / 100.0)

    def _measure(
        self, specimens: Sequence[Specimen], workload: Workload, purpose: Purpose, seed: int
    ) -> list[ProfileRecord]:
        papers = stacked_papers(specimens, workload)
        rng = np.random.default_rng(seed)
        self.power.prepare()
        records: dict[int, ProfileRecord] = {}
        for shape, indices in by_shape(specimens):
            known = self._yardsticks.get((shape, workload))
            dense = [i for i in indices if specimens[i].is_dense]
            anchor = known.specimen if known is not None else specimens[(dense or indices)[0]]
            anchor_run = _open(anchor, workload)
            for start in range(0, len(indices), self.rules.flight_size):
                flight = indices[start : start + self.rules.flight_size]
                crew = [specimens[i] for i in flight]
                done = self._fly(crew, [papers[i] for i in flight], workload, anchor, anchor_run, rng)
                records |= dict(zip(flight, done, strict=True))
        return self._at_rest_again([records[i] for i in range(len(specimens))])

    def _at_rest_again(self, records: list[ProfileRecord]) -> list[ProfileRecord]:
        """The records with the power at rest after them, and energies above the mean of both."""
        after_w = self.power.finish()
        if after_w is None:
            return records
        finished: list[ProfileRecord] = []
        for record in records:
            before_w, mean_w, energy_j = record.idle_power_w, record.mean_power_w, record.cost.energy_j
            if before_w is None or mean_w is None or energy_j is None:
                finished.append(record)
                continue
            idle_w = 0.5 * (before_w + after_w)
            finished.append(
                dataclasses.replace(
                    record,
                    idle_power_w=idle_w,
                    energy_above_idle_j=energy_j * (1.0 - idle_w / mean_w),
                    conditions=dataclasses.replace(record.conditions, idle_power_after_w=after_w),
                )
            )
        return finished

    def _fly(
        self,
        specimens: Sequence[Specimen],
        papers: Sequence[PaperCost[float]],
        workload: Workload,
        anchor: Specimen,
        anchor_run: Run,
        rng: np.random.Generator,
    ) -> list[ProfileRecord]:
        """Open, time and price a flight of one backbone; its models are let go of at the end."""
        runs = [anchor_run if s.subnet == anchor.subnet else _open(s, workload) for s in specimens]
        # The anchor flies along at the end where it is not a member.
        crew = runs if anchor_run in runs else [*runs, anchor_run]
        before = self._probe.read()
        place, sets_scale = crew.index(anchor_run), (anchor.shape, workload) not in self._yardsticks
        timed = time_flight(crew, place, self.rules, self._clock, rng, sets_scale=sets_scale)
        yardstick = self._yardsticks.get((anchor.shape, workload)) or _Yardstick(
            anchor, timed.anchor_wall_s, timed.anchor_cpu_s, timed.timings[place].known_to
        )
        times = [self._pass_time(timing, yardstick) for timing in timed.timings]
        limit_s = self.rules.seconds_per_subject * len(crew)
        rules = MeterRules(place, self.rules.tolerance, limit_s, yardstick.energy)
        power = self.power.flight(crew, times, rules, rng)
        if yardstick.energy is None and not power.figures[place].problem:
            # A restless anchor is no scale for what comes; the next flight sets it.
            yardstick = dataclasses.replace(yardstick, energy=power.scale)
        self._yardsticks[anchor.shape, workload] = yardstick
        records = [
            self._record(specimen, workload, paper, timing, time, figures, yardstick, timed.anchor_wall_s)
            for specimen, paper, timing, time, figures in zip(
                specimens, papers, timed.timings, times, power.figures, strict=False
            )
        ]
        conditions = dataclasses.replace(
            between(before, self._probe.read()),
            anchor_key=anchor.subnet.key,
            anchor_ms=timed.anchor_wall_s * MS_PER_S,
            scale_ms=yardstick.wall_s * MS_PER_S,
            scale_known_to_pct=100.0 * yardstick.known_to,
            anchor_energy_j=power.anchor_j,
            scale_energy_j=None if power.scale is None else power.scale.energy_j,
        )
        if conditions.is_throttled:
            logger.warning(
                "This computer throttled while %d configurations were measured (%s): their times are those of a hot or "
                "power-limited machine, and say so.",
                len(records),
                conditions.power_mode or "no more is known",
            )
        return [
            dataclasses.replace(r, conditions=dataclasses.replace(conditions, meter_gap_pct=r.conditions.meter_gap_pct))
            for r in records
        ]

    def _pass_time(self, timing: Timing, yardstick: _Yardstick) -> PassTime:
        self._contradict_threads(timing.peak_processors)
        return PassTime(
            timing.wall_ratio * yardstick.wall_s * MS_PER_S,
            timing.cpu_ratio * yardstick.cpu_s * MS_PER_S,
            timing.peak_processors,
        )

    def _record(
        self,
        specimen: Specimen,
        workload: Workload,
        paper: PaperCost[float],
        timing: Timing,
        time: PassTime,
        figures: PowerFigures,
        yardstick: _Yardstick,
        anchor_now_s: float,
    ) -> ProfileRecord:
        # The anchor's ratio is one; all that is not known of it is the scale.
        own = 0.0 if specimen.subnet == yardstick.specimen.subnet else timing.known_to
        return make_record(
            self.spec,
            specimen,
            workload,
            paper,
            Cost(figures.energy_j, time.latency_ms, figures.peak_power_w),
            Cost(figures.origin, Origin.MEASURED, None if figures.peak_power_w is None else figures.origin),
            meter=self.power.name,
            source=_story(timing, own, yardstick, anchor_now_s, figures.note),
            n_repeats=timing.n_trials,
            latency_std_ms=timing.wall_std_ratio * yardstick.wall_s * MS_PER_S,
            mean_power_w=figures.mean_power_w,
            idle_power_w=figures.idle_power_w,
            energy_above_idle_j=figures.energy_above_idle_j,
            energy_std_j=figures.std_j,
            energy_known_to_pct=None if figures.known_to is None else 100.0 * figures.known_to,
            n_windows=figures.n_windows,
            cpu_time_ms=time.cpu_ms if math.isfinite(time.cpu_ms) else None,  # a clock may not count it
            sampling_period_ms=figures.sampling_period_ms,
            is_valid=not figures.problem,
            why_invalid=figures.problem,
            known_to_pct=100.0 * math.hypot(own, yardstick.known_to),
            n_invalid=timing.n_invalid,
            conditions=Conditions(meter_gap_pct=figures.meter_gap_pct),
            trials=timing.trials,
        )

    def _contradict_threads(self, processors: float) -> None:
        threads = self.spec.threads
        if threads is not None and processors > OVERUSE * threads:
            logger.warning(
                "Passes used %.1f processors, but %d threads are noted for this device; set both to the same number.",
                processors,
                threads,
            )


def _open(specimen: Specimen, workload: Workload) -> Run:
    if specimen.open is None:
        raise MeasurementError(
            f"Configuration {specimen.subnet.key} of {specimen.shape.model_id} comes without a model to run; this "
            "computer can only measure what it can run. Hand over a Specimen with `open`, or use a simulated device."
        )
    return specimen.open(workload)


def _story(timing: Timing, own: float, yardstick: _Yardstick, anchor_now_s: float, note: str) -> str:
    """How the number came about, for the record."""
    text = f"local protocol: {timing.n_trials} trials of {timing.passes_per_trial} passes, median known to {own:.1%}"
    if timing.is_cut_short:
        text += ", stopped at the time limit"
    if timing.n_invalid:
        text += f", {timing.n_invalid} invalid trials left out"
    return text + (
        f"; anchor {yardstick.specimen.subnet.key} took {anchor_now_s * MS_PER_S:.3g} ms, scale of "
        f"{yardstick.wall_s * MS_PER_S:.3g} ms known to {yardstick.known_to:.1%}" + (f"; {note}" if note else "")
    )
