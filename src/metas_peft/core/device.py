"""What is known of a device before anything is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceSpec:
    """Facts of a device that its maker or a data sheet tells, before anything is measured.

    Attributes:
        device_id: Canonical name in the catalogue.
        name: Name for people.
        kind: e.g. `gpu`, `phone_soc`, `server_cpu`.
        runtime: Inference runtime that passes run on.
        peak_gflops: Peak rate at the precision the runtime computes in.
        mem_bandwidth_gb_s: Memory bandwidth, 1e9 bytes per second.
        idle_power_w: Power at rest.
        power_cap_w: Limit that no power may exceed; None if unknown.
        threads: Processor threads used, where that is a choice.
    """

    device_id: str
    name: str
    kind: str
    runtime: str
    peak_gflops: float | None
    mem_bandwidth_gb_s: float | None
    idle_power_w: float | None
    power_cap_w: float | None
    threads: int | None = None
