from collections.abc import Callable
from pathlib import Path

import pytest

from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM
from metas_peft.devices import DeviceEntry, Specimen, load_entry

# A device of round numbers: 1 TFLOP/s, 10 GB/s, half of each reached, 10 us a kernel, 5 us a call.
ROUND_DEVICE = """
id: round
name: A device of round numbers
kind: gpu
aliases: [Round-Device]
default_runtime: plain
rates:
  full: {peak_tflops: [1, vendor], pj_per_flop: [1, assumed, a remark]}
  half: {peak_tflops: [2, vendor], pj_per_flop: [0.5, assumed]}
memory: {bandwidth_gb_per_s: [10, vendor], size_gb: [1, vendor], pj_per_byte: [100, assumed]}
power: {idle_w: [1, measured], floor_w: [2, derived], cap_w: [CAP, vendor], boundary: board}
sensor: {name: a sensor, window_ms: [100, assumed], bias_sigma: [BIAS, assumed]}
pass_noise: {latency_sigma: [0.1, assumed], energy_sigma: [0.1, assumed], peak_power_sigma: [0.1, assumed]}
runtimes:
  plain:
    style: STYLE
    status: assumed
    calibration: none
    memory_efficiency: 0.5
    op_overhead_us: 10
    call_overhead_us: 5
    precisions:
      fp32: {bits: 32, rate: full, compute_efficiency: 0.5}
      fp16: {bits: 16, rate: half, compute_efficiency: 0.5}
      bf16: {bits: 16, rate: full, compute_efficiency: 0.5}
"""


@pytest.fixture
def make_entry(tmp_path: Path) -> Callable[..., DeviceEntry]:
    def make(
        *, cap: float = 1000, bias: float = 0.0, style: str = "fused", edits: dict[str, str] | None = None
    ) -> DeviceEntry:
        text = ROUND_DEVICE.replace("CAP", str(cap)).replace("BIAS", str(bias)).replace("STYLE", style)
        for old, new in (edits or {}).items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        path = tmp_path / "round.yaml"
        path.write_text(text)
        return load_entry(path)

    return make


@pytest.fixture
def round_device_text() -> str:
    return ROUND_DEVICE.replace("CAP", "1000").replace("BIAS", "0.05").replace("STYLE", "fused")


@pytest.fixture
def one_ffn() -> tuple[BackboneShape, Subnet, Workload]:
    """One layer of 64 x 128 whose attention is gone, 32 tokens in float32, nothing after the last layer."""
    shape = BackboneShape(
        model_id="one", family="test", n_layers=1, hidden=64, n_heads=2, n_kv_heads=2, head_size=32, ffn_size=128,
        ffn_matrices=2, ffn_blocks=4, attention_bias=True, output_bias=True, ffn_bias=True, norm_params=128,
        embedding_params=0, head_params=0, head_flops_per_sequence=0, head_flops_per_token=0, causal=False,
    )  # fmt: skip
    return shape, Subnet((LayerPlan(False, True, (), (0, 1, 2, 3)),)), Workload(seq_len=32)


@pytest.fixture
def minilm() -> Callable[[int, int], Specimen]:
    """MiniLM with so many heads and FFN blocks in every layer."""

    def make(heads: int, blocks: int) -> Specimen:
        return Specimen(Subnet.prefix([heads] * 6, [blocks] * 6), MINILM)

    return make
