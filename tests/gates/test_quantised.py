"""Gates on backbones whose weights are quantised: the right gradients, and a compact model that agrees."""

import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.load import without_dropout
from metas_peft.backbones.quantised import dequantise, is_quantised
from metas_peft.gates import GRANULARITIES, GateSet, attach, masked
from metas_peft.testing.tiny import random_subnet, randomise_lora, tiny_batch, tiny_model

FAMILIES = ("bert", "llama")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries that quantise


def needs(package):
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"the package {package} is not installed")


def by_torchao(model):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig(), lambda m, name: isinstance(m, torch.nn.Linear) and "layer" in name)
    return model


def by_bitsandbytes(model):
    import bitsandbytes

    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layer" in n]:
        small = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=torch.float32,
            quant_type="nf4",
        )  # fmt: skip
        small.load_state_dict(module.state_dict())
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, small)
    return model.to("cuda")


WAYS = [
    pytest.param(by_torchao, "cpu", id="torchao-int8", marks=needs("torchao")),
    pytest.param(by_bitsandbytes, "cuda", id="bitsandbytes-4bit", marks=[
        needs("bitsandbytes"),
        pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes is tried on CUDA alone"),
    ]),
]  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def quantised(family, way):
    """A quantised backbone of widths that the kernels take, with adapters as a user would add them."""
    model = way(without_dropout(tiny_model(family, hidden_size=64, intermediate_size=128)))
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="SEQ_CLS"))
    randomise_lora(adapted, 2)
    assert sum(is_quantised(m) for m in adapted.modules()) >= 3 * 6
    return adapted


def slopes(adapted, gates, batch):
    adapted.train()
    gates.zero_grad()
    with attach(gates, adapted):
        for _ in range(4):
            adapted(**batch).logits.float().pow(2).sum().backward()
    return {name: a.grad.clone() for name, a in gates.log_alpha.items()}


@pytest.mark.parametrize(("way", "device"), WAYS)
def test_gradients_of_gates_are_those_on_the_weights_in_full(family, way, device):
    adapted = quantised(family, way)
    batch = {k: v.to(device) for k, v in tiny_batch().items()}
    settings = {"temperature": 2.0, "start": 0.8, "seed": 1}
    gates = GateSet.of(adapted, GRANULARITIES, **settings)
    found = slopes(adapted, gates, batch)
    dequantise(adapted.get_base_model())
    assert not any(is_quantised(m) for m in adapted.modules())
    again = GateSet.of(adapted, GRANULARITIES, **settings)
    assert again.shape == gates.shape
    expected = slopes(adapted, again, batch)
    for name, slope in found.items():
        assert (slope != 0).any(), name
        assert torch.allclose(slope, expected[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(("way", "device"), WAYS)
def test_compact_equals_masked(family, way, device):
    adapted = quantised(family, way)
    network, shape = adapted.get_base_model().eval(), GateSet.of(adapted, ("head",)).shape
    for seed in range(5):
        subnet = random_subnet(shape, seed)
        batch = {k: v.to(device) for k, v in tiny_batch(seed).items()}
        with torch.no_grad():
            with masked(network, shape, subnet):
                expected = network(**batch).logits
            small = compact(network, shape, subnet)
            assert not any(is_quantised(m) for m in small.modules())
            assert torch.allclose(small(**batch).logits, expected, atol=1e-4, rtol=1e-4), seed
    assert any(is_quantised(m) for m in network.modules())


@needs("torchao")
def test_model_that_was_loaded_quantised_is_a_plain_one_when_it_is_cut(tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForSequenceClassification, TorchAoConfig

    tiny_model("bert", hidden_size=64).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    assert model.is_quantized
    shape = shape_of(model)
    small = compact(model, shape, random_subnet(shape, 1))
    assert not getattr(small, "is_quantized", False)
    assert getattr(small.config, "quantization_config", None) is None
    assert {p.dtype for p in small.bfloat16().parameters()} == {torch.bfloat16}
    assert model.is_quantized
