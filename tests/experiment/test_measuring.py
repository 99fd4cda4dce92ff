"""What stages take as measured: nothing that the device calls invalid, nothing of another device by the same name."""

import dataclasses
import shutil
from importlib import resources

import pyarrow.parquet as pq
import pytest

from metas_peft import experiment
from metas_peft.core.errors import CalibrationError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, random_prefixes
from metas_peft.devices import Purpose, SimulatedDevice, find_entry, open_device
from metas_peft.experiment import pricing
from metas_peft.experiment.cache import MeasurementCache
from metas_peft.experiment.pricing import measure
from metas_peft.report import write_report

from .conftest import numbers, results_of

MARK = "stages/measure-pixel-8.json"


@pytest.fixture
def unmeasured(main_run, tmp_path):
    """The finished run without the measurements of its members."""
    folder = shutil.copytree(main_run, tmp_path / "run")
    (folder / MARK).unlink()
    return folder


def disturbed(monkeypatch, *times):
    """Lets the first configuration of a measurement come out as invalid, at the calls of these numbers."""
    measure, calls = SimulatedDevice._measure, []

    def measured(self, specimens, *rest):
        calls.append(len(specimens))
        first, *others = measure(self, specimens, *rest)
        invalid = len(calls) - 1 in times
        return [dataclasses.replace(first, is_valid=not invalid, why_invalid="it moved." * invalid), *others]

    monkeypatch.setattr(SimulatedDevice, "_measure", measured)
    return calls


def test_invalid_measurement_is_made_again(main_run, unmeasured, settings, monkeypatch):
    calls = disturbed(monkeypatch, 0, 1)
    experiment.run(settings("retarget=[jetson-nano]"), unmeasured, progress=False)
    assert calls[1:] == [1, 1]
    found, expected = results_of(unmeasured), results_of(main_run)
    assert found["measurements"]["evaluation"] == expected["measurements"]["evaluation"] + 2
    assert [m["energy_j"] for m in found["front"]] == [m["energy_j"] for m in expected["front"]]


def test_measurement_that_stays_invalid_has_a_time_alone(unmeasured, settings, monkeypatch, caplog):
    disturbed(monkeypatch, 0, 1, 2)
    experiment.run(settings("retarget=[jetson-nano]"), unmeasured, progress=False)
    dense = results_of(unmeasured)["dense"]
    assert dense["latency_ms"] > 0
    assert (dense["energy_j"], dense["peak_power_w"], dense["origin"]["energy"]) == (None, None, None)
    assert "has no energy and power that count: it moved." in caplog.text
    rows = pq.read_table(unmeasured / "records.parquet").to_pylist()
    (row,) = [r for r in rows if "No energy or power: it moved." in (r["source"] or "")]
    assert [row[name] for name in ("energy_j", "mean_power_w", "energy_above_idle_j", "peak_power_w")] == [None] * 4
    assert write_report(unmeasured).exists()


def test_calibration_that_cannot_be_fitted_is_not_found_done(main_run, settings, tmp_path, monkeypatch):
    folder = shutil.copytree(main_run, tmp_path / "run")
    for stage in ("calibrate-pixel-8", "tune-MetaS-PEFT", "measure-pixel-8", "evaluate"):
        (folder / f"stages/{stage}.json").unlink(missing_ok=True)
    with monkeypatch.context() as patched:
        measure = SimulatedDevice._measure
        patched.setattr(
            SimulatedDevice,
            "_measure",
            lambda self, *rest: [
                dataclasses.replace(r, is_valid=False, why_invalid="it moved.") for r in measure(self, *rest)
            ],
        )
        with pytest.raises(CalibrationError, match="energy was never measured"):
            experiment.run(settings("retarget=[jetson-nano]"), folder, progress=False)
    assert not (folder / "stages/calibrate-pixel-8.json").exists()


def test_numbers_of_two_devices_by_one_name_do_not_go_together(unmeasured, settings, monkeypatch):
    monkeypatch.setattr(SimulatedDevice, "identity", "another computer")
    with pytest.raises(
        UsageError, match=r"The stage calibrate-pixel-8 measured pixel-8 as '\w+', which is 'another com"
    ):
        experiment.run(settings("retarget=[jetson-nano]"), unmeasured, progress=False)


def test_finished_run_is_found_done_on_another_computer(main_run, settings, tmp_path, monkeypatch):
    folder = shutil.copytree(main_run, tmp_path / "run")
    monkeypatch.setattr(SimulatedDevice, "identity", "another computer")
    experiment.run(settings("retarget=[jetson-nano]"), folder, progress=False)
    assert numbers(results_of(folder)) == numbers(results_of(main_run))


def test_device_file_that_says_something_else_is_refused(settings, tmp_path):
    text = (resources.files("metas_peft.devices") / "catalogue" / "pixel-8.yaml").read_text(encoding="utf-8")
    file, folder = tmp_path / "mine.yaml", tmp_path / "run"
    file.write_text(text, encoding="utf-8")
    config = settings(f"device={file}", "evaluation.baselines=[]")
    experiment.run(config, folder, progress=False)
    file.write_text(text.replace("calibration: ", "calibration: in other words, "), encoding="utf-8")
    experiment.run(config, folder, progress=False)
    file.write_text(text.replace("op_overhead_us: 8", "op_overhead_us: 9"), encoding="utf-8")
    with pytest.raises(UsageError, match="device_files"):
        experiment.run(config, folder, progress=False)


def test_cache_keeps_what_is_whole_and_asks_for_the_rest_again(tmp_path):
    subnets, device = random_prefixes(MINILM, 4, seed=0), open_device("pixel-8")
    asked, workload = [], Workload(seq_len=32)

    def run(missing, *, without=()):
        asked.append(len(missing))
        records = measure(device, missing, MINILM, workload, lambda s: None, purpose=Purpose.CALIBRATION, seed=0)
        return [pricing._time_alone(r) if n in without else r for n, r in enumerate(records)]

    cache = MeasurementCache(tmp_path)
    found = cache.measure(subnets, MINILM, workload, device, 0, lambda missing: run(missing, without=(1, 2)))
    assert [r.cost.energy_j is None for r in found] == [False, True, True, False]
    found = cache.measure(subnets, MINILM, workload, device, 0, run)
    assert [r.subnet_key for r in found] == [s.key for s in subnets]
    assert all(r.cost.energy_j for r in found)
    assert asked == [4, 2]
    other = SimulatedDevice(dataclasses.replace(find_entry("pixel-8"), idle_w=1.0))
    cache.measure(subnets, MINILM, workload, other, 0, run)
    assert asked == [4, 2, 4]
