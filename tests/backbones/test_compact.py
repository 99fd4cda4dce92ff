"""Compact models against masked ones, and nested views against both."""

import pytest
import torch

from metas_peft.backbones import add_lora, compact, nested, reorder, shape_of
from metas_peft.core.errors import SubnetError
from metas_peft.core.records import Subnet
from metas_peft.gates import masked
from metas_peft.testing.tiny import TINY_CONFIGS, random_subnet, randomise_lora, tiny_batch, tiny_model

FAMILIES = sorted(TINY_CONFIGS)


@pytest.fixture(params=FAMILIES)
def adapted(request):
    model = tiny_model(request.param)
    peft_model, sites = add_lora(model, "all-linear", rank=3, alpha=6.0, dropout=0.0, seed=1)
    randomise_lora(peft_model, seed=2)
    hf = peft_model.get_base_model().eval()
    return hf, shape_of(hf, sites)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_families_all_have_a_tiny_model():
    assert len(FAMILIES) == 3


@pytest.mark.parametrize("seed", range(25))
def test_compact_equals_masked(adapted, seed):
    model, shape = adapted
    subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
    with masked(model, shape, subnet):
        expected = logits(model, batch)
    small = compact(model, shape, subnet)
    assert torch.allclose(logits(small, batch), expected, atol=1e-4, rtol=0)
    assert not any("lora" in name for name, _ in small.named_modules())


@pytest.mark.parametrize("seed", range(25))
def test_nested_view_equals_compact(adapted, seed):
    model, shape = adapted
    subnet, batch = random_subnet(shape, seed, prefix=True), tiny_batch(seed)
    expected = logits(compact(model, shape, subnet), batch)
    before = logits(model, batch)
    with nested(model, shape) as view:
        view.activate(subnet)
        assert torch.allclose(logits(model, batch), expected, atol=1e-5, rtol=0)
        view.activate(Subnet.dense(shape))
        assert torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)


def test_masked_model_with_everything_open_is_the_model_bit_for_bit(adapted):
    model, shape = adapted
    batch = tiny_batch()
    before = logits(model, batch)
    with masked(model, shape, Subnet.dense(shape)):
        assert torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_reorder_keeps_the_function_and_its_inverse_restores_the_weights(adapted):
    model, shape = adapted
    batch = tiny_batch()
    generator = torch.Generator().manual_seed(5)
    heads = torch.stack([torch.randperm(shape.n_kv_heads, generator=generator) for _ in range(shape.n_layers)])
    neurons = torch.stack([torch.randperm(shape.ffn_size, generator=generator) for _ in range(shape.n_layers)])
    before, weights = logits(model, batch), {k: v.clone() for k, v in model.state_dict().items()}
    reorder(model, shape, heads, neurons)
    assert torch.allclose(logits(model, batch), before, atol=1e-5)
    assert any(not torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    reorder(model, shape, heads.argsort(-1), neurons.argsort(-1))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_compact_is_smaller_by_exactly_the_cut_parameters(adapted):
    from metas_peft.core.records import Workload
    from metas_peft.costs import Counts, paper_cost

    model, shape = adapted
    for seed in range(8):
        subnet = random_subnet(shape, seed, prefix=True)
        small = compact(model, shape, subnet)
        counted = paper_cost(shape, Counts.of(subnet, shape), Workload()).weight_bytes
        assert sum(p.numel() for p in small.parameters()) * 4 == counted


def test_compact_refuses_a_subnet_of_another_backbone(adapted):
    model, shape = adapted
    with pytest.raises(SubnetError, match="2 layers, the model has 3"):
        compact(model, shape, Subnet.prefix([1, 1], [1, 1]))


def test_subnet_refuses_to_keep_nothing():
    with pytest.raises(SubnetError, match="keeps no layer"):
        Subnet.prefix([0, 0], [0, 0])
