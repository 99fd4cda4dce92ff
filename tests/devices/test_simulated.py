import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.errors import UnknownNameError, UsageError
from metas_peft.core.shape import AdapterSite
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE, Counts
from metas_peft.devices import Ledger, Purpose, SimulatedDevice, Specimen, catalogue, open_device
from metas_peft.devices.noise import REPEAT_LIMIT, sensor_bias
from metas_peft.devices.simulated import simulate

ALL = sorted(catalogue())


def run(entry, shape, subnet, workload):
    return simulate(entry, entry.runtime(), shape, Counts.of(subnet, shape), workload)


def test_one_layer_costs_what_one_computes_by_hand(make_entry, one_ffn):
    # 5 GB/s and 0.5 TFLOP/s are reached: every product is bound by memory.
    up_bytes = 4 * (64 * 128 + 128) + 4 * 32 * (64 + 128)
    down_bytes = 4 * (64 * 128 + 64) + 4 * 32 * (64 + 128)
    outer_bytes = 4 * 32 * 64 * 2
    total_bytes = up_bytes + down_bytes + outer_bytes
    # Three of a fused layer's seven kernels are the feed-forward's, three are outside; 10 us each, 5 us the call.
    seconds = total_bytes / 5e9 + (3 + 3) * 10e-6 + 5e-6
    flops = 2 * 2 * 32 * 64 * 128
    watts = 1 + 2 + (flops * 1e-12 + total_bytes * 100e-12) / seconds
    up_watts = 1 + 2 + (flops / 2 * 1e-12 + up_bytes * 100e-12) / (up_bytes / 5e9)
    result = run(make_entry(), *one_ffn)
    assert result.latency_ms == pytest.approx(seconds * 1e3)
    assert result.mean_power_w == pytest.approx(watts)
    assert result.energy_j == pytest.approx(watts * seconds)
    assert result.peak_power_w == pytest.approx(watts + (up_watts - watts) * up_bytes / 5e9 / 0.1)
    assert result.clock == 1.0


def test_compute_bound_layer_takes_flops_by_rate(make_entry, one_ffn):
    shape, subnet, workload = one_ffn
    entry = make_entry(
        edits={"bandwidth_gb_per_s: [10": "bandwidth_gb_per_s: [1.0e+9", "op_overhead_us: 10": "op_overhead_us: 0"}
    )
    flops = 2 * 2 * 32 * 64 * 128
    assert run(entry, shape, subnet, workload).latency_ms == pytest.approx((flops / 0.5e12 + 5e-6) * 1e3, rel=1e-3)
    half = dataclasses.replace(workload, param_bits=16)
    assert run(entry, shape, subnet, half).latency_ms == pytest.approx((flops / 1e12 + 5e-6) * 1e3, rel=1e-3)


def test_power_above_the_cap_slows_the_clock_until_it_is_met(make_entry, one_ffn):
    edits = {
        "bandwidth_gb_per_s: [10": "bandwidth_gb_per_s: [1.0e+9", "op_overhead_us: 10": "op_overhead_us: 0",
        "call_overhead_us: 5": "call_overhead_us: 0", "pj_per_byte: [100": "pj_per_byte: [0",
    }  # fmt: skip
    free = run(make_entry(edits={**edits, "pj_per_flop: [1,": "pj_per_flop: [20,"}), *one_ffn)
    assert free.mean_power_w == pytest.approx(3 + 0.5e12 * 20e-12, rel=1e-3)
    capped = run(make_entry(cap=8, edits={**edits, "pj_per_flop: [1,": "pj_per_flop: [20,"}), *one_ffn)
    # All power but 3 W is the arithmetic's, so 10 W * s^2.4 = 5 W.
    assert capped.clock == pytest.approx(0.5 ** (1 / 2.4), rel=1e-3)
    assert capped.mean_power_w == pytest.approx(8, rel=1e-6)
    assert capped.latency_ms == pytest.approx(free.latency_ms / capped.clock, rel=1e-6)


def test_working_set_beyond_memory_takes_ten_times_as_long(make_entry, one_ffn):
    roomy, tight = make_entry(), make_entry(edits={"size_gb: [1,": "size_gb: [0.0001,"})
    assert not run(roomy, *one_ffn).is_swapping
    result = run(tight, *one_ffn)
    assert result.is_swapping
    assert result.latency_ms == pytest.approx(10 * run(roomy, *one_ffn).latency_ms)


@pytest.mark.parametrize(("style", "writes"), [("fused", False), ("trtllm", False), ("graph", True), ("eager", True)])
def test_attention_scores_are_moved_only_by_runtimes_that_write_them(make_entry, style, writes):
    free = {"op_overhead_us: 10": "op_overhead_us: 0", "pj_per_flop: [1,": "pj_per_flop: [0,"}
    subnet, workload = Subnet.prefix([12] * 6, [0] * 6), Workload(seq_len=512)
    joules = run(make_entry(style=style, edits=free), MINILM, subnet, workload)
    least = run(make_entry(edits=free), MINILM, subnet, workload)
    dynamic = (joules.mean_power_w - 3) * joules.latency_ms - (least.mean_power_w - 3) * least.latency_ms
    scores_j = 6 * 2 * 4 * 12 * 512 * 512 * 100e-12
    assert dynamic * 1e-3 == pytest.approx(scores_j if writes else 0, rel=1e-6, abs=1e-9)


