"""From a name to a device that can be asked."""

import logging
from collections.abc import Mapping
from pathlib import Path

from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeterUnavailableError, UnknownNameError, UsageError, nearest
from metas_peft.devices.base import Device, Ledger
from metas_peft.devices.conditions import open_probe
from metas_peft.devices.entry import DeviceEntry
from metas_peft.devices.host import Host, describe_host
from metas_peft.devices.loading import catalogue, load_entry
from metas_peft.devices.local import LOCAL, LocalDevice
from metas_peft.devices.meters import METERS, Meter, check_options, find_meter, open_first
from metas_peft.devices.meters.registry import CPU, CUDA, ONNX, ROCM
from metas_peft.devices.power import MeteredPower, PowerSource
from metas_peft.devices.protocol import TimingRules
from metas_peft.devices.simulated import SimulatedDevice
from metas_peft.devices.utilisation import UtilisationModel

logger = logging.getLogger(__name__)

RUNTIMES = (CPU, ONNX, CUDA, ROCM)
ON_ACCELERATOR = (CUDA, ROCM)
METER, MODELLED, EITHER = "meter", "modelled", "meter-or-modelled"
YAML_SUFFIXES = (".yaml", ".yml")


def open_device(
    name: str,
    *,
    ledger: Ledger | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    power: str | None = None,
    meter_options: Mapping[str, str] | None = None,
    power_mode: str | None = None,
    is_sustained: bool = False,
    rules: TimingRules | None = None,
) -> Device:
    """Open a device by name.

    Args:
        name: `local` for this computer, a name or alias of the catalogue, or the path of a device file.
        ledger: Where measurements are counted; a new one if absent.
        runtime: Runtime of a simulated device; on `local` `pytorch_cpu` (default), `onnxruntime_cpu`, `pytorch_cuda` or
            `pytorch_rocm`, which decides the meter.
        threads: Processor threads that passes on `local` use, for the record.
        power: Where energy and power on `local` come from: `meter` (the default) insists on a power meter, the name of
            a meter on that one; `modelled` computes them from processor time; `meter-or-modelled` takes a meter where
            one works, else the model, which the log and every record say.
        meter_options: What meters on `local` cannot know by themselves: `ina219.shunt_ohm` -> `0.01`.
        power_mode: A power mode of a simulated device that has several.
        is_sustained: Whether a simulated phone has run for so long that it throttles.
        rules: When timing on `local` may stop.

    Raises:
        UnknownNameError: No device, runtime or mode of this name.
        DeviceFileError: The device file is not right.
        MeterUnavailableError: A meter was insisted on and there is none.
        UsageError: An option that this device does not have, or a value of it that cannot be read.
    """
    if name.lower() == LOCAL:
        if power_mode is not None or is_sustained:
            raise UsageError(
                "`power_mode` and `is_sustained` belong to simulated devices, not to `local`; leave them out."
            )
        return open_local(
            ledger=ledger, runtime=runtime, threads=threads, power=power, meter_options=meter_options, rules=rules
        )
    own = {"threads": threads, "power": power, "meter_options": meter_options, "rules": rules}
    for option, value in own.items():
        if value is not None:
            raise UsageError(f"`{option}` belongs to the device `local`; {name} is simulated. Leave it out.")
    entry = find_entry(name)
    if power_mode is not None:
        entry = entry.power_mode(power_mode)
    return SimulatedDevice(entry, runtime=runtime, ledger=ledger, is_sustained=is_sustained)


def is_file(name: str) -> bool:
    """Whether a name is the path of a device file."""
    return name.lower().endswith(YAML_SUFFIXES)


def find_entry(name: str) -> DeviceEntry:
    """An entry by name, alias or path of a device file.

    Raises:
        UnknownNameError: No such name.
        DeviceFileError: The file is not right.
    """
    if is_file(name):
        return load_entry(Path(name))
    devices = catalogue()
    if name not in devices:
        raise UnknownNameError(f"Unknown device {name!r}: {nearest(name, [*devices, LOCAL])}")
    return devices[name]


def open_local(
    *,
    ledger: Ledger | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    power: str | None = None,
    meter_options: Mapping[str, str] | None = None,
    rules: TimingRules | None = None,
    host: Host | None = None,
) -> LocalDevice:
    """Open this computer; see `open_device`."""
    runtime = runtime if runtime is not None else CPU
    if runtime not in RUNTIMES:
        raise UnknownNameError(f"`local` has no runtime {runtime!r}: {nearest(runtime, RUNTIMES)}")
    power = power if power is not None else METER
    choices = (METER, MODELLED, EITHER, *(kind.name for kind in METERS))
    if power not in choices:
        raise UsageError(f"Unknown source of power {power!r}: {nearest(power, choices)}")
    host = host if host is not None else describe_host()
    options = dict(meter_options or {})
    check_options(options)
    for key in options:
        meter = key.split(".")[0]
        if meter != power:
            raise UsageError(f"The option {key} belongs to the meter {meter}; ask for it by name: --power {meter}.")
    source = _power_source(runtime, power, host, options)
    is_modelled = isinstance(source, UtilisationModel)
    spec = DeviceSpec(
        device_id=LOCAL,
        name=host.model_name,
        kind="gpu" if runtime in ON_ACCELERATOR else "cpu",
        runtime=runtime,
        peak_gflops=None,
        mem_bandwidth_gb_s=None,
        idle_power_w=host.idle_w if is_modelled else None,
        power_cap_w=host.limit_w if is_modelled else None,
        threads=threads,
    )
    probe = open_probe(is_nvidia=runtime == CUDA)
    return LocalDevice(spec, source, ledger=ledger, rules=rules, probe=probe)


def _power_source(runtime: str, power: str, host: Host, options: Mapping[str, str]) -> PowerSource:
    if power == MODELLED:
        if runtime in ON_ACCELERATOR:
            raise UsageError("Processor time says nothing of an accelerator's power; use power=meter.")
        return UtilisationModel(host)
    if power not in (METER, EITHER):
        return _metered(_named(power, runtime, options))
    try:
        return _metered(open_first(runtime, options))
    except MeterUnavailableError as error:
        if runtime in ON_ACCELERATOR:
            raise
        if power == METER:
            raise type(error)(
                f"{error} Or choose to have power modelled from processor time: power=modelled (--power modelled)."
            ) from error
        logger.warning("No power meter on this computer: energy and power are modelled, not measured. %s", error)
        return UtilisationModel(host)


def _named(name: str, runtime: str, options: Mapping[str, str]) -> Meter:
    kind = find_meter(name)
    if runtime not in kind.runtimes:
        reads = ", ".join(kind.runtimes) or "another device"
        raise UsageError(f"The meter {name} reads {reads}, not what {runtime} draws on this computer.")
    return kind.opened(options)


def _metered(meter: Meter) -> MeteredPower:
    return MeteredPower(meter.counter, meter.sampler)
