import subprocess
import sys
import types

import pytest

from metas_peft.core.errors import MeasurementError, MeterPermissionError, MeterUnavailableError
from metas_peft.devices import check_meters
from metas_peft.devices.meters import zeus as zeus_module
from metas_peft.devices.meters.base import CounterPower, EnergyCounter, PowerSampler, Window
from metas_peft.devices.meters.zeus import RAPL_COMMAND, NvmlCounter, NvmlPower, RaplCounter


class Counter(EnergyCounter):
    """Reads the energies given, one reading after the other."""

    name, boundary, update_period_s = "counter", "bench", 0.1

    def __init__(self, *readings):
        self.readings = iter(readings)

    def read_j(self):
        reading = next(self.readings)
        return reading if isinstance(reading, dict) else {"all": reading}


class Sampler(PowerSampler):
    name, update_period_s = "sampler", 0.002

    def __init__(self, *values_w):
        self.values_w = list(values_w)

    def read_w(self):
        value = self.values_w.pop(0) if len(self.values_w) > 1 else self.values_w[0]
        if isinstance(value, Exception):
            raise value
        return value


def clock(*seconds):
    values = iter(seconds)
    return lambda: next(values)


def test_window_gives_energy_and_mean_power():
    with Window(
        Counter({"package": 100.0, "dram": 5.0}, {"package": 130.0, "dram": 11.0}), clock_s=clock(10, 14)
    ) as window:
        pass
    reading = window.reading
    assert (reading.energy_j, reading.total_j, reading.mean_power_w) == ({"package": 30.0, "dram": 6.0}, 36.0, 9.0)
    assert reading.peak_power_w is None


@pytest.mark.parametrize(
    ("readings", "times", "message"),
    [
        ((5.0, 5.0), (0, 1), "stood still"),
        ((5.0, 4.0), (0, 1), "fell"),
        ((5.0, float("nan")), (0, 1), "fell"),
        ((5.0, 6.0), (1, 1), "clock did not advance"),
        ((0.0, 1e9), (0, 1), "not a power this kind of device can draw"),
    ],
)
def test_window_refuses_a_counter_that_makes_no_sense(readings, times, message):
    with pytest.raises(MeasurementError, match=message), Window(Counter(*readings), clock_s=clock(*times)):
        pass


def test_window_counts_the_fall_of_one_rail_even_if_the_sum_rises():
    readings = {"a": 5.0, "b": 1.0}, {"a": 4.0, "b": 9.0}
    with pytest.raises(MeasurementError, match="fell"), Window(Counter(*readings), clock_s=clock(0, 1)):
        pass


def test_window_peak_is_the_highest_sample():
    sampler, done = Sampler(1.0, 20.0, 70.0, 30.0), []
    with Window(Counter(0.0, 10.0), sampler, clock_s=clock(0, 1)) as window:
        while len(sampler.values_w) > 1:
            done.append(1)
    assert window.reading.peak_power_w == 70.0
    assert window.reading.n_samples >= 2
    assert window.reading.sampling_period_ms == pytest.approx(2.0)


def test_window_peak_is_never_below_the_mean():
    sampler = Sampler(1.0, 2.0, 2.0)
    with Window(Counter(0.0, 50.0), sampler, clock_s=clock(0, 1)) as window:
        while len(sampler.values_w) > 1:
            pass
    assert window.reading.peak_power_w == 50.0


def test_window_raises_what_stopped_the_sampler():
    sampler = Sampler(1.0, MeterUnavailableError("unplugged"), 1.0)

    def measure():
        with Window(Counter(0.0, 50.0), sampler, clock_s=clock(0, 1)):
            while len(sampler.values_w) > 1:
                pass

    with pytest.raises(MeterUnavailableError, match="unplugged"):
        measure()


def test_window_has_no_reading_when_the_block_failed():
    window = Window(Counter(0.0, 50.0), clock_s=clock(0, 1))
    with pytest.raises(KeyError), window:
        raise KeyError("in the block")
    with pytest.raises(MeasurementError, match="not closed"):
        _ = window.reading


def test_counter_power_is_energy_by_time():
    power = CounterPower(Counter(10.0, 16.0, 16.0), 0.1, clock(0.0, 0.5, 1.0))
    assert [power.read_w() for _ in range(3)] == [0.0, 12.0, 0.0]