def test_separate_adapters_cost_time_and_merged_ones_do_not(make_entry):
    shape = dataclasses.replace(MINILM, sites=(AdapterSite("q", 8), AdapterSite("down", 8)))
    dense, entry = Subnet.dense(shape), make_entry()
    merged, plain = run(entry, shape, dense, Workload()), run(entry, MINILM, dense, Workload())
    separate = run(entry, shape, dense, Workload(adapter="separate"))
    assert merged.latency_ms == plain.latency_ms
    assert separate.latency_ms > merged.latency_ms + 6 * 2 * 2 * 10e-3  # two launches per site and layer


@pytest.mark.parametrize("name", ALL)
def test_readings_obey_physics_on_every_device(name):
    device = SimulatedDevice(catalogue()[name])
    cap_w = device.entry.cap_w
    for shape, bits, batch in itertools.product((MINILM, ROBERTA_BASE, LLAMA_2_7B), (32, 16, 8, 4), (1, 32)):
        specimens = [
            Specimen(Subnet.prefix([h] * shape.n_layers, [f] * shape.n_layers), shape)
            for h, f in ((shape.n_heads, shape.ffn_blocks), (1, 1), (0, 2))
        ]
        workload = Workload(batch_size=batch, param_bits=bits)
        records = device.measure(specimens, workload, purpose=Purpose.POOL)
        truths = device.truth(specimens, workload)
        readings = [(r.cost, r.mean_power_w) for r in records]
        readings += [(t, t.energy_j / t.latency_ms * 1e3) for t in truths]
        for cost, mean_w in readings:
            assert cost.energy_j == pytest.approx(mean_w * cost.latency_ms * 1e-3)
            assert device.entry.idle_w * 0.8 < mean_w <= cost.peak_power_w * (1 + 1e-12)
            assert cost.peak_power_w <= cap_w
        assert truths[0].latency_ms > truths[1].latency_ms
        assert truths[0].energy_j > truths[1].energy_j


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=6, max_size=6),
    st.integers(0, 5),
    st.sampled_from([1, 8]),
)
def test_latency_and_energy_never_fall_when_something_is_added(name, layers, where, batch):
    device = SimulatedDevice(catalogue()[name])
    heads, blocks = (list(x) for x in zip(*layers, strict=True))
    smaller = Counts(*(np.asarray(a, float) for a in ([min(h, 1) for h in heads], [min(f, 1) for f in blocks], heads)),
                     np.asarray(blocks, float) * 128, np.zeros((6, 0)))  # fmt: skip
    heads[where], blocks[where] = min(12, heads[where] + 1), min(12, blocks[where] + 1)
    larger = Counts(*(np.asarray(a, float) for a in ([min(h, 1) for h in heads], [min(f, 1) for f in blocks], heads)),
                    np.asarray(blocks, float) * 128, np.zeros((6, 0)))  # fmt: skip
    workload = Workload(batch_size=batch)
    low, high = (device.truth_counts(MINILM, c, workload) for c in (smaller, larger))
    assert high.latency_ms >= low.latency_ms * (1 - 1e-9)
    assert high.energy_j >= low.energy_j * (1 - 1e-9)


def test_truth_counts_takes_a_batch_of_fractional_counts(minilm):
    device = open_device("pixel-8")
    specimens = [minilm(12, 12), minilm(4, 6)]
    counts = Counts.stack([s.subnet for s in specimens], MINILM)
    batched = device.truth_counts(MINILM, counts, Workload())
    single = device.truth(specimens, Workload())
    assert batched.latency_ms == pytest.approx([c.latency_ms for c in single])
    half = Counts(*(0.5 * getattr(counts, f.name) for f in dataclasses.fields(Counts)))
    assert (device.truth_counts(MINILM, half, Workload()).energy_j < batched.energy_j).all()


def test_measuring_twice_gives_the_same_and_seed_purpose_or_subnet_another(minilm):
    one, two = open_device("pixel-8"), open_device("Pixel-8-TPU")
    specimens = [minilm(12, 12), minilm(6, 6)]
    first = one.measure(specimens, Workload(), purpose=Purpose.CALIBRATION, seed=3)
    assert two.measure(specimens[::-1], Workload(), purpose=Purpose.CALIBRATION, seed=3)[::-1] == first
    ratio = [r.cost.latency_ms / t.latency_ms for r, t in zip(first, one.truth(specimens, Workload()), strict=True)]
    assert ratio[0] != ratio[1]
    for changed in ({"seed": 4}, {"purpose": Purpose.EVALUATION}):
        other = one.measure(specimens, Workload(), **{"purpose": Purpose.CALIBRATION, "seed": 3, **changed})
        assert other[0].cost != first[0].cost


