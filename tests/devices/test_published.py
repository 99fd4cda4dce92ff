"""The simulator against timings that others published; the points are in the catalogue."""

import dataclasses

import pytest

from metas_peft.core.records import BackboneShape, Subnet, Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE, Counts
from metas_peft.devices import catalogue
from metas_peft.devices.entry import DeviceEntry, PublishedPoint, Status
from metas_peft.devices.simulated import simulate


def encoder(layers: int, hidden: int, heads: int, ffn: int) -> BackboneShape:
    return dataclasses.replace(
        ROBERTA_BASE, n_layers=layers, hidden=hidden, n_heads=heads, n_kv_heads=heads, head_size=hidden // heads,
        ffn_size=ffn, ffn_blocks=8, norm_params=2 * hidden, embedding_params=30522 * hidden,
    )  # fmt: skip


def decoder(
    layers: int, hidden: int, heads: int, kv: int, size: int, ffn: int, matrices: int, vocab: int
) -> BackboneShape:
    return dataclasses.replace(
        LLAMA_2_7B, n_layers=layers, hidden=hidden, n_heads=heads, n_kv_heads=kv, head_size=size, ffn_size=ffn,
        ffn_matrices=matrices, embedding_params=vocab * hidden, head_params=vocab * hidden,
        head_flops_per_token=2 * vocab * hidden,
    )  # fmt: skip


SHAPES = {
    "bert-base": encoder(12, 768, 12, 3072),
    "bert-large": encoder(24, 1024, 16, 4096),
    "hat-encoder-median": encoder(6, 512, 8, 2048),
    "llama-2-7b": decoder(32, 4096, 32, 32, 128, 11008, 3, 32000),
    "redpajama-3b": decoder(32, 2560, 32, 32, 80, 10240, 2, 50432),
    "qwen-1.8b": decoder(24, 2048, 16, 16, 128, 5504, 3, 151936),
    "gemma-2b": decoder(18, 2048, 8, 1, 256, 16384, 3, 256000),
}
POINTS = [(name, p) for name in sorted(catalogue()) for p in catalogue()[name].published if p.model in SHAPES]


def simulated_ms(entry: DeviceEntry, point: PublishedPoint) -> float:
    entry = entry.variant(point.variant) if point.variant else entry
    shape = SHAPES[point.model]
    workload = Workload(point.phase, point.batch_size, point.seq_len, point.context_len, point.param_bits)
    result = simulate(entry, entry.runtime(point.runtime), shape, Counts.dense(shape), workload)
    assert result.peak_power_w <= entry.cap_w
    return float(result.latency_ms)


def test_published_points_are_all_there():
    assert len(POINTS) == sum(len(catalogue()[name].published) for name in catalogue()) == 49
    assert sum(p.is_exception for _, p in POINTS) == 3


@pytest.mark.parametrize(("name", "point"), POINTS, ids=lambda v: v if isinstance(v, str) else f"{v.model}-{v.runtime}")
def test_simulated_latency_is_within_the_trust_of_its_runtime(name, point):
    entry = catalogue()[name]
    factor = 1.65 if point.is_exception else entry.runtime(point.runtime).status.trust_factor
    assert 1 / factor < simulated_ms(entry, point) / point.latency_ms < factor


def test_at_most_five_per_cent_of_fitted_points_are_exceptions_in_either_direction():
    fitted = [(n, p) for n, p in POINTS if catalogue()[n].runtime(p.runtime).status is Status.FITTED]
    ratios = [simulated_ms(catalogue()[n], p) / p.latency_ms for n, p in fitted]
    assert len(ratios) >= 35
    assert sum(1 / 1.35 < r < 1.35 for r in ratios) / len(ratios) >= 0.9
    assert abs(sorted(ratios)[len(ratios) // 2] - 1) < 0.05


@pytest.mark.parametrize(
    ("name", "runtime"), [("a100", "llamacpp"), ("rtx-a6000", "llamacpp"), ("macbook-m2", "llamacpp")]
)
def test_decoding_is_bound_by_the_bytes_of_the_weights(name, runtime):
    entry = catalogue()[name]
    shape, chosen = SHAPES["llama-2-7b"], entry.runtime(runtime)
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
                assert not any(p.runtime == runtime.name for p in catalogue()[name].published)


def test_dense_subnet_is_the_default_shape():
    assert Subnet.dense(SHAPES["bert-base"]).kept_layers == 12
