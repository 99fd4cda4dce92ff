"""What the kernel and the driver tell of a machine, from files and a driver made for the test."""

import sys
import types

import pytest

from metas_peft.core.errors import MeterUnavailableError
from metas_peft.devices import nvidia
from metas_peft.devices.conditions import HostProbe, NvidiaProbe, State, between, open_probe


def put(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}\n")


def test_machine_that_tells_nothing_gives_nothing(tmp_path):
    assert HostProbe(tmp_path).read() == State()


def test_temperature_is_the_hottest_of_the_chips_own_sensors(tmp_path):
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "nvme")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "90000")
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "coretemp")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", "51000")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp2_input", "63500")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "acpitz")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "16800")
    assert HostProbe(tmp_path).read().temperature_c == pytest.approx(63.5)


def test_boards_without_hwmon_are_read_from_their_thermal_zone(tmp_path):
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312")
    assert HostProbe(tmp_path).read().temperature_c == pytest.approx(48.312)


def test_clock_mode_load_and_throttle_count(tmp_path):
    for core, khz, count in ((0, 3_400_000, 3), (1, 1_600_000, 4)):
        cpu = f"sys/devices/system/cpu/cpu{core}"
        put(tmp_path, f"{cpu}/cpufreq/scaling_cur_freq", khz)
        put(tmp_path, f"{cpu}/thermal_throttle/core_throttle_count", count)
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")
    put(tmp_path, "sys/firmware/acpi/platform_profile", "balanced")
    put(tmp_path, "proc/loadavg", "1.25 0.80 0.60 2/345 6789")
    state = HostProbe(tmp_path).read()
    assert (state.clock_mhz, state.throttle_events, state.load_average) == (2500.0, 7, 1.25)
    assert state.power_mode == "governor powersave, profile balanced"
    assert state.is_throttling is None


@pytest.mark.parametrize(
    ("flags", "now", "ever"),
    [("0x50000", False, True), ("0x50005", True, True), ("4", True, False), ("0", False, False)],
)
def test_raspberry_pi_says_whether_it_throttles_now_and_did_since_it_started(tmp_path, flags, now, ever):
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", flags)
    state = HostProbe(tmp_path).read()
    assert (state.is_throttling, state.has_throttled) == (now, ever)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (State(), State(), None),
        (State(throttle_events=5), State(throttle_events=5), False),
        (State(throttle_events=5), State(throttle_events=6), True),
        (State(is_throttling=False), State(is_throttling=True), True),
        (State(is_throttling=False), State(is_throttling=False), None),
        (State(is_throttling=False, throttle_events=1), State(is_throttling=False, throttle_events=1), False),
        (State(throttle_events=5), State(), None),
        (State(has_throttled=False), State(has_throttled=False), False),
        (State(has_throttled=False), State(has_throttled=True), True),
        (State(has_throttled=True), State(has_throttled=True), None),
    ],
)
def test_throttling_is_what_the_machine_says_and_unknown_where_it_says_nothing(before, after, expected):
    assert between(before, after).is_throttled is expected


class NVMLError(Exception):
    pass


def driver(reasons=0, **gone):
    def answer(value):
        def call(handle, *arguments):
            if value is None:
                raise NVMLError("Not Supported")
            return value

        return call

    answers = {
        "nvmlDeviceGetCurrentClocksThrottleReasons": reasons,
        "nvmlDeviceGetEnforcedPowerLimit": 300_000,
        "nvmlDeviceGetPerformanceState": 2,
        "nvmlDeviceGetTemperature": 71,
        "nvmlDeviceGetClockInfo": 1410,
        "nvmlDeviceGetViolationStatus": types.SimpleNamespace(referenceTime=10**9, violationTime=4_000_000),
    } | gone
    names = {"NVML_TEMPERATURE_GPU": 0, "NVML_CLOCK_SM": 1, "NVML_PERF_POLICY_POWER": 0, "NVML_PERF_POLICY_THERMAL": 1}
    return types.SimpleNamespace(NVMLError=NVMLError, **names, **{name: answer(v) for name, v in answers.items()})


@pytest.mark.parametrize(
    ("reasons", "is_throttling", "words"),
    [(0x0, False, ""), (0x1 | 0x2, False, ""), (0x4, True, "power cap"), (0x20 | 0x40, True, "throttled by heat")],
)
def test_board_tells_clock_limit_and_why_it_throttles(reasons, is_throttling, words):
    state = NvidiaProbe(driver(reasons), object()).read()
    assert (state.temperature_c, state.clock_mhz, state.is_throttling) == (71, 1410, is_throttling)
    assert state.power_mode.startswith("P2, limit 300 W")
    assert words in state.power_mode


class Boards:
    """Three boards as the driver counts them; a handle is the identifier itself."""

    NVMLError = NVMLError
    uuids = ("GPU-aaa-1", "GPU-bbb-2", "GPU-ccc-3")

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.uuids:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle


@pytest.mark.parametrize(
    ("visible", "board"),
    [
        (None, "GPU-aaa-1"),
        ("0", "GPU-aaa-1"),
        ("2,0", "GPU-ccc-3"),
        (" 1 ", "GPU-bbb-2"),
        ("GPU-bbb-2", "GPU-bbb-2"),
        ("GPU-c", "GPU-ccc-3"),
        ("", None),
        ("MIG-123", None),
    ],
)
def test_board_is_the_first_that_the_process_sees(visible, board):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert nvidia.find_board(Boards(), environment=environment) == board
    if board is not None:
        assert nvidia.find_board(Boards(), environment=environment, uuid=board) == board


def test_meter_of_another_board_than_torchs_is_refused():
    """CUDA counts the fastest first; by number the driver has another one."""
    with pytest.raises(MeterUnavailableError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        nvidia.find_board(Boards(), environment={"CUDA_VISIBLE_DEVICES": "1"}, uuid="GPU-ccc-3")


def test_probe_asks_the_board_that_is_visible(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Boards())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    probe = NvidiaProbe.find()
    assert probe is not None
    assert probe._handle == "GPU-ccc-3"


def test_torch_names_its_board_as_the_driver_does(monkeypatch):
    cuda = types.SimpleNamespace(
        is_available=lambda: True, get_device_properties=lambda index: types.SimpleNamespace(uuid="bbb-2")
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert nvidia.torch_board() == "GPU-bbb-2"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert nvidia.torch_board() is None


def test_board_that_does_not_tell_is_not_guessed():
    absent = ("nvmlDeviceGetTemperature", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetViolationStatus")
    state = NvidiaProbe(driver(None, **dict.fromkeys(absent)), 0).read()
    assert (state.temperature_c, state.is_throttling, state.power_mode) == (None, None, "P2")
    assert state.throttle_events is None


def test_board_that_was_held_back_during_passes_alone_was_throttled():
    before = NvidiaProbe(driver(), object()).read()
    held = types.SimpleNamespace(referenceTime=2 * 10**9, violationTime=5_000_000)
    after = NvidiaProbe(driver(nvmlDeviceGetViolationStatus=held), object()).read()
    assert (before.is_throttling, after.is_throttling) == (False, False)
    assert between(before, after).is_throttled is True
    assert between(before, before).is_throttled is False


def test_probe_of_a_board_that_is_not_there_is_that_of_the_processor():
    assert isinstance(open_probe(is_nvidia=True), HostProbe | NvidiaProbe)
    assert isinstance(open_probe(), HostProbe)
