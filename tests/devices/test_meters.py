"""Meters read through Zeus, with a stand-in for it; and the list of all meters."""

import subprocess
import sys
import types

import numpy as np
import pytest

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError, UnknownNameError
from metas_peft.devices.meters import METERS, MeterKind, check_meters, find_meter, open_first, registry, zeus_soc
from metas_peft.devices.meters import zeus as zeus_module
from metas_peft.devices.meters.base import MIN_UPDATES, CounterPower
from metas_peft.devices.meters.track import _unwrapped
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


class DaemonCpus:
    """What Zeus gives where its daemon reads: one package, in millijoules."""

    def __init__(self, folder, dram_mj=500.0):
        self.rapl_dir, self._dram_mj = folder, dram_mj
        supports = {"supports_get_dram_energy_consumption": lambda: dram_mj is not None}
        self.cpus = [types.SimpleNamespace(cpu_index=0, **supports)]

    def get_total_energy_consumption(self, index):
        return types.SimpleNamespace(cpu_mj=2_000.0, dram_mj=self._dram_mj)


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
    cpu = types.SimpleNamespace(rapl_is_available=lambda: True, get_cpus=None)
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


def power_zone(folder, name, energy_uj, range_uj=262_143_328_850):
    folder.mkdir(parents=True)
    for file, text in {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": range_uj}.items():
        (folder / file).write_text(f"{text}\n")


@pytest.fixture
def laptop(tmp_path):
    """Power zones of a laptop: a package with its memory, and the whole platform, which holds both."""
    power_zone(tmp_path / "intel-rapl:0", "package-0", 2_000_000)
    power_zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:0", "core", 1_500_000)
    power_zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:1", "dram", 500_000)
    power_zone(tmp_path / "intel-rapl:1", "psys", 4_000_000)
    return tmp_path


def handles(folder):
    """What Zeus makes of the zones when it reads them itself: it takes each for a package."""

    def files(zone):
        range_uj = float((zone / "max_energy_range_uj").read_text())
        return types.SimpleNamespace(energy_uj_path=str(zone / "energy_uj"), max_energy_range_uj=range_uj)

    zones = sorted(folder.iterdir())
    memory = [folder / "intel-rapl:0" / "intel-rapl:0:1", None]
    cpus = [
        types.SimpleNamespace(cpu_index=i, rapl_file=files(zone), dram=files(inner) if inner else None)
        for i, (zone, inner) in enumerate(zip(zones, memory, strict=True))
    ]
    return types.SimpleNamespace(cpus=cpus, rapl_dir=str(folder))


def test_rapl_adds_packages_and_memory_and_leaves_the_platform_out(fake_zeus, laptop):
    fake_zeus.cpu.get_cpus = lambda: handles(laptop)
    counter = RaplCounter.open()
    assert counter.read_j() == {"package0": pytest.approx(2.0), "dram0": pytest.approx(0.5)}
    assert counter.wrap_j() == {"package0": pytest.approx(262_143.32885), "dram0": pytest.approx(262_143.32885)}


def test_rapl_finds_the_same_through_zeus_itself(laptop, monkeypatch):
    rapl = pytest.importorskip("zeus.device.cpu.rapl", reason='Zeus is not installed: pip install "metas-peft[meters]"')
    monkeypatch.setattr(rapl, "RAPL_DIR", str(laptop))
    monkeypatch.setattr(rapl, "rapl_is_available", lambda: True)
    monkeypatch.setattr("zeus.device.cpu.rapl_is_available", lambda: True)
    monkeypatch.setattr("zeus.device.cpu._cpus", None)
    monkeypatch.delenv("ZEUSD_SOCK_PATH", raising=False)
    assert RaplCounter.open().read_j() == {"package0": pytest.approx(2.0), "dram0": pytest.approx(0.5)}


def test_rapl_counter_that_starts_again_is_followed_at_once(fake_zeus, laptop):
    fake_zeus.cpu.get_cpus = lambda: handles(laptop)
    counter = RaplCounter.open()
    rails = np.array([262_141.0, 262_142.5, 0.67, 2.17])
    through = _unwrapped(np.arange(4) / 100, rails, "package0", counter)
    assert np.diff(through) == pytest.approx([1.5, 1.5, 1.5], abs=0.01)
    now = iter([0.0, 0.01])
    power = CounterPower(counter, 0.001, lambda: next(now))
    (laptop / "intel-rapl:0" / "energy_uj").write_text("262142000000")
    power.read_w()
    (laptop / "intel-rapl:0" / "energy_uj").write_text("171150")
    assert power.read_w() == pytest.approx(150.0, rel=0.01)


def test_rapl_without_a_package_is_refused(fake_zeus, tmp_path):
    power_zone(tmp_path / "intel-rapl:0", "psys", 1)
    fake_zeus.cpu.get_cpus = lambda: DaemonCpus(tmp_path)
    with pytest.raises(MeterUnavailableError, match="no package among the power zones"):
        RaplCounter.open()


def test_rapl_through_the_daemon_of_zeus(fake_zeus, laptop):
    fake_zeus.cpu.get_cpus = lambda: DaemonCpus(laptop)
    counter = RaplCounter.open()
    assert counter.read_j() == {"package0": 2.0, "dram0": 0.5}
    assert counter.wrap_j() == {}
    fake_zeus.cpu.get_cpus = lambda: DaemonCpus(laptop, dram_mj=None)
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
