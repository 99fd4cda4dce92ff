"""Profiling into a store: what is interrupted goes on, what fails is kept and tried again."""

import dataclasses

import pytest

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.errors import MeasurementError, MeterUnavailableError
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM
from metas_peft.devices import Device, Purpose, Specimen, machine, open_device, profiling
from metas_peft.devices.configurations import draw_configurations
from metas_peft.devices.machine import describe_machine
from metas_peft.devices.profiling import profile

WORKLOAD = Workload(seq_len=32)


@pytest.fixture
def specimens():
    return [Specimen(subnet, MINILM) for subnet in draw_configurations(MINILM, 12, seed=0)]


class Interrupted(Device):
    """Pixel 8 that stops after some configurations, or fails at some of them."""

    def __init__(self, stops_after=10**9, error=KeyboardInterrupt, fails=()):
        self.inner = open_device("pixel-8")
        super().__init__(self.inner.spec, self.inner.ledger)
        self.stops_after, self.error, self.fails = stops_after, error, set(fails)
        self.recalled = []

    def recall(self, specimens, workload, rows):
        self.recalled = list(rows)

    def _measure(self, specimens, workload, purpose, seed):
        self.stops_after -= len(specimens)
        if self.stops_after < 0:
            raise self.error("stop")
        for specimen in specimens:
            if specimen.subnet.key in self.fails:
                raise MeasurementError(f"{specimen.subnet.key} runs out of memory")
        return self.inner._measure(specimens, workload, purpose, seed)


def values(store):
    return {r["subnet_key"]: r["latency_ms"] for r in store.read().rows()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MeterUnavailableError])
def test_interrupted_profiling_goes_on_where_it_stopped(tmp_path, specimens, error):
    store, device = RecordStore(tmp_path / "a"), Interrupted(stops_after=6, error=error)
    with pytest.raises(error):
        profile(device, specimens, WORKLOAD, store, group=3)
    assert len(store.read()) == 6
    again = Interrupted()
    done = profile(again, specimens, WORKLOAD, store, group=3)
    assert (done.measured, done.found, done.failed) == (6, 6, {})
    assert again.ledger.count("pixel-8", Purpose.POOL) == 6
    assert len(again.recalled) == 6, "the device is told what was measured before"
    whole = RecordStore(tmp_path / "b")
    profile(Interrupted(), specimens, WORKLOAD, whole, group=12)
    assert values(store) == values(whole)


def test_finished_profiling_does_nothing(tmp_path, specimens):
    store = RecordStore(tmp_path)
    profile(open_device("pixel-8"), specimens, WORKLOAD, store)
    device = open_device("pixel-8")
    assert profile(device, specimens, WORKLOAD, store).found == 12
    assert device.ledger.total(Purpose.POOL) == 0
    assert len(store.read()) == 12


@pytest.mark.parametrize("change", [{"seq_len": 64}, {"batch_size": 2}, {"param_bits": 8}])
def test_other_workloads_are_measured_anew(tmp_path, specimens, change):
    store = RecordStore(tmp_path)
    profile(open_device("pixel-8"), specimens, WORKLOAD, store)
    done = profile(open_device("pixel-8"), specimens, dataclasses.replace(WORKLOAD, **change), store)
    assert (done.measured, done.found) == (12, 0)


def test_other_runtimes_and_rounds_are_measured_anew(tmp_path, specimens):
    store = RecordStore(tmp_path)
    profile(open_device("pixel-8"), specimens, WORKLOAD, store)
    other = open_device("pixel-8", runtime="mlc_opencl")
    assert profile(other, specimens, WORKLOAD, store).measured == 12
    assert profile(open_device("pixel-8"), specimens, WORKLOAD, store, label="second", seed=1).measured == 12
    rows = store.read().rows()
    assert sorted({r["label"] for r in rows}) == ["", "second"]
    assert len(rows) == 36


def test_failed_configuration_is_recorded_alone_and_tried_again(tmp_path, specimens):
    store, bad = RecordStore(tmp_path), specimens[4].subnet.key
    done = profile(Interrupted(fails=[bad]), specimens, WORKLOAD, store, group=6)
    assert (done.measured, list(done.failed)) == (11, [bad])
    found = store.read()
    assert len(found.profile_records()) == 11
    (failure,) = (r for r in found.profile_records(valid_only=False) if not r.is_valid)
    assert (failure.subnet_key, failure.n_repeats) == (bad, 0)
    assert "out of memory" in failure.why_invalid
    again = profile(Interrupted(), specimens, WORKLOAD, store)
    assert (again.measured, again.found) == (1, 11)


def test_records_note_machine_and_software(tmp_path, specimens):
    store = RecordStore(tmp_path)
    profile(open_device("pixel-8"), specimens[:2], WORKLOAD, store)
    (row, _) = store.read().rows()
    assert "processors" in row["machine"]
    assert "numpy" in row["software"]
    assert row["measured_at"].endswith("+00:00")


def test_progress_counts_what_was_found_already(tmp_path, specimens):
    store, shown = RecordStore(tmp_path), []
    profile(open_device("pixel-8"), specimens[:5], WORKLOAD, store)
    profile(
        open_device("pixel-8"),
        specimens,
        WORKLOAD,
        store,
        group=4,
        progress=lambda done, all_: shown.append((done, all_)),
    )
    assert shown == [(9, 12), (12, 12)]


class Here(Interrupted):
    """The same in the place of this computer, with or without a meter."""

    def __init__(self, meter=""):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, device_id="local")
        self.meters = (meter,) if meter else ()

    def _measure(self, specimens, workload, purpose, seed):
        records = super()._measure(specimens, workload, purpose, seed)
        origin = Origin.MEASURED if self.meters else Origin.MODELLED
        return [
            dataclasses.replace(
                r,
                device="local",
                runtime=self.spec.runtime,
                meter="".join(self.meters) or "a model",
                origin=Cost(origin, Origin.MEASURED, origin),
            )
            for r in records
        ]


def test_board_of_this_computer_is_not_another_one(tmp_path, specimens, monkeypatch):
    store, device = RecordStore(tmp_path), Here("NVML energy counter, board 0")
    device.spec = dataclasses.replace(device.spec, runtime="pytorch_cuda")
    for board, measured in (("A100 GPU-1", 3), ("A100 GPU-1", 0), ("H200 GPU-2", 3)):
        monkeypatch.setattr(machine, "describe_board", lambda board=board: board)
        assert profile(device, specimens[:3], WORKLOAD, store).measured == measured
    assert {row["machine"].rpartition(", ")[2] for row in store.read().rows()} == {"A100 GPU-1", "H200 GPU-2"}
    assert "GPU" not in describe_machine("pytorch_cpu")


def test_this_computer_is_not_another_one_and_a_meter_no_model(tmp_path, specimens, monkeypatch):
    store = RecordStore(tmp_path)
    assert profile(Here(), specimens[:3], WORKLOAD, store).measured == 3
    assert profile(Here(), specimens[:3], WORKLOAD, store).found == 3
    assert profile(Here("RAPL"), specimens[:3], WORKLOAD, store).measured == 3
    assert profile(Here("RAPL"), specimens[:3], WORKLOAD, store).found == 3
    monkeypatch.setattr(profiling, "describe_machine", lambda runtime: "another machine")
    assert profile(Here("RAPL"), specimens[:3], WORKLOAD, store).measured == 3
