import dataclasses

import numpy as np
import pytest
import torch

from metas_peft.core.cost import Cost
from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate import MetaTrained, percent_errors, summarise, train
from metas_peft.surrogate.assess import draw_samples, mean_error
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.rivals import Constant, LogAffine, pool_fits


def test_summary_of_known_errors() -> None:
    errors = np.array([[10.0, 1.0, np.nan], [20.0, 1.0, np.nan], [60.0, 4.0, np.nan]])
    out = summarise(errors)
    assert out["energy"] == {"mape": 30.0, "median_ape": 20.0, "p90_ape": pytest.approx(52.0), "n_eval": 3}
    assert out["latency"]["mape"] == 2.0
    assert "power" not in out


def test_percent_errors_are_relative_to_the_measurement() -> None:
    out = percent_errors(np.array([[50.0, 3.0, 1.0]]), np.array([[100.0, 2.0, np.nan]]))
    assert out[0, :2].tolist() == [50.0, 50.0]
    assert np.isnan(out[0, 2])


def test_draws_keep_samples_and_tests_apart_and_within_a_setting(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records, InvalidRecordError)
    own = table.take(table.device == 0)
    pairs = draw_samples(own, "setting", 5, 20, np.random.default_rng(0))
    assert len(pairs) == 20
    for chosen, tested in pairs:
        assert len(chosen) == 5
        assert not set(chosen) & set(tested)
        assert len(set(own.setting[np.concatenate([chosen, tested])])) == 1
    assert len({own.setting[c[0]] for c, _ in pairs}) == 8
    across = draw_samples(own, "device", 5, 3, np.random.default_rng(0))
    assert all(len(c) + len(t) == len(own) for c, t in across)


def test_draws_are_none_when_no_setting_is_large_enough(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records[:5], InvalidRecordError)
    assert draw_samples(table, "setting", 5, 3, np.random.default_rng(0)) == []


def test_pool_may_hold_a_device_that_lacks_a_metric_everywhere_or_in_some_rows(
    pool_records: list[ProfileRecord],
) -> None:
    def less(number: int, r: ProfileRecord) -> ProfileRecord:
        lacks_it = r.device == "pi" or (r.device == "desk" and number % 3)
        return dataclasses.replace(r, cost=Cost(None, r.cost.latency_ms, r.cost.peak_power_w)) if lacks_it else r

    records = [less(number, r) for number, r in enumerate(pool_records)]
    found = train(records, seed=0, kinds=("roofline",), draws=8).errors["device"]
    assert set(found["pi"]["roofline"]) == {"latency", "power"}
    assert set(found["desk"]["roofline"]) == {"energy", "latency", "power"}


def test_every_pool_device_is_held_out_with_every_method(trained: MetaTrained) -> None:
    assert set(trained.errors) == {"setting", "device", "zero_shot"}
    for scope in ("setting", "device"):
        assert list(trained.errors[scope]) == ["board", "desk", "laptop", "pi"]
        for by_method in trained.errors[scope].values():
            assert set(by_method) == {"reference", "roofline", "constant", "log_affine"}
            assert all(set(e) == {"energy", "latency", "power"} for e in by_method.values())
            assert len({e["energy"]["n_eval"] for e in by_method.values()}) == 1
    assert all(set(by_method) == {"reference", "roofline"} for by_method in trained.errors["zero_shot"].values())


def test_choice_is_the_smaller_mean_error_on_held_out_pool_devices(trained: MetaTrained) -> None:
    means = {
        kind: np.mean(
            [
                trained.errors["setting"][d][kind][m]["mape"]
                for d in trained.devices
                for m in ("energy", "latency", "power")
            ]
        )
        for kind in ("reference", "roofline")
    }
    assert trained.choose() == min(means, key=means.__getitem__) == "roofline"
    assert mean_error(trained.errors["setting"], "roofline") == pytest.approx(means["roofline"])
    assert trained.why().startswith("roofline has the smallest mean error")


def test_choice_follows_the_errors_and_admits_a_better_rival(trained: MetaTrained) -> None:
    def cell(value: float) -> dict[str, dict[str, float]]:
        return {"energy": {"mape": value, "median_ape": value, "p90_ape": value, "n_eval": 9}}

    errors = {"setting": {"pi": {"reference": cell(5.0), "roofline": cell(9.0), "log_affine": cell(2.0)}}}
    turned = MetaTrained(trained.kinds, trained.devices, trained.n_records, errors, 0)
    assert turned.choose() == "reference"
    assert "does not beat log_affine" in turned.why()


def test_roofline_beats_both_humble_rivals_on_made_up_devices(trained: MetaTrained) -> None:
    means = {m: mean_error(trained.errors["setting"], m) for m in ("roofline", "constant", "log_affine")}
    assert means["roofline"] < 4
    assert means["roofline"] < means["log_affine"] < means["constant"]


def test_constant_is_the_median_of_what_was_measured(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records[:5], InvalidRecordError)
    out = Constant.fit(table)(torch.zeros(2, 11))
    assert out.shape == (2, 3)
    assert out[1].tolist() == np.median(table.costs, axis=0).tolist()


def test_log_affine_finds_the_pool_device_that_the_target_is_a_power_of(
    trained: MetaTrained, pool_records: list[ProfileRecord]
) -> None:
    table = Table.of(pool_records, InvalidRecordError)
    fits = pool_fits(trained.kinds["roofline"], table)
    rows = table.take(np.flatnonzero(table.setting == 2)[:12])
    columns = torch.from_numpy(rows.features)
    source = fits[1](columns).numpy()
    like = Table(rows.devices, rows.device, rows.setting, rows.features, 3.0 * source**0.9)
    line = LogAffine.fit(like.take(np.array([0, 3, 5, 8, 11])), fits)
    assert line.sources[1] is fits[1]
    assert line(columns)[:, 1].numpy() == pytest.approx(3.0 * source[:, 1] ** 0.9, rel=1e-2)
