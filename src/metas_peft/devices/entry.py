"""One device of the catalogue: facts of its data sheet, its runtimes, and the numbers its simulator needs.

Every figure carries a mark that says how far to trust it; the runtimes carry a status in its place. Units are
in the names. Peaks are dense (no structured sparsity) and count a multiply-add as 2 FLOPs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import UnknownNameError, nearest
from metas_peft.core.registry import canonical
from metas_peft.core.units import GFLOPS_PER_TFLOPS

# Sequential kernels of one transformer layer, by the way a runtime executes it.
STYLE_KERNELS = {"fused": 7, "trtllm": 9, "graph": 10, "eager": 22, "llamacpp": 24}
# Styles whose attention writes its scores to memory; the others keep them on chip.
SCORE_WRITING_STYLES = frozenset({"eager", "graph"})


class Mark(StrEnum):
    """How a figure of the catalogue is known."""

    VENDOR = "vendor"  # the maker's figure, or a specification page that quotes it
    MEASURED = "measured"  # somebody measured and published it
    DERIVED = "derived"  # computed from such figures, or fitted to measurements
    ASSUMED = "assumed"  # nobody published it; the simulator needs a number


class Status(StrEnum):
    """How a runtime's parameters were found."""

    FITTED = "fitted"  # to several published timings of this device and runtime
    CALIBRATED = "calibrated"  # to one timing, which therefore checks nothing
    BORROWED = "borrowed"  # from a relative of the device
    ASSUMED = "assumed"

    @property
    def trust_factor(self) -> float:
        """Simulated latency is expected within this factor of the truth, either way."""
        return {"fitted": 1.35, "calibrated": 1.35, "borrowed": 2.0, "assumed": 3.0}[self.value]


@dataclass(frozen=True)
class Rate:
    """An arithmetic unit: what it can do at best and what an operation costs.

    Attributes:
        peak_tflops: Peak rate, 1e12 operations per second.
        pj_per_flop: Dynamic energy of one operation.
    """

    peak_tflops: float
    pj_per_flop: float


@dataclass(frozen=True)
class Precision:
    """A number format in which a runtime computes.

    Attributes:
        bits: Width of a weight in this format.
        rate: Name of the `Rate` it runs on (formats of 4 and 8 bits may be unpacked to a wider one).
        compute_efficiency: Fraction of the peak that large products reach.
        batch1_compute_efficiency: The same for a batch of one, where it differs.
    """

    bits: int
    rate: str
    compute_efficiency: float
    batch1_compute_efficiency: float | None = None

    def efficiency(self, batch_size: int) -> float:
        """Fraction of the peak reached at a batch size."""
        single = self.batch1_compute_efficiency
        return single if single is not None and batch_size == 1 else self.compute_efficiency


@dataclass(frozen=True)
class Runtime:
    """An inference runtime on a device.

    Attributes:
        name: e.g. `tensorrt`.
        style: How it executes a layer, a key of `STYLE_KERNELS`.
        memory_efficiency: Fraction of the memory bandwidth that is reached.
        op_overhead_us: Time of a kernel apart from its work.
        precisions: Formats it computes in, by name.
        status: How the parameters were found.
        calibration: What they were fitted to, in words.
        attention_efficiency_factor: Further factor on the compute efficiency of attention.
        call_overhead_us: Time of a whole call apart from its kernels.
        flop_energy_factor: Further factor on the energy of an operation.
        kv_bits: Width of cached keys and values; that of activations where it is not said.
        stored_bits: Bits a weight takes in memory with its scales, by `param_bits`, where that is not the same.
    """

    name: str
    style: str
    memory_efficiency: float
    op_overhead_us: float
    precisions: Mapping[str, Precision]
    status: Status
    calibration: str
    attention_efficiency_factor: float = 1.0
    call_overhead_us: float = 0.0
    flop_energy_factor: float = 1.0
    kv_bits: int | None = None
    stored_bits: Mapping[int, float] = field(default_factory=dict[int, float])

    def with_efficiency(self, efficiency: Mapping[str, float]) -> "Runtime":
        """The same runtime with other compute efficiencies, for a batch of one as well, by precision."""
        precisions = {
            label: p
            if label not in efficiency
            else dataclasses.replace(p, compute_efficiency=efficiency[label], batch1_compute_efficiency=None)
            for label, p in self.precisions.items()
        }
        return dataclasses.replace(self, precisions=precisions)

    def precision_for(self, param_bits: int) -> Precision:
        """The narrowest format at least as wide as the weights, else the widest there is.

        Of several formats of one width the first listed is taken.
        """
        formats = list(self.precisions.values())
        wide_enough = [p for p in formats if p.bits >= param_bits]
        return min(wide_enough, key=lambda p: p.bits) if wide_enough else max(formats, key=lambda p: p.bits)


