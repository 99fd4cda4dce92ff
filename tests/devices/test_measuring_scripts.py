"""The scripts under benchmarks/measuring: what they would measure, and how they compare it; nothing is measured."""

import argparse
import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from metas_peft.core.records import Conditions
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.devices.configurations import draw_configurations

FOLDER = Path(__file__).parents[2] / "benchmarks" / "measuring"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def two_rounds(tmp_path):
    """Records of two rounds; the second on a machine that takes `slower` times as long, and 4 % more for some."""

    def make(slower, odd=1.0):
        specimens = [Specimen(s, MINILM) for s in draw_configurations(MINILM, 8, seed=0)]
        records = open_device("pixel-8").measure(specimens, Workload(), purpose=Purpose.POOL)
        store = RecordStore(tmp_path / "store")
        for number, factor in ((1, 1.0), (2, slower)):
            changed = [
                dataclasses.replace(
                    record,
                    cost=dataclasses.replace(
                        record.cost,
                        latency_ms=record.cost.latency_ms * factor * (odd if number == 2 and i % 2 else 1.0),
                    ),
                    cpu_time_ms=record.cost.latency_ms * factor,
                    known_to_pct=1.0,
                    conditions=Conditions(
                        anchor_key=specimens[0].subnet.key, anchor_ms=10.0 * factor, load_average=0.5
                    ),
                )
                for i, record in enumerate(records)
            ]
            store.append(changed, {"label": f"round {number}"})
        return store.path

    return make


OPTIONS = argparse.Namespace(threads=1, seconds=1.0, batch_size=1, seq_len=128)


def test_common_slowdown_cancels(two_rounds):
    result = script("repeatability").agreement(two_rounds(2.0), OPTIONS)
    assert result["configurations"] == 8
    assert result["wall"]["as_timed"]["median"] == pytest.approx(100.0)
    assert result["wall"]["rescaled"]["most"] == pytest.approx(0.0, abs=1e-9)
    assert result["noise_floor_pct"] == pytest.approx(0.0, abs=1e-9)
    assert result["is_met"]
    assert (result["threads"], result["load_average"]) == (1, [0.5, 0.5])


def test_what_is_not_common_stays(two_rounds):
    result = script("repeatability").agreement(two_rounds(2.0, odd=1.08), OPTIONS)
    assert result["wall"]["rescaled"]["most"] == pytest.approx(8.0)
    assert result["noise_floor_pct"] == pytest.approx(8.0), "four of the seven beside the anchor"
    assert result["cpu"]["rescaled"]["most"] == pytest.approx(0.0, abs=1e-9)
    assert not result["is_met"]


def test_local_records_are_crossed():
    settings = script("local_records").settings()
    assert len(settings) == len(set(settings)) == 60
    assert {s.workload.seq_len for s in settings} == {32, 64, 128}
    assert {s.workload.batch_size for s in settings} == {1, 8}
    assert {s.threads for s in settings} == {1, 2}
    formats = {(s.runtime, s.workload.param_bits) for s in settings}
    assert formats == {("pytorch_cpu", b) for b in (32, 16, 8)} | {("onnxruntime_cpu", b) for b in (32, 8)}
    for s in settings:
        twins = [t for t in settings if t.workload == s.workload]
        assert {(t.runtime, t.threads) for t in twins} >= {("pytorch_cpu", 1), ("pytorch_cpu", 2)}
