"""Members as views of the largest: what is shared, what is not, and that answers stay the same."""

import copy

import pytest
import torch
from torch import nn

from metas_peft.backbones import compact
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.serving.sharing import SegmentedMap, memory_of, share
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import tiny_adapted, tiny_batch

WITH_VIEWS = [family for family, tiny in TINY_FAMILIES.items() if tiny.has_views]
FUSED = ("gpt2", "modernbert")


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_families_with_views_are_all_there():
    assert len(WITH_VIEWS) == 9


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_members_of_one_training_take_no_weights_of_their_own(served, family):
    front, _ = served(family)
    assert [member.own for member in front] == [{}] * 4
    assert [m.weight_bytes for m in front] == sorted((m.weight_bytes for m in front), reverse=True)
    modules = [front.module(member.name) for member in front]
    for module in modules:
        assert memory_of(nn.ModuleList([modules[0], module])) == front.weight_bytes
    assert len({id(module) for module in modules}) == 4


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("bert", ("query.weight", "output.dense.weight")),
        ("llama", ("q_proj.weight", "o_proj.weight", "down_proj.weight")),
        ("gpt2", ("c_proj.weight",)),
    ],
)
def test_prefixes_lie_in_one_stretch_of_memory(served, family, ends):
    front, _ = served(family)
    weights = [
        weight
        for member in front
        for name, weight in front.module(member.name).named_parameters()
        if name.endswith(ends)
    ]
    assert len(weights) > 12
    assert all(weight.is_contiguous() or weight.t().is_contiguous() for weight in weights)


@pytest.mark.parametrize("family", FUSED)
def test_fused_maps_become_prefixes_of_each_segment(served, family):
    front, _ = served(family)
    assert any(isinstance(m, SegmentedMap) for m in front.module("m2").modules())
    assert not any(isinstance(m, SegmentedMap) for m in front.module("m0").modules())


def test_segmented_map_equals_one_product():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, 4, generator=generator) for _ in range(3)]
    biases = [torch.randn(4, generator=generator) for _ in range(3)]
    x = torch.randn(2, 7, 5, generator=generator)
    with torch.no_grad():
        product = x @ torch.cat(weights, 1)
        assert torch.allclose(SegmentedMap(weights, biases)(x), product + torch.cat(biases), atol=1e-6)
        assert torch.allclose(SegmentedMap(weights, None)(x), product, atol=1e-6)


def test_what_was_trained_further_stays_the_members_own_and_is_counted(cut_front):
    model, subnets, (base, other, *_) = cut_front("bert")
    with torch.no_grad():
        other.classifier.weight.add_(1.0)
        other.bert.encoder.layer[0].output.LayerNorm.bias.add_(1.0)
    expected = logits(other, tiny_batch())
    own = share(other, subnets[1], base, subnets[0])
    assert own == {"classifier.weight": 2 * 32 * 4, "bert.encoder.layer.0.output.LayerNorm.bias": 32 * 4}
    assert torch.equal(logits(other, tiny_batch()), expected)
    assert not torch.equal(base.classifier.weight, other.classifier.weight)


def test_members_that_are_no_prefixes_keep_their_maps():
    adapted, shape = tiny_adapted("bert")
    model = adapted.get_base_model()
    whole = Subnet.dense(shape)
    plan = LayerPlan(True, True, (1, 3), tuple(range(12)))
    scattered = Subnet((plan, *whole.layers[1:]))
    base, member = compact(model, shape, whole), compact(model, shape, scattered)
    expected = logits(member, tiny_batch())
    own = share(member, scattered, base, whole)
    at = "bert.encoder.layer.0.attention"
    names = {f"{at}.self.{m}.{p}" for m in ("query", "key", "value") for p in ("weight", "bias")}
    assert set(own) == names | {f"{at}.output.dense.weight"}
    assert torch.equal(logits(member, tiny_batch()), expected)


def test_ranks_that_differ_leave_merged_maps_apart():
    adapted, shape = tiny_adapted("llama")
    model = adapted.get_base_model()
    whole = Subnet.dense(shape)
    first = whole.layers[0]
    fewer = Subnet((LayerPlan(True, True, first.heads, first.ffn_blocks, ((0,),) * 7), *whole.layers[1:]))
    base, member = compact(model, shape, whole), compact(model, shape, fewer)
    own = share(member, fewer, base, whole)
    assert len(own) == 7
    assert all(".layers.0." in name for name in own)


def test_sharing_leaves_the_largest_as_it_is(cut_front):
    _, subnets, (base, other, *_) = cut_front("gpt2")
    before = copy.deepcopy(base.state_dict())
    share(other, subnets[1], base, subnets[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
