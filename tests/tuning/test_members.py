"""Members by masks, where no prefix view can show them: the same answers, the same slopes, the same methods."""

import pytest
import torch

from metas_peft.backbones import compact, has_views, nested
from metas_peft.core.subnet import Subnet
from metas_peft.gates import gated
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_adapted, tiny_batch
from metas_peft.testing.tuning import tiny_context
from metas_peft.tuning.members import MaskedMembers, members_of
from metas_peft.tuning.methods import METHODS

WITHOUT_VIEWS = sorted(f for f, tiny in TINY_FAMILIES.items() if not tiny.has_views and tiny.classifier)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", sorted(TINY_FAMILIES))
def test_members_of_every_family_are_those_that_are_cut(family):
    adapted, shape = tiny_adapted(family, language_model=TINY_FAMILIES[family].classifier is None)
    network = adapted.get_base_model()
    assert has_views(network) == TINY_FAMILIES[family].has_views
    before = logits(network, tiny_batch(1))
    subnets = [random_subnet(shape, seed, prefix=True) for seed in range(4)]
    expected = [logits(compact(network, shape, s), tiny_batch(seed)) for seed, s in enumerate(subnets)]
    with members_of(network, shape) as members:
        for seed, subnet in enumerate(subnets):
            members.activate(subnet)
            assert torch.allclose(logits(network, tiny_batch(seed)), expected[seed], atol=1e-4, rtol=0), seed
    assert torch.equal(logits(network, tiny_batch(1)), before)


def slopes(members, network, shape, subnet, batch):
    heads = [torch.ones(max(len(p.heads), 1), requires_grad=True) for p in subnet.layers]
    blocks = [torch.ones(max(len(p.ffn_blocks), 1), requires_grad=True) for p in subnet.layers]
    members.activate(subnet)
    members.set_gates(heads, blocks)
    loss = network(**batch).logits.square().sum()
    found = torch.autograd.grad(loss, heads + blocks, allow_unused=True, materialize_grads=True)
    members.set_gates([None] * shape.n_layers, [None] * shape.n_layers)
    return found


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_slopes_of_unit_gates_are_those_of_views(family):
    adapted, shape = tiny_adapted(family)
    network, batch = adapted.get_base_model(), tiny_batch(2)
    subnet = Subnet.prefix([shape.n_kv_heads, 1, 0], [3, 0, shape.ffn_blocks])
    with nested(network, shape) as view:
        expected = slopes(view, network, shape, subnet, batch)
    masks = MaskedMembers(network, shape)
    with gated(network, shape, masks.draw):
        got = slopes(masks, network, shape, subnet, batch)
    assert max(float(g.abs().max()) for g in expected) > 0.01
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_families_without_views_are_known():
    assert WITHOUT_VIEWS == ["deepseek-v3", "gpt-oss"]


@pytest.mark.parametrize("family", WITHOUT_VIEWS)
@pytest.mark.parametrize(
    ("method", "front"), [("MetaS-PEFT", "nested"), ("MetaS-PEFT", "gates"), ("drop-top", "nested")]
)
def test_every_way_to_a_front_works_without_views(family, method, front):
    context = tiny_context(family, path_steps=12, gate_steps=6, joint_steps=2, operating_points=(0.8, 0.6))
    context.train_dense()
    found = METHODS[method](front=front).tune(context)
    assert found.members
    sizes = [sum(p.numel() for p in m.model.parameters()) for m in found.members]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sum(p.numel() for p in context.network.parameters())
