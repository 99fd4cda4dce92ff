"""From a device file to a `DeviceEntry`; the shipped files are the catalogue, a user's own file adds one.

The shipped files in `catalogue/` are the reference for the format; `intel-ncs2.yaml` is the shortest.
"""

import dataclasses
import functools
from importlib import resources
from pathlib import Path

from metas_peft.core.errors import DeviceFileError, nearest
from metas_peft.core.registry import Registry
from metas_peft.devices.entry import (
    STYLE_KERNELS,
    DeviceEntry,
    PassNoise,
    PowerMode,
    Precision,
    PublishedPoint,
    Rate,
    Runtime,
    Sensor,
    Status,
    Thermal,
    Variant,
)
from metas_peft.devices.reading import Section, read_yaml

TINY = 1e-9  # lower bound of what must be positive


@functools.cache
def catalogue() -> Registry[DeviceEntry]:
    """The devices that ship with the package, by name and alias; read once per process."""
    registry: Registry[DeviceEntry] = Registry("device")
    folder = resources.files("metas_peft.devices") / "catalogue"
    with resources.as_file(folder) as path:
        for file in sorted(path.glob("*.yaml")):
            entry = load_entry(file)
            registry.add(entry.device_id, entry, entry.aliases)
    return registry


def load_entry(path: Path) -> DeviceEntry:
    """Read and check one device file.

    Raises:
        DeviceFileError: The file cannot be read, or a key is missing, unknown or out of range.
    """
    top = Section(read_yaml(path), "", path.name)
    memory, power = top.section("memory"), top.section("power")
    thermal = top.optional("thermal")
    caches = top.optional("caches_mb")
    entry = DeviceEntry(
        device_id=top.text("id"),
        name=top.text("name"),
        kind=top.text("kind"),
        aliases=top.texts("aliases"),
        default_runtime=top.text("default_runtime"),
        rates={name: _rate(section) for name, section in top.sections("rates")},
        bandwidth_gb_per_s=memory.figure("bandwidth_gb_per_s", low=TINY),
        size_gb=memory.figure("size_gb", low=TINY),
        pj_per_byte=memory.figure("pj_per_byte"),
        idle_w=power.figure("idle_w"),
        floor_w=power.figure("floor_w"),
        cap_w=power.figure("cap_w", low=TINY),
        power_boundary=power.text("boundary"),
        sensor=_sensor(top.section("sensor")),
        noise=_noise(top.section("pass_noise")),
        runtimes={name: _runtime(name, section) for name, section in top.sections("runtimes")},
        marks=top.marks,
        remarks=top.remarks,
        sources=top.texts("sources"),
        notes=top.texts("notes"),
        other_runtimes=top.texts("other_runtimes"),
        caches_mb={} if caches is None else {name: caches.figure(name) for name in caches.keys()},
        power_modes={name: _power_mode(section) for name, section in top.sections("power_modes", required=False)},
        variants={name: _variant(section) for name, section in top.sections("variants", required=False)},
        thermal=None if thermal is None else _thermal(thermal),
        published=tuple(_point(row) for row in top.rows("published")),
    )
    for section in (memory, power, top):
        section.done()
    _check_references(entry, path.name)
    return entry


def _rate(section: Section) -> Rate:
    rate = Rate(section.figure("peak_tflops", low=TINY), section.figure("pj_per_flop"))
    section.done()
    return rate


def _sensor(section: Section) -> Sensor:
    sensor = Sensor(section.text("name"), section.figure("window_ms", low=TINY), section.figure("bias_sigma", high=0.5))
    section.done()
    return sensor


def _noise(section: Section) -> PassNoise:
    noise = PassNoise(**{f.name: section.figure(f.name, high=1.0) for f in dataclasses.fields(PassNoise)})
    section.done()
    return noise


def _power_mode(section: Section) -> PowerMode:
    mode = PowerMode(section.figure("cap_w", low=TINY), section.figure("clock_scale", low=TINY, high=1.0))
    section.done()
    return mode


def _variant(section: Section) -> Variant:
    peaks, efficiency = section.optional("peak_tflops"), section.optional("efficiency")
    variant = Variant(
        bandwidth_gb_per_s=section.figure("bandwidth_gb_per_s", low=TINY),
        size_gb=section.figure("size_gb", low=TINY),
        idle_w=section.figure("idle_w") if "idle_w" in section.keys() else None,
        cap_w=section.figure("cap_w", low=TINY) if "cap_w" in section.keys() else None,
        peak_tflops={} if peaks is None else {n: peaks.figure(n, low=TINY) for n in peaks.keys()},
        efficiency={}
        if efficiency is None
        else {n: efficiency.figure(n, low=TINY, high=1.0) for n in efficiency.keys()},
        is_relative=section.flag("is_relative", False),
    )
    section.done()
    return variant


def _thermal(section: Section) -> Thermal:
    cap = section.figure("sustained_cap_w", low=TINY) if "sustained_cap_w" in section.keys() else None
    thermal = Thermal(
        section.figure("throttle_after_s", low=TINY),
        section.figure("sustained_throughput_fraction", low=TINY, high=1.0),
        cap,
    )
    section.done()
    return thermal


