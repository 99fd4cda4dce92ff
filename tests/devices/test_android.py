"""Android meters against the text that phones print."""

import subprocess
from pathlib import Path

import pytest

from metas_peft.core.errors import MeterPermissionError, MeterUnavailableError
from metas_peft.devices.meters import android
from metas_peft.devices.meters.android import AndroidCharge, AndroidCurrent, AndroidRails, adb_shell, parse_battery

DATA = Path(__file__).parents[1] / "data" / "adb"
RAILS, BATTERY = (DATA / "rails.txt").read_text(), (DATA / "battery.txt").read_text()


class Phone:
    """Answers as recorded; what is changed is changed in the text."""

    def __init__(self, rails=RAILS, battery=BATTERY, current="-250000\n"):
        self.rails, self.battery, self.current = rails, battery, current

    def __call__(self, command):
        if command == android.RAILS_COMMAND:
            return self.rails
        if command == android.BATTERY_COMMAND:
            return self.battery
        if isinstance(self.current, dict):
            return self.current[command]
        return self.current


def test_rails_that_do_not_contain_each_other_add_up():
    counter = AndroidRails.open(Phone())
    rails = counter.read_j()
    assert rails == {
        "S1M_VDD_MIF": pytest.approx(3120.45025),
        "S2M_VDD_CPUCL2": pytest.approx(8450.0005),
        "S3M_VDD_CPUCL1": pytest.approx(2200.0),
        "S4M_VDD_CPUCL0": pytest.approx(5000.00075),
        "S10M_VDD_TPU": pytest.approx(90.0),
        "S2S_VDD_G3D": pytest.approx(1500.0),
    }
    assert "CPU(BIG)" in counter.boundary
    assert "Display" not in counter.boundary


def test_battery_rail_alone_is_the_phone_unless_a_cable_charges_it():
    whole = RAILS.replace("[VSYS_PWR_DISPLAY]:Display ", "[VSYS_PWR_VBATT]:Battery ")
    assert AndroidRails.open(Phone(rails=whole)).read_j() == {"VSYS_PWR_VBATT": pytest.approx(9000.0)}
    charged = BATTERY.replace("USB powered: false", "USB powered: true")
    assert "VSYS_PWR_VBATT" not in AndroidRails.open(Phone(rails=whole, battery=charged)).read_j()


def test_rail_that_goes_away_is_said():
    phone = Phone()
    counter = AndroidRails.open(phone)
    phone.rails = RAILS.replace("[S2S_VDD_G3D]:GPU", "[S2S_VDD_OLD]:GPU")
    with pytest.raises(MeterUnavailableError, match="S2S_VDD_G3D is gone"):
        counter.read_j()


@pytest.mark.parametrize("text", ["", "Can't find service: android.hardware.power.stats.IPowerStats/default\n"])
def test_phone_without_rails_is_said(text):
    with pytest.raises(MeterUnavailableError, match="Pixels since the 6"):
        AndroidRails.open(Phone(rails=text))


def test_charge_counter_counts_what_left_the_battery():
    phone = Phone()
    counter = AndroidCharge.open(phone)
    phone.battery = BATTERY.replace("3120000", "3119000")
    # 1000 uAh at 4.0 V.
    assert counter.read_j() == {"battery": pytest.approx(1e-3 * 3600 * 4.0)}
    phone.battery = BATTERY.replace("3120000", "3118000").replace("voltage: 4000", "voltage: 3900")
    assert counter.read_j() == {"battery": pytest.approx(1e-3 * 3600 * (4.0 + 3.9))}


def test_battery_that_does_not_count_is_said():
    with pytest.raises(MeterUnavailableError, match="does not count its charge"):
        AndroidCharge.open(Phone(battery=BATTERY.replace("3120000", "0")))


@pytest.mark.parametrize(
    ("text", "watts"), [("-250000\n", 1.0), ("250000", 1.0), ("-750\n", 3.0), ("-12000\n", 0.048), ("8000", 0.032)]
)
def test_current_times_voltage_whatever_sign_and_unit_the_phone_uses(text, watts):
    assert AndroidCurrent.open(Phone(current=text)).read_w() == pytest.approx(watts)


