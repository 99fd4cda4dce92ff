"""Made-up devices, runtimes and backbones: gate configurations to learn from that belong to nobody's device.

Every figure is drawn over the whole span of what computers are, from microcontrollers to accelerators, log-uniformly
and independently of any entry of the catalogue, which is not read here. The devices then follow the same equations
as the simulators (a roofline per product, launches, power, cap and sensor), on backbones of random sizes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.core.cost import PAPER_COSTS
from metas_peft.core.device import DeviceSpec
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices.entry import (
    STYLE_KERNELS,
    DeviceEntry,
    PassNoise,
    Precision,
    Rate,
    Runtime,
    Sensor,
    Status,
)
from metas_peft.devices.simulated import simulate
from metas_peft.surrogate.features import COLUMNS, workload_values
from metas_peft.surrogate.pool import draw_subnet
from metas_peft.surrogate.simulated_episodes import Universe
from metas_peft.surrogate.terms import gate_terms

PASSES = 40  # gate configurations of a universe
SEVERAL_WORKLOADS = 0.3  # of the universes mix lengths and batches
NAME = "made-up"


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_entry(rng: np.random.Generator) -> DeviceEntry:
    """A device with one runtime."""
    peak = _log_uniform(rng, 0.005, 2000)  # TFLOP/s
    balance = _log_uniform(rng, 2, 500)  # operations per byte at the peaks
    efficiency, memory_efficiency = float(rng.uniform(0.05, 0.9)), float(rng.uniform(0.2, 1.0))
    bandwidth = peak * 1000 / balance
    # At full arithmetic load, and how the rest of it is shared out.
    full_w = _log_uniform(rng, 0.5, 1000)
    base = full_w * float(rng.beta(1.0, 1.5))
    arithmetic = (full_w - base) * float(rng.uniform(0.1, 1.0))
    traffic = full_w * float(rng.uniform(0.02, 0.8))
    idle = base * float(rng.uniform(0.1, 0.9))
    runtime = Runtime(
        name=NAME,
        style=str(rng.choice(sorted(STYLE_KERNELS))),
        memory_efficiency=memory_efficiency,
        op_overhead_us=_log_uniform(rng, 0.5, 1000),
        precisions={NAME: Precision(32, NAME, efficiency)},
        status=Status.ASSUMED,
        calibration="",
        attention_efficiency_factor=float(rng.choice([1.0, rng.uniform(0.1, 1.0)])),
        call_overhead_us=float(rng.choice([0.0, _log_uniform(rng, 10, 2000)])),
    )
    return DeviceEntry(
        device_id=NAME, name=NAME, kind=NAME, aliases=(), default_runtime=NAME,
        rates={NAME: Rate(peak, arithmetic / (peak * efficiency))},
        bandwidth_gb_per_s=bandwidth, size_gb=1e6, pj_per_byte=1000 * traffic / (bandwidth * memory_efficiency),
        idle_w=idle, floor_w=base - idle, cap_w=full_w * float(rng.uniform(0.6, 2.5)), power_boundary="",
        sensor=Sensor(NAME, _log_uniform(rng, 0.5, 5000), 0.0), noise=PassNoise(0.0, 0.0, 0.0),
        runtimes={NAME: runtime}, marks={}, remarks={}, sources=(),
    )  # fmt: skip


def draw_shape(rng: np.random.Generator) -> BackboneShape:
    """A backbone of random sizes."""
    head_size = int(rng.choice([32, 64, 128]))
    heads = int(rng.integers(2, 33))
    hidden = heads * head_size
    causal = bool(rng.random() < 0.5)
    ffn = int(hidden * rng.choice([2, 2.75, 4])) // 16 * 16
    vocabulary = int(rng.choice([8_000, 30_000, 50_000, 128_000]))
    return BackboneShape(
        model_id=NAME, family="llama" if causal else "bert", n_layers=int(rng.integers(3, 33)), hidden=hidden,
        n_heads=heads, n_kv_heads=heads, head_size=head_size, ffn_size=ffn, ffn_matrices=3 if causal else 2,
        ffn_blocks=16, attention_bias=not causal, output_bias=not causal, ffn_bias=not causal,
        norm_params=hidden if causal else 2 * hidden, embedding_params=vocabulary * hidden,
        head_params=hidden * hidden, head_flops_per_sequence=2 * hidden * hidden, head_flops_per_token=0, causal=causal,
    )  # fmt: skip


def draw_workload(shape: BackboneShape, rng: np.random.Generator) -> Workload:
    """A workload that a backbone may be given."""
    decode = shape.causal and rng.random() < 0.4
    return Workload(
        phase="decode" if decode else "prefill",
        batch_size=int(rng.choice([1, 1, 1, 2, 4, 8, 16])),
        seq_len=1 if decode else int(rng.choice([16, 32, 64, 96, 128, 192, 256, 512])),
        context_len=int(rng.choice([32, 64, 128, 256, 512])) if decode else 0,
        param_bits=int(rng.choice([32, 16, 8, 4])),
    )


@dataclass(frozen=True)
class MadeUp:
    """A made-up device and its noise-free costs of some passes.

    Attributes:
        spec: Facts that a data sheet would tell.
        columns: Of the passes, shape (R, C).
        universe: The passes as terms, with log costs.
    """

    spec: DeviceSpec
    columns: np.ndarray
    universe: Universe


def make_up(rng: np.random.Generator, number: int = 0) -> MadeUp:
    """A made-up device runs gate configurations of a made-up backbone."""
    entry, shape = draw_entry(rng), draw_shape(rng)
    first = draw_workload(shape, rng)
    workloads = [first]
    if rng.random() < SEVERAL_WORKLOADS:
        # Bits are a property of the model at hand; length and batch are not.
        others = [draw_workload(shape, rng) for _ in range(5)]
        workloads += [
            Workload(w.phase, w.batch_size, w.seq_len, w.context_len, first.param_bits)
            for w in others
            if w.phase == first.phase
        ]
    each = -(-PASSES // len(workloads))
    columns, costs = [], []
    for workload in workloads:
        subnets = [Subnet.dense(shape), *(draw_subnet(shape, rng) for _ in range(each - 1))]
        counts = Counts.stack(subnets, shape)
        paper = paper_cost(shape, counts, workload)
        counted = np.stack([getattr(paper, name) for name in PAPER_COSTS], axis=1)
        rest = np.broadcast_to(workload_values(workload), (len(counted), len(COLUMNS) - len(PAPER_COSTS)))
        columns.append(np.concatenate([counted, rest], axis=1))
        found = simulate(entry, entry.runtime(), shape, counts, workload)
        costs.append(np.stack([found.energy_j, found.latency_ms, found.peak_power_w], axis=1))
    table = np.concatenate(columns)
    terms = torch.stack(gate_terms(torch.from_numpy(table)), dim=-1).numpy()
    return MadeUp(entry.spec(), table, Universe(terms, np.log(np.concatenate(costs))))
