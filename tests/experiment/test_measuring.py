"""What stages take as measured: nothing that the device calls invalid, nothing of another device by the same name."""

import dataclasses
import shutil
from importlib import resources

import pytest

from metas_peft import experiment
from metas_peft.core.errors import MeasurementError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, random_prefixes
from metas_peft.devices import Purpose, SimulatedDevice, find_entry, open_device
from metas_peft.experiment.cache import MeasurementCache
from metas_peft.experiment.pricing import measured

from .conftest import numbers, results_of

MARK = "stages/measure-pixel-8.json"


@pytest.fixture
def unmeasured(main_run, tmp_path):
    """The finished run without the measurements of its members."""
    folder = shutil.copytree(main_run, tmp_path / "run")
    (folder / MARK).unlink()
    return folder


def test_invalid_measurement_is_told_and_made_again(main_run, unmeasured, settings, monkeypatch):
    measure, config = SimulatedDevice._measure, settings("retarget=[jetson-nano]")

    def disturbed(self, specimens, *rest):
        first, *others = measure(self, specimens, *rest)
        return [dataclasses.replace(first, is_valid=False, why_invalid="another program ran."), *others]

    with monkeypatch.context() as patched:
        patched.setattr(SimulatedDevice, "_measure", disturbed)
        with pytest.raises(
            MeasurementError, match=r"1 of \d+ measurements on pixel-8 came out as invalid: another pro"
        ):
            experiment.run(config, unmeasured, progress=False)
    assert not (unmeasured / MARK).exists()
    experiment.run(config, unmeasured, progress=False)
    assert numbers(results_of(unmeasured)) == numbers(results_of(main_run))


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


def test_cache_keeps_what_is_valid_and_asks_for_the_rest_again(tmp_path):
    subnets, device = random_prefixes(MINILM, 4, seed=0), open_device("pixel-8")
    asked, workload = [], Workload(seq_len=32)

    def run(missing, *, invalid=()):
        asked.append(len(missing))
        records = measured(device, missing, MINILM, workload, lambda s: None, purpose=Purpose.CALIBRATION, seed=0)
        return [dataclasses.replace(r, is_valid=n not in invalid, why_invalid="why") for n, r in enumerate(records)]

    cache = MeasurementCache(tmp_path)
    with pytest.raises(MeasurementError, match="2 of 4 measurements on pixel-8 came out as invalid: why"):
        cache.measure(subnets, MINILM, workload, device, 0, lambda missing: run(missing, invalid=(1, 2)))
    found = cache.measure(subnets, MINILM, workload, device, 0, run)
    assert [r.subnet_key for r in found] == [s.key for s in subnets]
    assert asked == [4, 2]
    other = SimulatedDevice(dataclasses.replace(find_entry("pixel-8"), idle_w=1.0))
    cache.measure(subnets, MINILM, workload, other, 0, run)
    assert asked == [4, 2, 4]
