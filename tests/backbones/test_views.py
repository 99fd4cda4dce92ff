"""Nested prefix views against separately cut models."""

import pytest
import torch

from metas_peft.backbones import compact, nested
from metas_peft.core.errors import SubnetError, UnsupportedBackboneError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_batch

WITH_VIEWS = [family for family, tiny in TINY_FAMILIES.items() if tiny.has_views]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_views_exist_for_most_families():
    assert len(WITH_VIEWS) == 9


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_nested_view_equals_compact(network, family):
    model, shape = network(family, False)
    names = list(model.state_dict())
    for seed in range(12):
        subnet, batch = random_subnet(shape, seed, prefix=True), tiny_batch(seed)
        expected = logits(compact(model, shape, subnet), batch)
        before = logits(model, batch)
        with nested(model, shape) as view:
            view.activate(subnet)
            assert torch.allclose(logits(model, batch), expected, atol=1e-5, rtol=0), seed
            view.activate(Subnet.dense(shape))
            assert torch.equal(logits(model, batch), before), seed
        assert torch.equal(logits(model, batch), before), seed
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("family", [f for f in WITH_VIEWS if TINY_FAMILIES[f].language_model])
def test_nested_view_generates_what_the_compact_model_does(network, family):
    model, shape = network(family, True)
    prompt = tiny_batch(1, left=True, pad=0)
    subnet = random_subnet(shape, 3, prefix=True)
    expected = compact(model, shape, subnet).generate(**prompt, max_new_tokens=6, do_sample=False)
    with nested(model, shape) as view:
        view.activate(subnet)
        assert torch.equal(model.generate(**prompt, max_new_tokens=6, do_sample=False), expected)


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_unit_gates_of_a_view_get_gradients(network, family):
    model, shape = network(family, False)
    heads = [torch.ones(shape.n_kv_heads, requires_grad=True) for _ in range(shape.n_layers)]
    blocks = [torch.ones(shape.ffn_blocks, requires_grad=True) for _ in range(shape.n_layers)]
    batch = tiny_batch()
    with nested(model, shape) as view:
        view.activate(Subnet.dense(shape))
        view.set_gates(heads, blocks)
        model(**batch).logits.sum().backward()
    assert all(gate.grad is not None and gate.grad.abs().min() > 0 for gate in heads + blocks)
    model.zero_grad()


def test_nested_view_refuses_what_is_no_prefix(network):
    model, shape = network("bert", False)
    plan = LayerPlan(True, True, (1,), (0,))
    with nested(model, shape) as view, pytest.raises(SubnetError, match="not a prefix"):
        view.activate(Subnet((plan, plan, plan)))


@pytest.mark.parametrize("family", sorted(set(TINY_FAMILIES) - set(WITH_VIEWS)))
def test_nested_view_refuses_fused_experts(network, family):
    model, shape = network(family, True)
    with pytest.raises(UnsupportedBackboneError, match="Mask its members"), nested(model, shape):
        pass
