"""Meters read through Zeus, with a stand-in for it; and the list of all meters."""

import subprocess
import sys
import types

import pytest

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError, UnknownNameError
from metas_peft.devices.meters import METERS, MeterKind, check_meters, find_meter, open_first, registry, zeus_soc
from metas_peft.devices.meters import zeus as zeus_module
from metas_peft.devices.meters.base import MIN_UPDATES
from metas_peft.devices.meters.zeus import RAPL_COMMAND, AmdCounter, AmdPower, NvmlCounter, NvmlPower, RaplCounter
from metas_peft.devices.meters.zeus_soc import AppleCounter, JetsonCounter


class FakeGpus:
    """Two boards, of which the second has no counter, in millijoules and milliwatts."""

    def __len__(self):
        return 2

    def supports_get_total_energy_consumption(self, index):
        return index == 0

    def get_total_energy_consumption(self, index):
        return 123_456

    def get_instant_power_usage(self, index):
        return 250_500


class NVIDIAGPUs(FakeGpus):
    pass


class AMDGPUs(FakeGpus):
    pass


class RAPLCPUs:
    dram_mj: float | None = 500.0

    def __len__(self):
        return 1

    def get_total_energy_consumption(self, index):
        return types.SimpleNamespace(cpu_mj=2_000.0, dram_mj=self.dram_mj)


class Chip:
    def __init__(self, **millijoules):
        self.values = types.SimpleNamespace(**millijoules)

    def get_total_energy_consumption(self):
        return self.values


class AppleSilicon(Chip):
    pass


class Jetson(Chip):
    pass


APPLE = {"cpu_total_mj": 1_000, "gpu_mj": 2_000, "gpu_sram_mj": None, "ane_mj": 0, "dram_mj": 500}


@pytest.fixture
def fake_zeus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    class ZeusBaseError(Exception):
        pass

    class ZeusCPUNoPermissionError(ZeusBaseError):
        pass

    gpu = types.SimpleNamespace(get_gpus=NVIDIAGPUs)
    cpu = types.SimpleNamespace(rapl_is_available=lambda: True, get_cpus=RAPLCPUs)
    soc = types.SimpleNamespace(get_soc=lambda: AppleSilicon(**APPLE))
    modules = {
        "zeus.exception": types.SimpleNamespace(ZeusBaseError=ZeusBaseError),
        "zeus.device.gpu": gpu,
        "zeus.device.cpu": cpu,
        "zeus.device.soc": soc,
    }
    monkeypatch.setattr(zeus_module, "zeus_module", modules.__getitem__)
    monkeypatch.setattr(zeus_soc, "zeus_module", modules.__getitem__)
    return types.SimpleNamespace(gpu=gpu, cpu=cpu, soc=soc, error=ZeusBaseError, no_permission=ZeusCPUNoPermissionError)


def test_millijoules_and_milliwatts_of_boards_become_joules_and_watts(fake_zeus):
    assert NvmlCounter.open().read_j() == {"gpu0": pytest.approx(123.456)}
    assert NvmlPower.open().read_w() == pytest.approx(250.5)
    fake_zeus.gpu.get_gpus = AMDGPUs
    assert AmdCounter.open().read_j() == {"gpu0": pytest.approx(123.456)}
    assert AmdPower.open().read_w() == pytest.approx(250.5)


def test_board_without_a_counter_that_can_be_trusted_is_refused(fake_zeus):
    with pytest.raises(MeterUnavailableError, match="Volta"):
        NvmlCounter.open(1)
    with pytest.raises(MeterUnavailableError, match="board 2 was asked for, 2 can be seen"):
        NvmlCounter.open(2)
    fake_zeus.gpu.get_gpus = AMDGPUs
    with pytest.raises(MeterUnavailableError, match="amd-power"):
        AmdCounter.open(1)