def _runtime(name: str, section: Section) -> Runtime:
    style = section.text("style")
    if style not in STYLE_KERNELS:
        raise section.wrong("style", f"a known style; {nearest(style, STYLE_KERNELS)}")
    status = section.text("status")
    if status not in list(Status):
        raise section.wrong("status", f"a known status; {nearest(status, [s.value for s in Status])}")
    stored = section.optional("stored_bits")
    if stored is not None:
        for label in stored.keys():
            if not str(label).isdecimal():
                raise stored.wrong(label, "a number of bits as the key, such as {4: 4.5}")
    runtime = Runtime(
        name=name,
        style=style,
        memory_efficiency=section.number("memory_efficiency", low=TINY, high=1.0),
        op_overhead_us=section.number("op_overhead_us"),
        precisions={label: _precision(below) for label, below in section.sections("precisions")},
        status=Status(status),
        calibration=section.text("calibration"),
        attention_efficiency_factor=section.number("attention_efficiency_factor", 1.0, low=TINY),
        call_overhead_us=section.number("call_overhead_us", 0.0),
        flop_energy_factor=section.number("flop_energy_factor", 1.0, low=TINY),
        kv_bits=section.integer("kv_bits", low=1) if "kv_bits" in section.keys() else None,
        stored_bits={} if stored is None else {int(k): stored.number(k, low=TINY) for k in stored.keys()},
    )
    section.done()
    return runtime


def _precision(section: Section) -> Precision:
    single = section.number("batch1_compute_efficiency", 0.0, high=1.0)
    precision = Precision(
        bits=section.integer("bits", low=1),
        rate=section.text("rate"),
        compute_efficiency=section.number("compute_efficiency", low=TINY, high=1.0),
        batch1_compute_efficiency=single or None,
    )
    section.done()
    return precision


def _point(section: Section) -> PublishedPoint:
    point = PublishedPoint(
        model=section.text("model"),
        runtime=section.text("runtime"),
        phase=section.text("phase"),
        batch_size=section.integer("batch_size", low=1),
        seq_len=section.integer("seq_len", low=1),
        context_len=section.integer("context_len", 0),
        param_bits=section.integer("param_bits", low=1),
        latency_ms=_optional(section, "latency_ms"),
        source=section.text("source"),
        variant=section.text("variant") if "variant" in section.keys() else None,
        is_exception=section.flag("is_exception", False),
        tokens_per_s=_optional(section, "tokens_per_s"),
        mean_power_w=_optional(section, "mean_power_w"),
        peak_power_w=_optional(section, "peak_power_w"),
        energy_j=_optional(section, "energy_j"),
        output_len=section.integer("output_len", 0),
        is_held_out=section.flag("is_held_out", False),
        why_not=section.text("why_not") if "why_not" in section.keys() else "",
    )
    if point.phase not in ("prefill", "decode", "generate"):
        raise section.wrong("phase", "prefill, decode or generate")
    if point.phase == "generate" and not (point.output_len and point.tokens_per_s):
        raise section.wrong("output_len", "a number of new tokens, and tokens_per_s, for the phase generate")
    if point.phase != "generate" and point.latency_ms is None and not point.why_not:
        raise section.wrong("latency_ms", "a time, or why_not")
    section.done()
    return point


def _optional(section: Section, key: str) -> float | None:
    return section.number(key, low=TINY) if key in section.keys() else None


def _check_references(entry: DeviceEntry, file: str) -> None:
    """Names that point elsewhere in the file, and figures that must fit each other."""
    if entry.default_runtime not in entry.runtimes:
        raise DeviceFileError(
            f"{file}: default_runtime {entry.default_runtime!r} is not among the runtimes; "
            f"{nearest(entry.default_runtime, entry.runtimes)}"
        )
    for runtime in entry.runtimes.values():
        for label, precision in runtime.precisions.items():
            if precision.rate not in entry.rates:
                raise DeviceFileError(
                    f"{file}: runtimes.{runtime.name}.precisions.{label}.rate {precision.rate!r} is not among the "
                    f"rates; {nearest(precision.rate, entry.rates)}"
                )
    if entry.idle_w + entry.floor_w >= entry.cap_w:
        raise DeviceFileError(
            f"{file}: power.idle_w + power.floor_w = {entry.idle_w + entry.floor_w:g} W is not below power.cap_w = "
            f"{entry.cap_w:g} W; expected room for the work itself."
        )
    for name, variant in entry.variants.items():
        for rate in variant.peak_tflops:
            if rate not in entry.rates:
                raise DeviceFileError(
                    f"{file}: variants.{name}.peak_tflops.{rate} is not among the rates; {nearest(rate, entry.rates)}"
                )
    for point in entry.published:
        if point.runtime not in entry.runtimes or (point.variant is not None and point.variant not in entry.variants):
            raise DeviceFileError(
                f"{file}: a published point names runtime {point.runtime!r} and variant {point.variant!r}; "
                f"{nearest(point.runtime, entry.runtimes)}"
            )