class FakeZeus:
    """Stands in for Zeus: two boards and a package with memory, in millijoules and milliwatts."""

    class NVIDIAGPUs:
        def __len__(self):
            return 2

        def supports_get_total_energy_consumption(self, index):
            return index == 0

        def get_total_energy_consumption(self, index):
            return 123_456

        def get_instant_power_usage(self, index):
            return 250_500

    class RAPLCPUs:
        dram_mj: float | None = 500.0

        def __len__(self):
            return 1

        def get_total_energy_consumption(self, index):
            return types.SimpleNamespace(cpu_mj=2_000.0, dram_mj=self.dram_mj)


@pytest.fixture
def fake_zeus(monkeypatch):
    class ZeusBaseError(Exception):
        pass

    class ZeusCPUNoPermissionError(ZeusBaseError):
        pass

    gpu = types.SimpleNamespace(get_gpus=FakeZeus.NVIDIAGPUs)
    cpu = types.SimpleNamespace(rapl_is_available=lambda: True, get_cpus=FakeZeus.RAPLCPUs)
    modules = {
        "zeus.exception": types.SimpleNamespace(ZeusBaseError=ZeusBaseError),
        "zeus.device.gpu": gpu,
        "zeus.device.cpu": cpu,
    }
    monkeypatch.setattr(zeus_module, "_zeus", modules.__getitem__)
    return types.SimpleNamespace(gpu=gpu, cpu=cpu, error=ZeusBaseError, no_permission=ZeusCPUNoPermissionError)


def test_nvml_millijoules_become_joules(fake_zeus):
    assert NvmlCounter.open().read_j() == {"gpu0": pytest.approx(123.456)}
    assert NvmlPower.open().read_w() == pytest.approx(250.5)


def test_nvml_board_without_counter_is_refused(fake_zeus):
    with pytest.raises(MeterUnavailableError, match="Volta"):
        NvmlCounter.open(1)
    with pytest.raises(MeterUnavailableError, match="board 2 was asked for, 2 can be seen"):
        NvmlCounter.open(2)


def test_rapl_adds_packages_and_memory(fake_zeus, monkeypatch):
    assert RaplCounter.open().read_j() == {"package0": 2.0, "dram0": 0.5}
    monkeypatch.setattr(FakeZeus.RAPLCPUs, "dram_mj", None)
    assert RaplCounter.open().read_j() == {"package0": 2.0}


def test_rapl_without_permission_gives_the_command(fake_zeus):
    def refuse():
        raise fake_zeus.no_permission("root only")

    fake_zeus.cpu.get_cpus = refuse
    with pytest.raises(MeterPermissionError) as caught:
        RaplCounter.open()
    assert RAPL_COMMAND in str(caught.value)


def test_meter_that_stops_answering_is_unavailable(fake_zeus):
    counter = NvmlCounter.open()

    def lost(index):
        raise fake_zeus.error("GPU is lost")

    counter._gpus.get_total_energy_consumption = lost
    with pytest.raises(MeterUnavailableError, match="GPU is lost"):
        counter.read_j()


def test_zeus_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus.exception", None)
    monkeypatch.setitem(sys.modules, "zeus.device.gpu", None)
    with pytest.raises(MeterUnavailableError, match="pip install"):
        NvmlCounter.open()


def test_check_lists_every_meter_with_a_reason(monkeypatch):
    def absent(*args):
        raise MeterUnavailableError("not here")

    def locked(*args):
        raise MeterPermissionError("root only")

    for kind, probe in ((NvmlCounter, absent), (NvmlPower, lambda *a: None), (RaplCounter, locked)):
        monkeypatch.setattr(kind, "open", probe)
    rows = check_meters()
    assert [r.works for r in rows] == [False, True, False, True]
    assert [r.why_not for r in rows] == ["not here", "", "permission: root only", ""]
    assert [r.update_period_ms for r in rows] == [100, 50, 1, None]
    assert [r.origin for r in rows] == ["measured"] * 3 + ["modelled"]


def test_devices_do_not_import_zeus_before_a_meter_is_asked_for():
    code = "import sys, metas_peft.devices as d; d.catalogue(); sys.exit('zeus' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert result.returncode == 0
