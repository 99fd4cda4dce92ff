"""The simulator against what others measured; the points are in the catalogue, the page about them in docs."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, Counts
from metas_peft.devices import catalogue
from metas_peft.devices.entry import DeviceEntry, PublishedPoint, Status
from metas_peft.devices.published import PUBLISHED_SHAPES, compare, compare_all, share_within
from metas_peft.devices.simulated import simulate

ROOT = Path(__file__).parents[2]
ROWS = compare_all()
SIMULATED = [row for row in ROWS if row.is_simulated]


def simulated_ms(entry: DeviceEntry, point: PublishedPoint) -> float:
    latency_ms = compare(entry, point).latency_ms
    assert latency_ms is not None
    return latency_ms


def test_published_points_are_all_there():
    assert len(ROWS) == 76
    assert len(SIMULATED) == 70
    assert sum(row.point.is_held_out for row in SIMULATED) == 6
    assert not any(row.point.is_exception for row in ROWS)


@pytest.mark.parametrize("row", SIMULATED, ids=lambda r: f"{r.device}-{r.point.model}-{r.point.runtime}")
def test_simulated_time_is_within_the_trust_of_its_runtime(row):
    assert row.is_within, row.time_ratio


def test_no_simulated_power_exceeds_the_cap():
    powers = [row for row in SIMULATED if row.peak_power_w is not None]
    assert len(powers) == 67
    for row in powers:
        entry = catalogue()[row.device]
        entry = entry.variant(row.point.variant) if row.point.variant else entry
        assert row.mean_power_w <= row.peak_power_w <= entry.cap_w


def test_published_powers_are_within_a_third():
    rows = [r for r in SIMULATED if r.point.mean_power_w is not None]
    assert len(rows) == 6
    assert all(0.8 < r.mean_power_w / r.point.mean_power_w < 1.05 for r in rows)
    peaks = [r for r in SIMULATED if r.point.peak_power_w is not None]
    assert len(peaks) == 6
    assert all(1 / 1.5 < r.peak_power_w / r.point.peak_power_w < 1.5 for r in peaks)


def test_fitted_points_are_close_in_the_middle_too():
    fitted = [row for row in SIMULATED if row.status is Status.FITTED]
    assert len(fitted) == 44
    assert share_within(fitted) >= 0.95
    ratios = sorted(row.time_ratio for row in fitted)
    assert abs(ratios[len(ratios) // 2] - 1) < 0.05


def test_reason_is_given_for_every_point_that_is_not_simulated():
    assert [row.point.model for row in ROWS if not row.is_simulated].count("mobilebert") == 3
    assert all(len(row.point.why_not) > 20 for row in ROWS if not row.is_simulated)


def page_script():
    spec = importlib.util.spec_from_file_location("simulators", ROOT / "benchmarks" / "measuring" / "simulators.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_on_simulators_is_what_its_command_writes():
    """After a change of the catalogue or the simulator: python benchmarks/measuring/simulators.py --write."""
    script = page_script()
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.render()
    assert page.count("\n| a100") == 25
    assert "Exceptions, outside of what their parameters promise: none." in page
    assert all(catalogue()[name].name in page for name in catalogue())


def test_every_assumption_is_on_the_page_with_its_value():
    script = page_script()
    raw = script._raw(catalogue()["pixel-8"])
    assert script._value(raw, "rates.int8.peak_tflops") == "8"
    variants = script._raw(catalogue()["epyc"])
    assert script._value(variants, "variants.2 x EPYC 9654.size_gb") == "512"
    page = script.PAGE.read_text(encoding="utf-8")
    paths = [path for name in catalogue() for path in catalogue()[name].assumptions()]
    assert len(paths) > 100
    assert all(f"| {path} |" in page for path in paths)


@pytest.mark.parametrize(
    ("name", "runtime"), [("a100", "llamacpp"), ("rtx-a6000", "llamacpp"), ("macbook-m2", "llamacpp")]
)
def test_decoding_is_bound_by_the_bytes_of_the_weights(name, runtime):
    entry = catalogue()[name]
    shape, chosen = PUBLISHED_SHAPES["llama-2-7b"], entry.runtime(runtime)
    point = PublishedPoint("llama-2-7b", runtime, "decode", 1, 1, 64, 16, 1.0, "")
    read_s = 13.2e9 / (chosen.memory_efficiency * entry.bandwidth_gb_per_s * 1e9)
    launch_s = shape.n_layers * 24 * chosen.op_overhead_us * 1e-6
    assert simulated_ms(entry, point) == pytest.approx((read_s + launch_s) * 1e3, rel=0.25)


def test_halving_the_bits_of_weights_speeds_decoding_on_the_m2():
    entry = catalogue()["macbook-m2"]
    ms = [
        simulated_ms(entry, PublishedPoint("llama-2-7b", "llamacpp", "decode", 1, 1, 64, b, 1.0, ""))
        for b in (16, 8, 4)
    ]
    assert 1.6 < ms[0] / ms[1] < 1.9
    assert 1.6 < ms[1] / ms[2] < 1.9


def test_eager_pass_of_a_small_batch_is_bound_by_launches_on_the_a100():
    entry = catalogue()["a100"]
    eager, fused = (
        simulated_ms(entry, PublishedPoint("bert-base", r, "prefill", 1, 128, 0, 16, 1.0, ""))
        for r in ("pytorch_eager", "tensorrt")
    )
    assert eager == pytest.approx(2.3, rel=0.25)
    assert eager > 3 * fused


def test_energy_follows_latency_on_the_raspberry_pi():
    """Its power is nearly constant, so energy by latency varies little between sizes."""
    entry = catalogue()["raspberry-pi-4"]
    watts = []
    for layers in (1, 2, 4, 6):
        counts = Counts.dense(dataclasses.replace(MINILM, n_layers=layers))
        shape = dataclasses.replace(MINILM, n_layers=layers)
        watts.append(float(simulate(entry, entry.runtime(), shape, counts, Workload()).mean_power_w))
    assert max(watts) / min(watts) < 1.05


def test_status_without_published_points_is_not_fitted_to_them():
    for name in catalogue():
        for runtime in catalogue()[name].runtimes.values():
            if runtime.status is Status.ASSUMED:
                assert not any(p.runtime == runtime.name and not p.why_not for p in catalogue()[name].published)


def test_dense_subnet_is_the_default_shape():
    assert Subnet.dense(PUBLISHED_SHAPES["bert-base"]).kept_layers == 12
