import logging

import pytest

from metas_peft.core.errors import UnknownNameError
from metas_peft.devices import POOLS, catalogue, resolve_pool
from metas_peft.devices.host import describe_host

SOURCES_SIX = ["RTX-A6000", "Jetson-Orin-NX", "MacBook-M2", "iPhone-15-NPU", "Pixel-8-TPU", "Raspberry-Pi-4"]


def test_named_pools_hold_catalogue_names():
    assert {name: len(devices) for name, devices in POOLS.items()} == {"six": 6, "four": 4}
    assert all(catalogue().resolve(d) == d for devices in POOLS.values() for d in devices)
    assert [catalogue().resolve(d) for d in SOURCES_SIX] == list(POOLS["six"])


@pytest.mark.parametrize("target", ["Pixel-8", "pixel-8", "Google-Pixel-8-EdgeTPU", "Pixel-8-TPU"])
def test_target_is_dropped_by_any_spelling_with_a_warning(target, caplog):
    with caplog.at_level(logging.WARNING):
        kept, dropped = resolve_pool(SOURCES_SIX, target)
    assert dropped == ["pixel-8"]
    assert len(kept) == 5
    assert "pixel-8" not in kept
    assert "Pixel-8-TPU" in caplog.text
    assert target in caplog.text


def test_target_outside_the_pool_drops_nothing(caplog):
    for names, target in (("four", "pixel-8"), ("six", "local"), ("six", "a100")):
        kept, dropped = resolve_pool(names, target)
        assert (kept, dropped) == (list(POOLS[names]), [])
    assert caplog.text == ""


def test_device_named_twice_is_kept_once():
    assert resolve_pool(["Mac-M2", "MacBook-M2", "a100"], "pixel-8")[0] == ["macbook-m2", "a100"]


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'four'"):
        resolve_pool("fuor", "pixel-8")
    with pytest.raises(UnknownNameError, match="raspberry-pi-4"):
        resolve_pool(["Raspberry-Pi-5"], "pixel-8")


def cpuinfo(name: str, processors: int) -> str:
    return "\n\n".join(
        f"processor\t: {i}\nvendor_id\t: x\nmodel\t\t: 1\nmodel name\t: {name}" for i in range(processors)
    )


def test_host_share_of_a_known_package_is_in_proportion():
    host = describe_host(cpuinfo("AMD EPYC 7763 64-Core Processor", 4))
    assert (host.processors, host.model_name) == (4, "AMD EPYC 7763 64-Core Processor")
    assert host.limit_w == pytest.approx(280 * 4 / 128)
    assert "4 of 128 threads" in host.power_note


def test_host_of_an_unknown_processor_states_an_assumption():
    host = describe_host(cpuinfo("Intel(R) Xeon(R) Processor", 2))
    assert (host.idle_w, host.limit_w) == (2.0, 8.0)
    assert host.power_note.startswith("assumed")


def test_host_without_cpuinfo_still_has_a_name_and_processors():
    host = describe_host("")
    assert host.model_name
    assert host.processors >= 1


def test_raspberry_pi_is_known_by_its_model():
    text = "processor\t: 0\nprocessor\t: 1\nprocessor\t: 2\nprocessor\t: 3\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4"
    assert describe_host(text).limit_w == pytest.approx(6.4)
