"""Published measurements against the simulator: one row per point of the catalogue.

How far off a simulated time may be depends on how the runtime's parameters were found: a factor of 1.35 where they were
fitted to several points of the device, 2 where they were borrowed from a relative, 3 where they are assumptions. A
point may stand outside of that only by name.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from metas_peft.core.shape import BackboneShape
from metas_peft.core.units import MS_PER_S
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, ROBERTA_BASE, Counts
from metas_peft.devices.entry import DeviceEntry, PublishedPoint, Status
from metas_peft.devices.loading import catalogue
from metas_peft.devices.simulated import Simulation, simulate


def _encoder(name: str, layers: int, hidden: int, heads: int, ffn: int) -> BackboneShape:
    return dataclasses.replace(
        ROBERTA_BASE, model_id=name, n_layers=layers, hidden=hidden, n_heads=heads, n_kv_heads=heads,
        head_size=hidden // heads, ffn_size=ffn, ffn_blocks=8, norm_params=2 * hidden,
        embedding_params=30522 * hidden,
    )  # fmt: skip


def _decoder(
    name: str, layers: int, hidden: int, heads: int, kv: int, size: int, ffn: int, matrices: int, vocab: int
) -> BackboneShape:
    return dataclasses.replace(
        LLAMA_2_7B, model_id=name, n_layers=layers, hidden=hidden, n_heads=heads, n_kv_heads=kv, head_size=size,
        ffn_size=ffn, ffn_matrices=matrices, norm_params=hidden, embedding_params=vocab * hidden,
        head_params=vocab * hidden, head_flops_per_token=2 * vocab * hidden,
    )  # fmt: skip


# Sizes of the models that people published timings of, from their configurations.
PUBLISHED_SHAPES: dict[str, BackboneShape] = {
    shape.model_id: shape
    for shape in (
        _encoder("bert-base", 12, 768, 12, 3072),
        _encoder("bert-large", 24, 1024, 16, 4096),
        _encoder("distilbert", 6, 768, 12, 3072),
        _encoder("hat-encoder-median", 6, 512, 8, 2048),
        _decoder("llama-2-7b", 32, 4096, 32, 32, 128, 11008, 3, 32000),
        _decoder("llama-2-13b", 40, 5120, 40, 40, 128, 13824, 3, 32000),
        _decoder("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 3, 128256),
        _decoder("mistral-7b", 32, 4096, 32, 8, 128, 14336, 3, 32000),
        _decoder("redpajama-3b", 32, 2560, 32, 32, 80, 10240, 2, 50432),
        _decoder("qwen-1.8b", 24, 2048, 16, 16, 128, 5504, 3, 151936),
        _decoder("gemma-2b", 18, 2048, 8, 1, 256, 16384, 3, 256000),
    )
}


@dataclass(frozen=True)
class Comparison:
    """A published point and what the simulator gives for it; None where either has no such number.

    Attributes:
        device: Name of the catalogue entry.
        point: What was published.
        status: How the runtime's parameters were found.
        latency_ms: Simulated time of a pass.
        tokens_per_s: Simulated rate (`generate`).
        mean_power_w: Simulated mean power.
        peak_power_w: Simulated peak power.
    """

    device: str
    point: PublishedPoint
    status: Status
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    mean_power_w: float | None = None
    peak_power_w: float | None = None

    @property
    def is_simulated(self) -> bool:
        """Whether the simulator can say anything about the point."""
        return not self.point.why_not

    @property
    def time_ratio(self) -> float | None:
        """Simulated time by published time."""
        if self.latency_ms is not None and self.point.latency_ms is not None:
            return self.latency_ms / self.point.latency_ms
        if self.tokens_per_s is not None and self.point.tokens_per_s is not None:
            return self.point.tokens_per_s / self.tokens_per_s
        return None

    @property
    def is_within(self) -> bool:
        """Whether the time is as close as the status promises."""
        ratio, factor = self.time_ratio, self.status.trust_factor
        return ratio is not None and 1 / factor < ratio < factor


def compare(entry: DeviceEntry, point: PublishedPoint) -> Comparison:
    """Simulate what a point measured, without sensor error or noise."""
    status = entry.runtime(point.runtime).status
    if point.why_not:
        return Comparison(entry.device_id, point, status)
    device = entry.variant(point.variant) if point.variant else entry
    if point.phase == "generate":
        return Comparison(entry.device_id, point, status, tokens_per_s=_rate(device, point))
    phase = "decode" if point.phase == "decode" else "prefill"
    workload = Workload(phase, point.batch_size, point.seq_len, point.context_len, point.param_bits)
    result = _simulated(device, point, workload)
    return Comparison(
        entry.device_id,
        point,
        status,
        latency_ms=float(result.latency_ms),
        mean_power_w=float(result.mean_power_w),
        peak_power_w=float(result.peak_power_w),
    )


def compare_all() -> list[Comparison]:
    """Every published point of the catalogue, by device."""
    devices = catalogue()
    return [compare(devices[name], point) for name in sorted(devices) for point in devices[name].published]


def share_within(rows: Sequence[Comparison]) -> float:
    """Fraction of simulated points whose time is as close as promised."""
    simulated = [row for row in rows if row.is_simulated]
    return sum(row.is_within for row in simulated) / len(simulated)


def _rate(entry: DeviceEntry, point: PublishedPoint) -> float:
    """New tokens per second: a prefill, then decoding behind a cache of the mean length."""
    prompt = Workload("prefill", point.batch_size, point.seq_len, 0, point.param_bits)
    behind = point.seq_len + point.output_len // 2
    step = Workload("decode", point.batch_size, 1, behind, point.param_bits)
    total_ms = float(_simulated(entry, point, prompt).latency_ms)
    total_ms += point.output_len * float(_simulated(entry, point, step).latency_ms)
    return point.batch_size * point.output_len / total_ms * MS_PER_S


def _simulated(entry: DeviceEntry, point: PublishedPoint, workload: Workload) -> Simulation:
    shape = PUBLISHED_SHAPES[point.model]
    return simulate(entry, entry.runtime(point.runtime), shape, Counts.dense(shape), workload)