@dataclass(frozen=True)
class PowerMode:
    """A setting of clocks and power limit.

    Attributes:
        cap_w: Power limit.
        clock_scale: Peak rate as a fraction of the full one.
    """

    cap_w: float
    clock_scale: float


@dataclass(frozen=True)
class Thermal:
    """What happens to a device without a fan.

    Attributes:
        throttle_after_s: Seconds of full load after which it slows down.
        sustained_throughput_fraction: Rate from then on.
        sustained_cap_w: Power limit from then on.
    """

    throttle_after_s: float
    sustained_throughput_fraction: float
    sustained_cap_w: float | None


@dataclass(frozen=True)
class Sensor:
    """The power sensor that a measurement on the real device would read.

    Attributes:
        name: Interface.
        window_ms: Length of time over which one reading averages; a peak is the highest such reading.
        bias_sigma: Spread over copies of the sensor of the logarithm of its gain error.
    """

    name: str
    window_ms: float
    bias_sigma: float


@dataclass(frozen=True)
class PassNoise:
    """Standard deviation of the logarithm of a single pass, per metric."""

    latency_sigma: float
    energy_sigma: float
    peak_power_sigma: float


@dataclass(frozen=True)
class Variant:
    """Another memory under the same name, or a relative: another device that parameters were fitted on.

    Attributes:
        bandwidth_gb_per_s: Memory bandwidth.
        size_gb: Memory.
        idle_w: Power at rest, where it differs.
        cap_w: Power limit, where it differs.
        peak_tflops: Peak of the rates that differ.
        efficiency: Compute efficiency of the precisions that differ.
        is_relative: Whether it is another device.
    """

    bandwidth_gb_per_s: float
    size_gb: float
    idle_w: float | None = None
    cap_w: float | None = None
    peak_tflops: Mapping[str, float] = field(default_factory=dict[str, float])
    efficiency: Mapping[str, float] = field(default_factory=dict[str, float])
    is_relative: bool = False


@dataclass(frozen=True)
class PublishedPoint:
    """A measurement that somebody published, for checking the simulator.

    Attributes:
        model: Name of the model.
        runtime: Runtime of the catalogue entry that it belongs to.
        phase: `prefill`, `decode`, or `generate`: a prompt of `seq_len` tokens and `output_len` new ones.
        batch_size: Sequences.
        seq_len: Tokens per sequence that pass through the model.
        context_len: Tokens in the cache before.
        param_bits: Storage width of weights.
        source: Who published it.
        latency_ms: Time of one pass.
        tokens_per_s: New tokens of all sequences per second (`generate`).
        mean_power_w: Mean power.
        peak_power_w: Peak power.
        energy_j: Energy of one pass.
        output_len: New tokens per sequence (`generate`).
        variant: Name of the variant it was run on, if not the default.
        is_exception: Whether the simulator is known to miss it by more than the status allows.
        is_held_out: Whether nothing was fitted to it.
        why_not: Why it is listed but not simulated.
    """

    model: str
    runtime: str
    phase: str
    batch_size: int
    seq_len: int
    context_len: int
    param_bits: int
    latency_ms: float | None
    source: str
    variant: str | None = None
    is_exception: bool = False
    tokens_per_s: float | None = None
    mean_power_w: float | None = None
    peak_power_w: float | None = None
    energy_j: float | None = None
    output_len: int = 0
    is_held_out: bool = False
    why_not: str = ""