@pytest.mark.parametrize("visible", ["GPU-bbb-2", "MIG-123", ""])
def test_board_that_is_not_given_by_number_is_refused(fake_zeus, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(MeterUnavailableError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        NvmlCounter.open()


def test_board_of_another_vendor_is_refused(fake_zeus):
    with pytest.raises(MeterUnavailableError, match="not AMD's"):
        AmdPower.open()


def test_rapl_adds_packages_and_memory(fake_zeus, monkeypatch):
    assert RaplCounter.open().read_j() == {"package0": 2.0, "dram0": 0.5}
    monkeypatch.setattr(RAPLCPUs, "dram_mj", None)
    assert RaplCounter.open().read_j() == {"package0": 2.0}


def test_rapl_without_permission_gives_the_command(fake_zeus):
    def refuse():
        raise fake_zeus.no_permission("root only")

    fake_zeus.cpu.get_cpus = refuse
    with pytest.raises(MeterPermissionError) as caught:
        RaplCounter.open()
    assert RAPL_COMMAND in str(caught.value)


def test_apple_blocks_add_up_and_absent_ones_are_left_out(fake_zeus):
    counter = AppleCounter.open()
    assert counter.read_j() == {"cpu_total": 1.0, "gpu": 2.0, "ane": 0.0, "dram": 0.5}


def test_jetson_total_is_the_input_rail_alone(fake_zeus):
    """The input rail contains the others: adding them would count twice."""
    fake_zeus.soc.get_soc = lambda: Jetson(cpu_energy_mj=1_000.0, gpu_energy_mj=2_000.0, total_energy_mj=5_000.0)
    counter = JetsonCounter.open()
    assert counter.read_j() == {"total": 5.0}
    assert counter.boundary == "module input rail"


def test_jetson_without_an_input_rail_says_what_it_leaves_out(fake_zeus):
    fake_zeus.soc.get_soc = lambda: Jetson(cpu_energy_mj=1_000.0, gpu_energy_mj=2_000.0, total_energy_mj=None)
    counter = JetsonCounter.open()
    assert counter.read_j() == {"cpu": 1.0, "gpu": 2.0}
    assert "only" in counter.boundary


def test_chip_of_another_kind_is_refused(fake_zeus):
    with pytest.raises(MeterUnavailableError, match="another chip"):
        JetsonCounter.open()
    fake_zeus.soc.get_soc = lambda: Jetson(cpu_energy_mj=None, gpu_energy_mj=None, total_energy_mj=None)
    with pytest.raises(MeterUnavailableError, match="no rail"):
        JetsonCounter.open()


def test_meter_that_stops_answering_is_unavailable(fake_zeus):
    counter = NvmlCounter.open()

    def lost(index):
        raise fake_zeus.error("GPU is lost")

    counter._gpus.get_total_energy_consumption = lost
    with pytest.raises(MeterUnavailableError, match="GPU is lost. Check"):
        counter.read_j()


def test_zeus_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus.exception", None)
    monkeypatch.setitem(sys.modules, "zeus.device.gpu", None)
    with pytest.raises(MeterUnavailableError, match="pip install"):
        NvmlCounter.open()


def test_all_meters_are_listed_with_period_window_and_permission():
    rows = check_meters()
    assert len(rows) == 12
    assert len(METERS) == 10
    assert [r.meter for r in rows if not r.works] == [
        r.meter for r in rows if r.why_not and r.origin == "measured" and r.permission
    ]
    assert all(r.min_window_ms >= MIN_UPDATES * r.update_period_ms for r in rows if r.update_period_ms)
    assert {r.meter: r.min_window_ms for r in rows}["nvml"] <= 2000.0
    assert rows[0].min_window_ms == 2000.0
    assert (rows[-1].meter, rows[-1].works, rows[-1].origin) == ("modelled", True, "modelled")


def test_check_tells_permission_from_absence(monkeypatch):
    def absent():
        raise MeterUnavailableError("not here")

    def locked():
        raise MeterPermissionError("root only")

    parts = tuple(registry.Part(str(n), p, 0.1, 2.0) for n, p in enumerate((absent, locked, lambda: None)))
    monkeypatch.setattr(registry, "METERS", (MeterKind("fake", (), "a command", locked, parts),))
    rows = check_meters()
    assert [r.works for r in rows] == [False, False, True, True]
    assert [r.why_not for r in rows] == ["not here", "permission: root only", "", ""]


def test_no_meter_at_all_says_why_not_each(monkeypatch):
    def absent(reason):
        def open_it():
            raise MeterUnavailableError(reason)

        return open_it

    kinds = tuple(MeterKind(n, ("pytorch_cpu",), "none", absent(f"no {n} here"), ()) for n in ("a", "b"))
    by_hand = MeterKind("c", ("pytorch_cpu",), "none", absent("asked c"), (), is_automatic=False)
    monkeypatch.setattr(registry, "METERS", (*kinds, by_hand))
    with pytest.raises(MeterUnavailableError) as caught:
        open_first("pytorch_cpu")
    assert "no a here no b here" in str(caught.value)
    assert "asked c" not in str(caught.value)


def test_meter_without_permission_is_named_before_those_that_are_absent(monkeypatch):
    def absent():
        raise MeterUnavailableError("no apple here")

    def locked():
        raise MeterPermissionError("Run: sudo chmod")

    kinds = (MeterKind("a", ("x",), "", absent, ()), MeterKind("b", ("x",), "", locked, ()))
    monkeypatch.setattr(registry, "METERS", kinds)
    with pytest.raises(MeterPermissionError, match="sudo chmod"):
        open_first("x")


def test_unknown_meter_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'rapl'"):
        find_meter("rappl")


def test_devices_do_not_import_meter_libraries_before_a_meter_is_asked_for():
    code = (
        "import sys, metas_peft.devices as d; d.catalogue(); "
        "sys.exit(bool({'zeus', 'smbus2', 'pynvml', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
