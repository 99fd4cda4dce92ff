"""Evaluation from records, and records from files that tell little."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metas_peft.core.cost import Cost
from metas_peft.core.errors import InvalidRecordError, UnknownNameError
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate.evaluate import evaluate, noise_floor
from metas_peft.surrogate.from_files import read_records

QUICK = ("metas", "roofline", "constant", "log_affine")


def test_every_pool_device_is_left_out_in_turn(pool_records: list[ProfileRecord]) -> None:
    found = evaluate(pool_records, draws=4, methods=QUICK)
    assert set(found["devices"]) == {"board", "desk", "laptop", "pi"}
    for by_method in found["devices"].values():
        assert set(by_method) == set(QUICK)
        for by_metric in by_method.values():
            assert set(by_metric) == {"energy", "latency", "power"}
            for figures in by_metric.values():
                assert set(figures) == {"mape", "median_ape", "p90_ape", "n_eval"}
                assert figures["median_ape"] <= figures["p90_ape"]
    assert found["settings"]["leave_one_out"] is True
    means = {m: np.mean([d[m]["latency"]["mape"] for d in found["devices"].values()]) for m in QUICK}
    assert means["metas"] < means["constant"]


def test_unseen_devices_are_tested_and_may_not_be_in_the_pool(pool_records: list[ProfileRecord]) -> None:
    pool = [r for r in pool_records if r.device != "pi"]
    unseen = [r for r in pool_records if r.device == "pi"]
    found = evaluate(pool, unseen, draws=2, methods=("metas", "constant"))
    assert set(found["devices"]) == {"pi"}
    assert "pi" not in found["settings"]["pool"]
    with pytest.raises(InvalidRecordError, match="pi is in the pool and among the unseen"):
        evaluate(pool_records, unseen, draws=2, methods=("metas",))


def test_a_metric_that_a_device_lacks_is_left_out_of_its_errors(pool_records: list[ProfileRecord]) -> None:
    less = [
        dataclasses.replace(r, cost=Cost(None, r.cost.latency_ms, None)) if r.device == "pi" else r
        for r in pool_records
    ]
    found = evaluate(less, draws=2, methods=QUICK)["devices"]
    assert set(found["pi"]["metas"]) == {"latency"}
    assert set(found["desk"]["metas"]) == {"energy", "latency", "power"}


def test_peak_power_alone_is_not_held_against_an_energy_that_nobody_measured(pool_records: list[ProfileRecord]) -> None:
    def without_energy(r: ProfileRecord) -> ProfileRecord:
        less = dataclasses.replace(r, cost=Cost(None, r.cost.latency_ms, r.cost.peak_power_w))
        return less if r.device == "pi" else r

    whole = evaluate(pool_records, draws=4, methods=QUICK)["devices"]["pi"]["metas"]
    found = evaluate([without_energy(r) for r in pool_records], draws=4, methods=QUICK)["devices"]["pi"]["metas"]
    assert set(found) == {"latency", "power"}
    assert found["power"]["mape"] < 2 * whole["power"]["mape"] + 5


def test_draws_are_decided_by_the_seed(pool_records: list[ProfileRecord]) -> None:
    first, again, other = (evaluate(pool_records, draws=2, seed=s, methods=("constant",)) for s in (1, 1, 2))
    assert first["devices"] == again["devices"]
    assert first["devices"] != other["devices"]


def test_unknown_methods_and_small_pools_are_refused(pool_records: list[ProfileRecord]) -> None:
    with pytest.raises(UnknownNameError, match="Unknown method 'metaz'"):
        evaluate(pool_records, methods=("metaz",))
    two = [r for r in pool_records if r.device in ("pi", "desk")]
    with pytest.raises(InvalidRecordError, match=r"holds 2 device\(s\)"):
        evaluate(two, methods=("reference",))


def test_noise_floor_is_the_interval_of_the_median_else_its_standard_error(pool_records: list[ProfileRecord]) -> None:
    known = [dataclasses.replace(pool_records[0], known_to_pct=value) for value in (1.0, 2.0, 3.0)]
    assert noise_floor(known) == {pool_records[0].device: {"latency": 2.0}}
    latency = pool_records[0].cost.latency_ms
    assert latency is not None
    spread = [dataclasses.replace(pool_records[0], latency_std_ms=0.04 * latency, n_repeats=16)]
    assert noise_floor(spread)[pool_records[0].device]["latency"] == pytest.approx(1.0)
    assert noise_floor(pool_records) == {}


def test_files_with_the_needed_columns_alone_are_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flops = rng.uniform(1e8, 1e9, 60)
    table = pa.table(
        {
            "device": [f"d{i % 3}" for i in range(60)], "batch_size": [1] * 60, "flops": flops,
            "weight_bytes": flops / 50, "latency_ms": flops * 1e-7 * (1 + np.arange(60) % 3),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "plain.parquet")
    records = read_records([tmp_path / "plain.parquet"])
    assert len(records) == 60
    assert records[0].paper.act_bytes == 0
    assert records[0].cost.energy_j is None
    found = evaluate(records, draws=3, methods=("metas", "roofline", "constant"))["devices"]
    assert found["d0"]["metas"]["latency"]["mape"] < 2
    assert set(found["d0"]["metas"]) == {"latency"}