@dataclass(frozen=True)
class DeviceEntry:
    """A device as its file describes it. `marks` maps the dotted path of each figure to its mark."""

    device_id: str
    name: str
    kind: str
    aliases: tuple[str, ...]
    default_runtime: str
    rates: Mapping[str, Rate]
    bandwidth_gb_per_s: float
    size_gb: float
    pj_per_byte: float
    idle_w: float
    floor_w: float
    cap_w: float
    power_boundary: str
    sensor: Sensor
    noise: PassNoise
    runtimes: Mapping[str, Runtime]
    marks: Mapping[str, Mark]
    remarks: Mapping[str, str]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    other_runtimes: tuple[str, ...] = ()
    caches_mb: Mapping[str, float] = field(default_factory=dict[str, float])
    power_modes: Mapping[str, PowerMode] = field(default_factory=dict[str, PowerMode])
    variants: Mapping[str, Variant] = field(default_factory=dict[str, Variant])
    thermal: Thermal | None = None
    published: tuple[PublishedPoint, ...] = ()

    def figures(self) -> dict[str, Any]:
        """The numbers that passes are computed with, those of the runtime apart."""
        names = ("rates", "bandwidth_gb_per_s", "size_gb", "pj_per_byte", "idle_w", "floor_w", "cap_w", "sensor",
                 "noise", "caches_mb", "thermal")  # fmt: skip
        whole = dataclasses.asdict(self)
        return {name: whole[name] for name in names}

    def runtime(self, name: str | None = None) -> Runtime:
        """A runtime by name, or the default one.

        Raises:
            UnknownNameError: The device has no such runtime.
        """
        by_spelling = {canonical(n): r for n, r in self.runtimes.items()}
        try:
            return by_spelling[canonical(name if name is not None else self.default_runtime)]
        except KeyError:
            raise UnknownNameError(
                f"{self.device_id} has no simulated runtime {name!r}: {nearest(str(name), self.runtimes)}"
            ) from None

    def variant(self, name: str) -> "DeviceEntry":
        """The same device with another memory, or a relative of it."""
        if name not in self.variants:
            raise UnknownNameError(f"{self.device_id} has no variant {name!r}: {nearest(name, self.variants)}")
        variant = self.variants[name]
        rates = {n: dataclasses.replace(r, peak_tflops=variant.peak_tflops.get(n, r.peak_tflops))
                 for n, r in self.rates.items()}  # fmt: skip
        return dataclasses.replace(
            self,
            bandwidth_gb_per_s=variant.bandwidth_gb_per_s,
            size_gb=variant.size_gb,
            idle_w=self.idle_w if variant.idle_w is None else variant.idle_w,
            cap_w=self.cap_w if variant.cap_w is None else variant.cap_w,
            rates=rates,
            runtimes={n: r.with_efficiency(variant.efficiency) for n, r in self.runtimes.items()},
        )

    def power_mode(self, name: str) -> "DeviceEntry":
        """The same device in another power mode: limit and clocks changed."""
        if name not in self.power_modes:
            raise UnknownNameError(f"{self.device_id} has no power mode {name!r}: {nearest(name, self.power_modes)}")
        mode = self.power_modes[name]
        rates = {n: Rate(r.peak_tflops * mode.clock_scale, r.pj_per_flop) for n, r in self.rates.items()}
        return dataclasses.replace(self, cap_w=mode.cap_w, rates=rates)

    def spec(self, runtime: str | None = None, param_bits: int = 32) -> DeviceSpec:
        """What a data sheet tells; the peak is that of the format used for weights of `param_bits`."""
        chosen = self.runtime(runtime)
        rate = self.rates[chosen.precision_for(param_bits).rate]
        return DeviceSpec(
            device_id=self.device_id,
            name=self.name,
            kind=self.kind,
            runtime=chosen.name,
            peak_gflops=rate.peak_tflops * GFLOPS_PER_TFLOPS,
            mem_bandwidth_gb_s=self.bandwidth_gb_per_s,
            idle_power_w=self.idle_w,
            power_cap_w=self.cap_w,
        )

    def assumptions(self) -> tuple[str, ...]:
        """Paths of the figures that nobody published."""
        return tuple(path for path, mark in self.marks.items() if mark is Mark.ASSUMED)
