"""The surrogate in the package: what it holds, and what it may never do."""

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.core.cost import METRICS, PAPER_COSTS, Cost, PaperCost
from metas_peft.core.errors import CalibrationError, UnknownNameError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.units import S_PER_MS
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE, Counts, random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.devices.loading import catalogue
from metas_peft.surrogate import MetaTrained, Surrogate, design, percent_errors, shipped

BOUNDS = (2.4, 3.1, 4.0)  # percent: energy, latency, peak power
MONOTONE = ("flops", "weight_bytes", "act_bytes", "kv_bytes", "n_ops")
WORKLOADS = {"minilm": (MINILM, Workload(seq_len=64)), "roberta": (ROBERTA_BASE, Workload(seq_len=128, batch_size=4))}


def measured(
    device: str, setting: str = "minilm", n: int = 60, seed: int = 0
) -> tuple[list[ProfileRecord], np.ndarray]:
    """Noisy records of n configurations, and their noise-free costs (n, 3)."""
    shape, workload = WORKLOADS[setting]
    opened = open_device(device)
    subnets = random_prefixes(shape, n, seed=7)
    specimens = [Specimen(subnet, shape) for subnet in subnets]
    records = opened.measure(specimens, workload, purpose=Purpose.CALIBRATION, seed=seed)
    truth = opened.truth_counts(shape, Counts.stack(subnets, shape), workload)
    return records, np.stack([value for _, value in truth.items()], axis=-1)


def fitted(device: str, setting: str = "minilm", k: int = 5) -> Surrogate:
    records, _ = measured(device, setting)
    chosen = design([r.paper for r in records], k, "quantiles")
    return shipped().fit("metas", [records[i] for i in chosen], open_device(device).spec)


def stacked(papers: Sequence[PaperCost[float]]) -> PaperCost[np.ndarray]:
    return PaperCost(*(np.array([getattr(p, name) for p in papers]) for name in PAPER_COSTS))


def test_shipped_has_seen_no_device_and_is_small() -> None:
    surrogate = shipped()
    assert surrogate.devices == ()
    assert set(surrogate.kinds) == {"metas", "roofline"}
    assert surrogate.choose() == "metas"
    folder = resources.files("metas_peft.surrogate") / "weights"
    with resources.as_file(folder / "meta_surrogate_v1.safetensors") as path:
        assert path.stat().st_size < 2e6
    card = json.loads((folder / "meta_surrogate_v1.json").read_text())
    assert {"pool", "median_errors_pct", "versions", "seed", "training_seconds"} <= set(card)
    text = json.dumps(card).lower()
    assert not [name for name in catalogue() if name in text]


@pytest.mark.parametrize("device", sorted(catalogue()))
def test_shipped_meets_its_bounds_on_every_simulator(device: str) -> None:
    errors = []
    for seed in range(4):
        records, truth = measured(device, n=50, seed=seed)
        chosen = design([r.paper for r in records], 5, "quantiles")
        model = shipped().fit("metas", [records[i] for i in chosen], open_device(device).spec)
        rest = np.setdiff1d(np.arange(len(records)), chosen)
        said = model.predict(stacked([records[i].paper for i in rest]), records[0].workload)
        errors.append(percent_errors(np.stack([v for _, v in said.items()], -1), truth[rest]).mean(0))
    assert (np.mean(errors, axis=0) < BOUNDS).all()


@settings(max_examples=150, deadline=None)
@given(
    device=st.sampled_from(["pixel-8", "jetson-nano", "h200"]),
    setting=st.sampled_from(sorted(WORKLOADS)),
    start=st.tuples(*(st.floats(-4, 4) for _ in MONOTONE)),
    step=st.tuples(*(st.floats(0, 3) for _ in MONOTONE)),
)
def test_shipped_never_says_that_more_costs_less(
    device: str, setting: str, start: tuple[float, ...], step: tuple[float, ...]
) -> None:
    model = cached(device, setting)
    reference = model[1]
    low = PaperCost(*(value * np.exp(s) for value, s in zip(dataclasses.astuple(reference), start, strict=True)))
    high = PaperCost(*(value * np.exp(s) for value, s in zip(dataclasses.astuple(low), step, strict=True)))
    before, after = (model[0].predict(p, WORKLOADS[setting][1]) for p in (low, high))
    for name in ("energy_j", "latency_ms"):
        assert getattr(after, name) >= getattr(before, name) * (1 - 1e-12)
    for cost in (before, after):
        mean_w = cost.energy_j / (cost.latency_ms * S_PER_MS)
        cap = model[0].power_cap_w
        assert all(value > 0 and np.isfinite(value) for _, value in cost.items())
        assert mean_w <= cost.peak_power_w * (1 + 1e-9)
        assert cap is not None
        assert cost.peak_power_w <= cap * (1 + 1e-9)


_FITTED: dict[tuple[str, str], tuple[Surrogate, PaperCost[float]]] = {}


def cached(device: str, setting: str) -> tuple[Surrogate, PaperCost[float]]:
    """A surrogate, and the counts of a pass in the middle of its points; fitted once."""
    if (device, setting) not in _FITTED:
        _FITTED[device, setting] = (fitted(device, setting), measured(device, setting)[0][0].paper)
    return _FITTED[device, setting]


