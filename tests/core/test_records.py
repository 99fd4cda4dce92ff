"""Measurement records on their way through a row and JSON."""

import json

from metas_peft.core.cost import Cost, Origin, PaperCost
from metas_peft.core.records import ProfileRecord
from metas_peft.core.workload import Workload


def record(**changes):
    values = {
        "device": "pixel-8", "model_id": "tiny", "subnet_key": "0123456789", "workload": Workload(seq_len=16),
        "paper": PaperCost(1e6, 2e5, 3e4, 0.0, 33.0), "cost": Cost(0.25, 12.5, None),
        "origin": Cost(Origin.SIMULATED, Origin.MEASURED, None), "kept_layers": 3, "kept_heads": 7, "kept_ranks": 4,
        "kept_ffn": 20, "n_layers": 3,
    }  # fmt: skip
    return ProfileRecord(**{**values, **changes})


def test_record_survives_a_row_and_json():
    whole = record(latency_std_ms=0.5, threads=1, meter="clock", why_invalid="", idle_power_w=None)
    row = json.loads(json.dumps(whole.as_row()))
    assert ProfileRecord.from_row(row) == whole
    assert row["peak_power_w"] is None
    assert (row["seq_len"], row["flops"], row["energy_j"]) == (16, 1e6, 0.25)


def test_row_calls_itself_by_its_weakest_number():
    assert record().as_row()["origin"] == "simulated"
    assert record(origin=Cost(None, Origin.MEASURED, None)).as_row()["origin"] == "measured"
    assert record(origin=Cost(None, None, None), cost=Cost(None, None, None)).as_row()["origin"] is None


def test_row_of_another_file_with_one_origin_has_it_for_every_number_it_holds():
    row = {k: v for k, v in record().as_row().items() if not k.startswith("origin_")} | {"origin": "imported"}
    assert ProfileRecord.from_row(row).origin == Cost(Origin.IMPORTED, Origin.IMPORTED, None)
