"""Devices that are computed: latency, energy and peak power of a pass from a catalogue entry.

For each product i of the pass, with f_i operations and b_i bytes (weights, activations, cached keys and values; the
attention's scores too, where the runtime writes them):

    t_i = max(f_i / (efficiency * s * peak), b_i / (efficiency_mem * bandwidth))      a roofline per product
    T   = sum t_i + kernels * t_kernel + t_call                                       times 10 when memory overflows
    P   = P_idle + P_floor + (pJ_flop * s^1.4 * sum f_i + pJ_byte * sum b_i) / T      mean power; energy = P * T
    P_i = P_idle + P_floor + (pJ_flop * s^1.4 * f_i + pJ_byte * b_i) / t_i            while product i runs
    peak = P + max_i (P_i - P) * min(1, t_i / w)                                      seen through a sensor of window w

s in [0.3, 1] is the clock: 1 if P stays below the device's cap, else the clock at which P meets the cap (an operation
takes s^1.4 of the energy then, so compute power falls with s^2.4). What is still above the cap at the lowest clock is
cut off there. The truth includes the fixed gain error of the device's sensor (see `noise`): it is what a
noise-free reading would show, and what budgets are checked against.

Equations and parameters are the catalogue's; accuracy against published timings is part of the tests.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeasurementError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.units import BITS_PER_BYTE, BYTES_PER_GB, FLOPS_PER_TFLOPS, J_PER_PJ, MS_PER_S, S_PER_MS, S_PER_US
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, kernels, layer_ops, outer_op, paper_cost
from metas_peft.costs.paper import OUTER_KERNELS, act_value_bytes
from metas_peft.devices.base import Device, Ledger, Purpose, Specimen, by_shape, make_record, stacked_papers
from metas_peft.devices.entry import SCORE_WRITING_STYLES, STYLE_KERNELS, DeviceEntry, Runtime, Status
from metas_peft.devices.noise import PASSES_PER_RUN, repeat_factors, repeat_noise, seed_of, sensor_bias

Array = np.ndarray

LOWEST_CLOCK = 0.3
ENERGY_EXPONENT = 1.4  # of the clock, per operation; power then goes with clock^2.4
SWAP_FACTOR = 10.0  # a 7B model that does not fit a 4 GB board took about ten times as long
USABLE_MEMORY = 0.9  # assumption: the system keeps a tenth
BISECTIONS = 30


@dataclass(frozen=True)
class Simulation:
    """Noise-free result of simulated passes; every array has the shape of the counts without their last axis.

    Attributes:
        latency_ms: Time of a pass.
        mean_power_w: Energy by time.
        peak_power_w: Highest reading of the sensor.
        clock: Clock as a fraction of the full one; below 1 the power cap was met.
        is_swapping: Whether the working set exceeds the memory.
    """

    latency_ms: Array
    mean_power_w: Array
    peak_power_w: Array
    clock: Array
    is_swapping: Array

    @property
    def energy_j(self) -> Array:
        """Energy of a pass: mean power times latency."""
        return self.mean_power_w * self.latency_ms * S_PER_MS


@dataclass(frozen=True)
class _Pass:
    """The products of a pass in physical units, each of shape (..., n), at full clock."""

    compute_s: Array
    memory_s: Array
    flop_j: Array
    byte_j: Array
    fixed_s: Array  # (...): kernels and call
    slowdown: Array  # (...): of everything

    def product_s(self, clock: Array) -> Array:
        """Time of each product."""
        return np.maximum(self.compute_s / clock[..., None], self.memory_s) * self.slowdown[..., None]

    def total_s(self, clock: Array) -> Array:
        """Time of the pass."""
        return self.product_s(clock).sum(-1) + self.fixed_s * self.slowdown

    def product_j(self, clock: Array) -> Array:
        """Dynamic energy of each product."""
        return self.flop_j * clock[..., None] ** ENERGY_EXPONENT + self.byte_j


def simulate(
    entry: DeviceEntry, runtime: Runtime, shape: BackboneShape, counts: Counts[Array], workload: Workload
) -> Simulation:
    """Noise-free costs of passes, without the sensor's gain error.

    Args:
        entry: The device.
        runtime: One of its runtimes.
        shape: The backbone.
        counts: Kept counts, arrays of shape (..., L).
        workload: What one pass processes.
    """
    work, is_swapping = _work(entry, runtime, shape, counts, workload)
    base_w = entry.idle_w + entry.floor_w
    clock = _clock_within_cap(work, base_w, entry.cap_w)
    total_s = work.total_s(clock)
    mean_w = np.minimum(base_w + work.product_j(clock).sum(-1) / total_s, entry.cap_w)
    product_s = work.product_s(clock)
    local_w = base_w + work.product_j(clock) / np.where(product_s > 0, product_s, np.inf)
    seen = np.minimum(1.0, product_s * MS_PER_S / entry.sensor.window_ms)
    excess_w = ((local_w - mean_w[..., None]) * seen).max(-1).clip(0.0)
    return Simulation(total_s * MS_PER_S, mean_w, np.minimum(mean_w + excess_w, entry.cap_w), clock, is_swapping)


def _work(
    entry: DeviceEntry, runtime: Runtime, shape: BackboneShape, counts: Counts[Array], workload: Workload
) -> tuple[_Pass, Array]:
    precision = runtime.precision_for(workload.param_bits)
    rate = entry.rates[precision.rate]
    ops = [*layer_ops(shape, counts, workload), outer_op(shape, counts, workload)]

    def column(field: str) -> Array:
        return np.concatenate([getattr(op, field) for op in ops], axis=-1)

    stored = runtime.stored_bits.get(workload.param_bits, float(workload.param_bits)) / workload.param_bits
    kv_share = 1.0 if runtime.kv_bits is None else runtime.kv_bits / BITS_PER_BYTE / act_value_bytes(workload)
    flops, kv_bytes = column("flops"), column("kv_bytes") * kv_share
    act_bytes = column("act_bytes") + (column("score_bytes") if runtime.style in SCORE_WRITING_STYLES else 0.0)
    moved = column("weight_bytes") * stored + act_bytes + kv_bytes
    factor = {"attention": runtime.attention_efficiency_factor}
    efficiency = precision.efficiency(workload.batch_size) * np.concatenate(
        [np.full(op.flops.shape[-1], factor.get(op.name, 1.0)) for op in ops]
    )
    launches = kernels(counts, STYLE_KERNELS[runtime.style], workload.adapter == "separate") + OUTER_KERNELS
    weights = paper_cost(shape, counts, workload).weight_bytes * stored
    working_set = weights + kv_bytes.sum(-1) + act_bytes.max(-1)
    is_swapping = working_set > USABLE_MEMORY * entry.size_gb * BYTES_PER_GB
    work = _Pass(
        compute_s=flops / (efficiency * rate.peak_tflops * FLOPS_PER_TFLOPS),
        memory_s=moved / (runtime.memory_efficiency * entry.bandwidth_gb_per_s * BYTES_PER_GB),
        flop_j=flops * rate.pj_per_flop * runtime.flop_energy_factor * J_PER_PJ,
        byte_j=moved * entry.pj_per_byte * J_PER_PJ,
        fixed_s=(launches * runtime.op_overhead_us + runtime.call_overhead_us) * S_PER_US,
        slowdown=np.where(is_swapping, SWAP_FACTOR, 1.0),
    )
    return work, is_swapping


def _clock_within_cap(work: _Pass, base_w: float, cap_w: float) -> Array:
    """The highest clock in [0.3, 1] at which the mean power stays within the cap, by bisection."""

    def power(clock: Array) -> Array:
        return base_w + work.product_j(clock).sum(-1) / work.total_s(clock)

    high = np.ones_like(work.fixed_s)
    is_free = power(high) <= cap_w
    low = np.full_like(high, LOWEST_CLOCK)
    upper = high.copy()
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + upper)
        is_within = power(middle) <= cap_w
        low, upper = np.where(is_within, middle, low), np.where(is_within, upper, middle)
    return np.where(is_free, high, low)


class SimulatedDevice(Device):
    """A device of the catalogue, computed.

    Args:
        entry: The device.
        runtime: Name of one of its runtimes; the default one if absent.
        ledger: Where measurements are counted.
        is_sustained: Whether passes run for so long that the device has throttled (phones): slower by the entry's
            sustained fraction, under its sustained limit. Otherwise passes are bursts.
    """

    def __init__(
        self,
        entry: DeviceEntry,
        *,
        runtime: str | None = None,
        ledger: Ledger | None = None,
        is_sustained: bool = False,
    ) -> None:
        self._rate_fraction = 1.0
        self._condition = "burst" if entry.thermal is not None else ""
        self._burst = entry
        if is_sustained and entry.thermal is not None:
            self._rate_fraction = entry.thermal.sustained_throughput_fraction
            self._condition = "sustained"
            limit = entry.thermal.sustained_cap_w
            entry = dataclasses.replace(entry, cap_w=min(entry.cap_w, limit) if limit is not None else entry.cap_w)
        super().__init__(entry.spec(runtime), ledger)
        self.entry = entry
        self.runtime = entry.runtime(runtime)
        self.bias = sensor_bias(entry.device_id, entry.sensor.bias_sigma)
        self._noise = repeat_noise(entry.noise)

    @property
    def identity(self) -> str:
        """A digest of the figures that it computes with."""
        runtime = dataclasses.replace(self.runtime, calibration="", status=Status.ASSUMED)
        parts = (self.entry.figures(), dataclasses.asdict(runtime), self._condition)
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def spec_for(self, workload: Workload) -> DeviceSpec:
        """Facts of the device with the peak rate of the format that this workload's weights are computed in."""
        return self.entry.spec(self.runtime.name, workload.param_bits)

    def simulate(self, shape: BackboneShape, counts: Counts[Array], workload: Workload) -> Simulation:
        """Noise-free readings: with the sensor's gain error, within the cap. Not counted as measurements."""
        raw = simulate(self.entry, self.runtime, shape, counts, workload)
        if self._rate_fraction < 1.0:
            raw = self._throttled(raw, simulate(self._burst, self.runtime, shape, counts, workload))
        cap_w = self.entry.cap_w
        mean_w = np.minimum(raw.mean_power_w * self.bias, cap_w)
        peak_w = np.minimum(raw.peak_power_w * self.bias, cap_w)
        return dataclasses.replace(raw, mean_power_w=mean_w, peak_power_w=peak_w)

    def _throttled(self, capped: Simulation, burst: Simulation) -> Simulation:
        """A hot device: as slow as its sustained fraction of a burst, or as its lower cap makes it, if that is slower.

        The work of a pass takes the energy that it takes in a burst; it is spread over more time.
        """
        base_w = self.entry.idle_w + self.entry.floor_w
        latency_ms = np.maximum(burst.latency_ms / self._rate_fraction, capped.latency_ms)
        is_capped = capped.latency_ms >= latency_ms
        slowing = burst.latency_ms / latency_ms
        mean_w = np.where(is_capped, capped.mean_power_w, base_w + (burst.mean_power_w - base_w) * slowing)
        peak_w = np.where(is_capped, capped.peak_power_w, base_w + (burst.peak_power_w - base_w) * slowing)
        return Simulation(latency_ms, mean_w, np.maximum(peak_w, mean_w), capped.clock, capped.is_swapping)

    def truth_counts(self, shape: BackboneShape, counts: Counts[Array], workload: Workload) -> Cost[Array]:
        """Noise-free costs for counts that may be batched or fractional.

        Args:
            shape: The backbone.
            counts: Kept counts, arrays of shape (..., L).
            workload: What one pass processes.

        Returns:
            Energy, latency and peak power, arrays of shape (...).
        """
        result = self.simulate(shape, counts, workload)
        return Cost(result.energy_j, result.latency_ms, result.peak_power_w)

    def truth(self, specimens: Sequence[Specimen], workload: Workload) -> list[Cost[float]]:
        """Noise-free costs for scoring, in order. Not a measurement: the ledger does not count it."""
        costs: dict[int, Cost[float]] = {}
        for shape, indices in by_shape(specimens):
            counts = Counts.stack([specimens[i].subnet for i in indices], shape)
            whole = self.truth_counts(shape, counts, workload)
            for row, index in enumerate(indices):
                costs[index] = whole.map(lambda values, row=row: float(values[row]))
        return [costs[i] for i in range(len(specimens))]

    def _measure(
        self, specimens: Sequence[Specimen], workload: Workload, purpose: Purpose, seed: int
    ) -> list[ProfileRecord]:
        spec = self.spec_for(workload)
        papers = stacked_papers(specimens, workload)
        records: dict[int, ProfileRecord] = {}
        for shape, indices in by_shape(specimens):
            counts = Counts.stack([specimens[i].subnet for i in indices], shape)
            result = self.simulate(shape, counts, workload)
            if not np.isfinite(result.energy_j).all():
                raise MeasurementError(
                    f"{spec.device_id} simulated an energy that is not finite for {shape.model_id}; check its sizes."
                )
            for row, index in enumerate(indices):
                specimen = specimens[index]
                parts = (spec.device_id, spec.runtime, shape.model_id, workload, specimen.subnet.key, purpose, seed)
                factors = repeat_factors(self._noise, seed_of(*parts))
                latency_ms = float(result.latency_ms[row]) * factors.latency_ms
                # The noise of the mean power is what energy and latency do not share. A regulator holds the cap by
                # the same sensor, so no reading exceeds it, and a maximum is never below the mean.
                mean_w = float(result.mean_power_w[row]) * factors.energy_j / factors.latency_ms
                # Peak noise is on what stands out above the mean: the maximum of two independent readings would be too
                # high on average.
                excess_w = float(result.peak_power_w[row] - result.mean_power_w[row]) * factors.peak_power_w
                peak_w = min(mean_w + excess_w, self.entry.cap_w)
                mean_w = min(mean_w, self.entry.cap_w)
                energy_j = mean_w * latency_ms * S_PER_MS
                records[index] = make_record(
                    spec,
                    specimen,
                    workload,
                    papers[index],
                    Cost(energy_j, latency_ms, peak_w),
                    Cost[Origin | None].uniform(Origin.SIMULATED),
                    meter=f"simulated {self.entry.sensor.name}",
                    source=self._source(bool(result.is_swapping[row]), float(result.clock[row])),
                    n_repeats=PASSES_PER_RUN,
                    latency_std_ms=latency_ms * self.entry.noise.latency_sigma,
                    mean_power_w=mean_w,
                    idle_power_w=self.entry.idle_w * self.bias,
                    energy_above_idle_j=energy_j - self.entry.idle_w * self.bias * latency_ms * S_PER_MS,
                    sampling_period_ms=self.entry.sensor.window_ms,
                )
        return [records[i] for i in range(len(specimens))]

    def _source(self, is_swapping: bool, clock: float) -> str:
        remarks = [
            self._condition,
            "working set exceeds memory" if is_swapping else "",
            f"clock at {clock:.0%} to stay within the cap" if clock < 1.0 else "",
        ]
        return "; ".join(["device simulator", *(r for r in remarks if r)])