def test_shipped_is_differentiable_in_kept_counts() -> None:
    model = fitted("pixel-8").bind(MINILM, WORKLOADS["minilm"][1])
    layers = MINILM.n_layers
    neurons = torch.full((layers,), 700.0, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(layers, dtype=torch.float64)
    counts = Counts(0.8 * ones, 0.8 * ones, 6 * ones, neurons, torch.zeros(layers, 0, dtype=torch.float64))
    for metric in METRICS:
        (gradient,) = torch.autograd.grad(getattr(model(counts), metric), neurons)
        nudged = []
        for step in (0.5, -0.5):
            moved = neurons.detach().clone()
            moved[2] += step
            nudged.append(float(getattr(model(dataclasses.replace(counts, neurons=moved)), metric)))
        assert float(gradient[2]) == pytest.approx(nudged[0] - nudged[1], rel=1e-4)
        if metric != "peak_power_w":
            assert (gradient > 0).all()


def test_shipped_interval_holds_about_four_readings_of_five() -> None:
    inside = []
    for device in sorted(catalogue()):
        for setting, way in (("minilm", "quantiles"), ("roberta", "quantiles"), ("roberta", "random")):
            records, _ = measured(device, setting)
            chosen = design([r.paper for r in records], 5, way, seed=3)
            model = shipped().fit("metas", [records[i] for i in chosen], open_device(device).spec)
            rest = [r for i, r in enumerate(records) if i not in chosen]
            low, high = model.interval(stacked([r.paper for r in rest]), rest[0].workload)
            for metric in METRICS:
                read = np.array([getattr(r.cost, metric) for r in rest])
                inside.append(np.mean((getattr(low, metric) <= read) & (read <= getattr(high, metric))))
    assert 0.72 < np.mean(inside) < 0.9


def test_shipped_calibrates_on_one_record_and_refuses_one_for_a_scale_and_shift() -> None:
    records, truth = measured("pixel-8")
    model = shipped().fit("metas", records[:1])
    assert model.scale_shift is None
    said = model.predict(records[0].paper, records[0].workload)
    assert [v for _, v in said.items()] == pytest.approx(truth[0].tolist(), rel=0.3)
    with pytest.raises(CalibrationError, match="at least 2"):
        shipped().fit("metas", records[:1], scale_shift=True)


def test_shipped_fills_a_metric_that_some_records_lack() -> None:
    records, truth = measured("jetson-nano")
    some = [records[i] for i in design([r.paper for r in records], 6, "quantiles")]
    less = [dataclasses.replace(r, cost=Cost(None, r.cost.latency_ms, r.cost.peak_power_w)) for r in some[:2]]
    model = shipped().fit("metas", [*less, *some[2:]])
    said = model.predict(stacked([r.paper for r in records]), records[0].workload)
    assert percent_errors(said.energy_j[:, None], truth[:, :1]).mean() < 8
    none = [dataclasses.replace(r, cost=Cost(None, r.cost.latency_ms, r.cost.peak_power_w)) for r in some]
    with pytest.raises(CalibrationError, match="energy was never measured"):
        shipped().fit("metas", none)


def test_shipped_warns_of_records_far_outside_what_was_learnt(caplog: pytest.LogCaptureFixture) -> None:
    records, _ = measured("pixel-8")
    far = [dataclasses.replace(r, paper=dataclasses.replace(r.paper, flops=r.paper.flops * 1e9)) for r in records[:5]]
    shipped().fit("metas", far)
    assert [r for r in caplog.records if r.levelname == "WARNING" and "flops" in r.getMessage()]
    caplog.clear()
    shipped().fit("metas", records[:5])
    assert not caplog.records


def test_shipped_reads_the_same_from_both_formats(tmp_path) -> None:
    records, _ = measured("h200")
    here = shipped().fit("metas", records[:5]).predict(records[9].paper, records[9].workload)
    for name in ("meta.safetensors", "meta_surrogate_v1.pt"):
        shipped().save(tmp_path / name)
        again = MetaTrained.load(tmp_path / name).fit("metas", records[:5])
        assert again.predict(records[9].paper, records[9].workload) == here


def test_shipped_zero_shot_is_within_a_factor_of_the_truth_and_gives_no_interval() -> None:
    for device in ("pixel-8", "macbook-m2", "rtx-a6000"):
        records, truth = measured(device)
        model = shipped().zero_shot("metas", open_device(device).spec)
        said = model.predict(stacked([r.paper for r in records]), records[0].workload)
        ratio = np.stack([v for _, v in said.items()], -1) / truth
        assert (np.abs(np.log(np.median(ratio, axis=0))) < np.log(30)).all()
        with pytest.raises(UnknownNameError, match="gives no interval"):
            model.interval(records[0].paper, records[0].workload)


def test_shipped_predicts_a_decoder_from_the_same_file() -> None:
    workload = Workload(phase="decode", seq_len=1, context_len=256, param_bits=4)
    device = open_device("macbook-m2")
    subnets = random_prefixes(LLAMA_2_7B, 40, seed=1)
    records = device.measure([Specimen(s, LLAMA_2_7B) for s in subnets], workload, purpose=Purpose.CALIBRATION)
    chosen = design([r.paper for r in records], 5, "quantiles")
    model = shipped().fit("metas", [records[i] for i in chosen], device.spec)
    truth = device.truth_counts(LLAMA_2_7B, Counts.stack(subnets, LLAMA_2_7B), workload)
    said = model.predict(stacked([r.paper for r in records]), workload)
    for metric, bound in zip(METRICS, BOUNDS, strict=True):
        assert 100 * np.abs(getattr(said, metric) / getattr(truth, metric) - 1).mean() < bound
