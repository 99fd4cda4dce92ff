"""From a name to a device that can be asked."""

import logging
from pathlib import Path

from metas_peft.core.errors import MeterUnavailableError, UnknownNameError, UsageError, nearest
from metas_peft.core.records import DeviceSpec
from metas_peft.devices.base import Device, Ledger
from metas_peft.devices.entry import DeviceEntry
from metas_peft.devices.host import Host, describe_host
from metas_peft.devices.loading import catalogue, load_entry
from metas_peft.devices.local import LOCAL, LocalDevice
from metas_peft.devices.meters import NvmlCounter, NvmlPower, RaplCounter
from metas_peft.devices.power import MeteredPower, PowerSource, UtilisationModel
from metas_peft.devices.protocol import TimingRules
from metas_peft.devices.simulated import SimulatedDevice

logger = logging.getLogger(__name__)

CPU, CUDA = "pytorch_cpu", "pytorch_cuda"
METER, UTILISATION = "meter", "utilisation"
YAML_SUFFIXES = (".yaml", ".yml")


def open_device(
    name: str,
    *,
    ledger: Ledger | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    power_model: str | None = None,
    power_mode: str | None = None,
    is_sustained: bool = False,
    rules: TimingRules | None = None,
) -> Device:
    """Open a device by name.

    Args:
        name: `local` for this computer, a name or alias of the catalogue, or the path of a device file.
        ledger: Where measurements are counted; a new one if absent.
        runtime: Runtime of a simulated device; on `local` `pytorch_cpu` (default) or `pytorch_cuda`, which decides the
            meter.
        threads: Processor threads that passes on `local` use, for the record.
        power_model: On `local`: `meter` insists on a power meter, `utilisation` models power from processor time;
            absent, a meter is used where one works, else the model, which the log and every record say.
        power_mode: A power mode of a simulated device that has several.
        is_sustained: Whether a simulated phone has run for so long that it throttles.
        rules: When timing on `local` may stop.

    Raises:
        UnknownNameError: No device, runtime or mode of this name.
        DeviceFileError: The device file is not right.
        MeterUnavailableError: A meter was insisted on and there is none.
        UsageError: An option that this device does not have.
    """
    if name.lower() == LOCAL:
        if power_mode is not None or is_sustained:
            raise UsageError(
                "`power_mode` and `is_sustained` belong to simulated devices, not to `local`; leave them out."
            )
        return open_local(ledger=ledger, runtime=runtime, threads=threads, power_model=power_model, rules=rules)
    for option, value in (("threads", threads), ("power_model", power_model), ("rules", rules)):
        if value is not None:
            raise UsageError(f"`{option}` belongs to the device `local`; {name} is simulated. Leave it out.")
    entry = find_entry(name)
    if power_mode is not None:
        entry = entry.power_mode(power_mode)
    return SimulatedDevice(entry, runtime=runtime, ledger=ledger, is_sustained=is_sustained)


def find_entry(name: str) -> DeviceEntry:
    """An entry by name, alias or path of a device file.

    Raises:
        UnknownNameError: No such name.
        DeviceFileError: The file is not right.
    """
    if name.lower().endswith(YAML_SUFFIXES):
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
    power_model: str | None = None,
    rules: TimingRules | None = None,
    host: Host | None = None,
) -> LocalDevice:
    """Open this computer; see `open_device`."""
    runtime = runtime if runtime is not None else CPU
    if runtime not in (CPU, CUDA):
        raise UnknownNameError(f"`local` has no runtime {runtime!r}: {nearest(runtime, (CPU, CUDA))}")
    if power_model not in (None, METER, UTILISATION):
        raise UsageError(f"Unknown power_model {power_model!r}: {nearest(str(power_model), (METER, UTILISATION))}")
    host = host if host is not None else describe_host()
    power = _power_source(runtime, power_model, host)
    is_modelled = isinstance(power, UtilisationModel)
    spec = DeviceSpec(
        device_id=LOCAL,
        name=host.model_name,
        kind="cpu" if runtime == CPU else "gpu",
        runtime=runtime,
        peak_gflops=None,
        mem_bandwidth_gb_s=None,
        idle_power_w=host.idle_w if is_modelled else None,
        power_cap_w=host.limit_w if is_modelled else None,
        threads=threads,
    )
    return LocalDevice(spec, power, ledger=ledger, rules=rules)


def _power_source(runtime: str, power_model: str | None, host: Host) -> PowerSource:
    if runtime == CUDA:
        if power_model == UTILISATION:
            raise UsageError("Processor utilisation says nothing of an accelerator's power; use power_model=meter.")
        return MeteredPower(NvmlCounter.open(), NvmlPower.open())
    if power_model == UTILISATION:
        return UtilisationModel(host)
    try:
        counter = RaplCounter.open()
    except MeterUnavailableError as error:
        if power_model == METER:
            raise
        logger.warning("No power meter on this computer: energy and power are modelled, not measured. %s", error)
        return UtilisationModel(host)
    return MeteredPower(counter, counter.power())
