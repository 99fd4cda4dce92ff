"""16, 8 and 4 bits in torch mean so many bits per weight."""

import pytest
import torch

from metas_peft.backbones import compact, shape_of
from metas_peft.core.errors import ExportError
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.export.precision import in_bits, stored_bytes
from metas_peft.testing.tiny import random_subnet, tiny_batch, tiny_model

HAS_TORCHAO = True
try:
    import torchao  # noqa: F401
except ImportError:
    HAS_TORCHAO = False
needs_torchao = pytest.mark.skipif(not HAS_TORCHAO, reason="the package torchao is not installed")


def small(family, **changes):
    model = tiny_model(family, **changes)
    shape = shape_of(model)
    subnet = random_subnet(shape, 3)
    return compact(model, shape, subnet), shape, subnet


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch()).logits.float()


@pytest.mark.parametrize("family", ["bert", "gpt2", "gpt-oss"])
@pytest.mark.parametrize("bits", [32, 16])
def test_bytes_are_those_of_the_formula(family, bits):
    model, shape, subnet = small(family)
    counted = paper_cost(shape, Counts.of(subnet, shape), Workload(param_bits=bits)).weight_bytes
    weights = in_bits(model, bits)
    buffers = stored_bytes(weights) - sum(p.numel() * p.element_size() for p in weights.parameters())
    assert stored_bytes(weights) - buffers == counted
    assert (logits(weights) - logits(model)).abs().max() < 2e-2 * max(1.0, float(logits(model).abs().max()))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_rotary_frequencies_stay_exact_in_16_bits():
    model = tiny_model("llama")
    half = in_bits(model, 16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(half.named_buffers())[name], buffer), name


def test_tied_weights_are_counted_once():
    model = tiny_model("gpt2", language_model=True)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert stored_bytes(model) == sum(p.numel() * 4 for p in model.parameters())


@needs_torchao
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_maps_in_8_bits_take_a_byte_per_weight(family):
    sizes = {"n_inner": 256} if family == "gpt2" else {"intermediate_size": 256}
    model, _, _ = small(family, hidden_size=64, **sizes)
    smaller = in_bits(model, 8)
    maps = [m for m in smaller.modules() if isinstance(m, torch.nn.Linear)]
    weights, rows = sum(m.weight.numel() for m in maps), sum(m.out_features for m in maps)
    others = stored_bytes(model) - 4 * weights
    assert len(maps) > 8
    assert stored_bytes(smaller) == weights + 4 * rows + others  # a scale per row
    assert 0 < (logits(smaller) - logits(model)).abs().max() < 0.1 * max(1.0, float(logits(model).abs().max()))


@needs_torchao
@pytest.mark.skipif(torch.cuda.is_available(), reason="here torchao has a kernel for them")
def test_4_bits_without_a_kernel_point_to_onnx():
    with pytest.raises(ExportError, match="no 4-bit weights for this computer .*--format onnx --bits 4"):
        in_bits(tiny_model("bert"), 4)


def test_fused_experts_are_refused():
    with pytest.raises(ExportError, match="fused experts in 8 bits"):
        in_bits(tiny_model("gpt-oss"), 8)


def test_other_widths_are_refused():
    with pytest.raises(ExportError, match="32, 16, 8, 4 bits, not 3"):
        in_bits(tiny_model("bert"), 3)


def test_absent_torchao_is_named_with_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ExportError, match=r"need torchao, .*pip install 'metas-peft\[torchao\]'"):
        in_bits(tiny_model("bert"), 8)