@pytest.mark.parametrize(
    ("text", "words"), [("-5000", "both microamperes and"), ("9000000", "neither microamperes nor")]
)
def test_current_of_unknown_unit_is_refused(text, words):
    """5 mA of a phone asleep, or 5 A of one that runs hot?"""
    with pytest.raises(MeterUnavailableError, match=words):
        AndroidCurrent.open(Phone(current=text))


def test_unit_is_decided_by_all_of_several_readings_and_kept():
    """One reading alone would be milliamperes."""
    readings = iter(["-6000", "-6000", "-40000", "-6000", "-9000", "-7000", "-6000", "-3000"])

    class Restless(Phone):
        def __call__(self, command):
            return next(readings) if command == android.CURRENT_COMMAND else super().__call__(command)

    sampler = AndroidCurrent.open(Restless())
    assert sampler.read_w() == pytest.approx(0.012)


def test_current_is_read_from_a_file_where_the_command_is_unknown():
    answers = {android.CURRENT_COMMAND: "Unknown get option: current_now\n", android.CURRENT_FILE: "-500000\n"}
    assert AndroidCurrent.open(Phone(current=answers)).read_w() == pytest.approx(2.0)


def test_phone_without_a_current_is_said():
    with pytest.raises(MeterUnavailableError, match="gives a current on this phone"):
        AndroidCurrent.open(Phone(current="0\n"))


@pytest.mark.parametrize("kind", [AndroidCharge, AndroidCurrent])
def test_phone_on_a_cable_is_refused_with_what_to_do(kind):
    with pytest.raises(MeterUnavailableError, match="adb tcpip 5555"):
        kind.open(Phone(battery=BATTERY.replace("AC powered: false", "AC powered: true")))


def test_battery_text_without_a_voltage_is_said():
    with pytest.raises(MeterUnavailableError, match="'voltage'"):
        AndroidCurrent.open(Phone(battery=BATTERY.replace("voltage", "tension")))


def test_first_of_two_keys_counts():
    assert parse_battery("voltage: 1\nvoltage: 2\n  temperature: 286") == {"voltage": "1", "temperature": "286"}


@pytest.mark.parametrize(
    ("stderr", "error", "message"),
    [
        ("error: device unauthorized.\n", MeterPermissionError, "Accept the question"),
        ("error: no devices/emulators found", MeterUnavailableError, "USB debugging"),
        ("error: device offline", MeterUnavailableError, "USB debugging"),
        ("error: more than one device/emulator", MeterUnavailableError, "ANDROID_SERIAL"),
        ("cat: /sys/class/x: Permission denied", MeterPermissionError, "adb root"),
        ("", MeterUnavailableError, "without a word"),
    ],
)
def test_what_adb_says_becomes_what_to_do(monkeypatch, stderr, error, message):
    def run(line, **options):
        assert line == ["adb", "shell", "dumpsys", "battery"]
        return subprocess.CompletedProcess(line, 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(error, match=message):
        adb_shell()(android.BATTERY_COMMAND)


@pytest.mark.parametrize(
    ("failure", "message"),
    [(FileNotFoundError("adb"), "apt install adb"), (subprocess.TimeoutExpired("adb", 10), "Check the cable")],
)
def test_adb_that_is_absent_or_silent_is_said(monkeypatch, failure, message):
    def run(line, **options):
        raise failure

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(MeterUnavailableError, match=message):
        adb_shell()(android.BATTERY_COMMAND)


def test_one_of_several_phones_is_chosen_by_its_serial_number(monkeypatch):
    lines = []
    monkeypatch.setattr(
        subprocess, "run", lambda line, **options: lines.append(line) or subprocess.CompletedProcess(line, 0, "ok", "")
    )
    assert adb_shell("39111")(("echo",)) == "ok"
    assert lines == [["adb", "-s", "39111", "shell", "echo"]]