def test_truth_is_no_measurement(minilm):
    ledger = Ledger()
    device = open_device("raspberry-pi-4", ledger=ledger)
    device.truth([minilm(1, 1)], Workload())
    assert ledger.rows() == []
    device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)
    assert ledger.count("raspberry-pi-4", Purpose.POOL) == 1


@pytest.mark.parametrize("name", ["pixel-8", "rtx-a6000", "h200"])
def test_noise_of_a_protocol_run_is_small_and_shared_by_latency_and_energy(name, minilm):
    device = open_device(name)
    specimen = minilm(12, 12)
    (truth,) = device.truth([specimen], Workload())
    runs = [device.measure([specimen], Workload(), purpose=Purpose.POOL, seed=s)[0].cost for s in range(300)]
    log = np.log([[c.latency_ms / truth.latency_ms, c.energy_j / truth.energy_j] for c in runs])
    assert (log.std(0) < 1.1 * REPEAT_LIMIT).all()
    assert (log.std(0) > 0.004).all()
    assert np.abs(log.mean(0)).max() < 0.003
    assert 0.6 < np.corrcoef(log.T)[0, 1] < 0.8


def test_sensor_bias_is_fixed_per_device_and_spreads_as_said():
    gains = np.log([sensor_bias(f"device {i}", 0.05) for i in range(2000)])
    assert sensor_bias("device 7", 0.05) == np.exp(gains[7])
    assert gains.std() == pytest.approx(0.05, rel=0.1)
    assert sensor_bias("device 7", 0.0) == 1.0


def test_truth_includes_the_sensors_bias(make_entry, one_ffn):
    shape, subnet, workload = one_ffn
    device = SimulatedDevice(make_entry(bias=0.05))
    (truth,) = device.truth([Specimen(subnet, shape)], workload)
    raw = run(device.entry, shape, subnet, workload)
    assert device.bias != 1.0
    assert truth.energy_j == pytest.approx(float(raw.energy_j) * device.bias)
    assert truth.peak_power_w == pytest.approx(float(raw.peak_power_w) * device.bias)
    assert truth.latency_ms == pytest.approx(float(raw.latency_ms))


def test_records_say_simulated_for_all_three(minilm):
    for name in ALL:
        (record,) = open_device(name).measure([minilm(6, 6)], Workload(), purpose=Purpose.POOL)
        assert record.origin == Cost.uniform(Origin.SIMULATED)
        assert record.meter.startswith("simulated")
        assert record.sampling_period_ms is not None
        assert record.paper.flops > 0


def test_sustained_phone_is_slower_and_stays_below_its_lower_limit(minilm):
    burst, sustained = open_device("pixel-8"), open_device("pixel-8", is_sustained=True)
    fast, slow = (d.truth([minilm(12, 12)], Workload())[0] for d in (burst, sustained))
    assert slow.latency_ms == pytest.approx(fast.latency_ms / 0.7)
    assert slow.peak_power_w <= 4.5
    # The work takes the same energy; only the power at rest is drawn for longer.
    base_w = (burst.entry.idle_w + burst.entry.floor_w) * burst.bias
    longer_s = (slow.latency_ms - fast.latency_ms) / 1000
    assert slow.energy_j == pytest.approx(fast.energy_j + base_w * longer_s)


@pytest.mark.parametrize("name", ["raspberry-pi-4", "pixel-8", "epyc"])
def test_noise_is_right_on_average(minilm, name):
    device = open_device(name)
    specimen = minilm(6, 8)
    (truth,) = device.truth([specimen], Workload())
    seen = [device.measure([specimen], Workload(), purpose=Purpose.POOL, seed=s)[0].cost for s in range(300)]
    for metric, expected in truth.items():
        assert np.mean([getattr(c, metric) for c in seen]) == pytest.approx(expected, rel=0.004), metric
    assert all(c.energy_j / c.latency_ms * 1000 <= c.peak_power_w * (1 + 1e-12) for c in seen)


def test_power_mode_changes_clock_and_limit():
    workload, specimen = Workload(batch_size=8, param_bits=16), Specimen(Subnet.dense(ROBERTA_BASE), ROBERTA_BASE)
    full, low = (open_device("jetson-orin-nx", power_mode=m).truth([specimen], workload)[0] for m in ("MAXN", "25W"))
    assert 1.5 < low.latency_ms / full.latency_ms < 1 / 0.44 + 0.01
    with pytest.raises(UnknownNameError, match="MAXN"):
        open_device("jetson-orin-nx", power_mode="MAX")


def test_open_device_refuses_options_of_the_other_kind():
    with pytest.raises(UsageError, match="threads"):
        open_device("pixel-8", threads=2)
    with pytest.raises(UsageError, match="power_mode"):
        open_device("local", power_mode="MAXN")
