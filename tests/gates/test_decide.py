"""From gates to a subnet: the expected number stays, the best of them, and the attached model equals the cut one."""

import itertools

import pytest
import torch

from metas_peft.backbones import compact
from metas_peft.core.subnet import Subnet
from metas_peft.gates import GRANULARITIES, GateSet, attach, closing, expected_subnet, smallest, told_apart
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import tiny_adapted, tiny_batch


def scattered(shape, granularities=GRANULARITIES, seed=1, spread=3.0, **settings):
    gates = GateSet(shape, granularities, start=0.6, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return gates


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_attached_model_in_evaluation_equals_the_compact_one(family):
    adapted, shape = tiny_adapted(family)
    adapted.eval()
    sizes = set()
    for seed in range(5):
        gates, batch = scattered(shape, seed=seed), tiny_batch(seed)
        subnet = expected_subnet(gates)
        with attach(gates, adapted):
            expected = logits(adapted, batch)
        small = compact(adapted.get_base_model(), shape, subnet)
        assert torch.allclose(logits(small, batch), expected, atol=1e-4, rtol=0), seed
        sizes.add(sum(p.numel() for p in small.parameters()))
    assert len(sizes) > 2


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_as_many_units_stay_as_the_expected_gates_add_up_to(temperature):
    _, shape = tiny_adapted("bert")
    for granularity in ("head", "ffn_block", "rank"):
        gates = scattered(shape, (granularity,), temperature=temperature)
        plans = expected_subnet(gates).layers
        kept = {
            "head": sum(len(p.heads) for p in plans),
            "ffn_block": sum(len(p.ffn_blocks) for p in plans),
            "rank": sum(len(r) for p in plans for r in p.ranks or ()),
        }[granularity]
        assert kept == round(float(getattr(gates.expectations(), granularity).sum())), granularity


def test_those_of_the_highest_expected_value_stay():
    _, shape = tiny_adapted("bert")
    gates = scattered(shape, ("head",))
    kept = torch.zeros(shape.n_layers, shape.n_kv_heads, dtype=torch.bool)
    for i, plan in enumerate(expected_subnet(gates).layers):
        kept[i, list(plan.heads)] = True
    assert 0 < int(kept.sum()) < kept.numel()
    value = gates.expectations().head
    assert value[kept].min() >= value[~kept].max()


def test_heads_of_closed_layers_are_not_kept_or_counted():
    _, shape = tiny_adapted("bert")
    gates = GateSet(shape, ("layer", "head"), start=0.99)
    with torch.no_grad():
        gates.log_alpha["layer"][1] = -20.0
    plans = expected_subnet(gates).layers
    assert [p.is_kept for p in plans] == [True, False, True]
    assert [len(p.heads) for p in plans] == [4, 0, 4]


@pytest.mark.parametrize("granularities", [("layer",), ("attention", "ffn"), GRANULARITIES])
def test_one_sub_layer_stays_when_every_gate_is_closed(granularities):
    _, shape = tiny_adapted("bert")
    gates = GateSet(shape, granularities, start=1e-6)
    assert any(p.is_kept for p in expected_subnet(gates).layers)


def contains(outer, inner):
    return all(
        set(i.heads) <= set(o.heads) and set(i.ffn_blocks) <= set(o.ffn_blocks) and o.attention >= i.attention
        for o, i in zip(outer.layers, inner.layers, strict=True)
    )


@pytest.mark.parametrize("granularities", [("head",), ("layer", "ffn_block"), ("attention", "ffn"), GRANULARITIES])
def test_units_close_from_the_lowest_expected_value_up(granularities):
    _, shape = tiny_adapted("bert")
    gates = scattered(shape, granularities)
    subnets = list(closing(gates.expectations(), shape, granularities))
    assert subnets[0] == Subnet.dense(shape)
    assert len(subnets) > 2
    assert all(contains(outer, inner) for outer, inner in itertools.pairwise(subnets))
    assert any(plan.is_kept for plan in subnets[-1].layers)
    e = gates.expectations()
    value = {"heads": e.head * (e.layer * e.attention)[:, None], "ffn_blocks": e.ffn_block * (e.layer * e.ffn)[:, None]}
    for subnet in subnets[1:]:
        masks = {name: torch.zeros_like(v, dtype=torch.bool) for name, v in value.items()}
        for i, plan in enumerate(subnet.layers):
            for name, mask in masks.items():
                mask[i, list(getattr(plan, name))] = True
        kept = torch.cat([value[n][masks[n]] for n in value])
        gone = torch.cat([value[n][~masks[n]] for n in value])
        assert not len(gone) or gone.max() < kept.min()


def test_as_many_ranks_stay_as_expected_and_those_of_closed_sub_layers_go():
    _, shape = tiny_adapted("bert")
    gates = scattered(shape, ("head", "rank"))
    e = gates.expectations()
    subnets = list(closing(e, shape, gates.granularities))
    ranks = [sum(len(r) for p in s.layers for r in p.ranks or ()) for s in subnets]
    assert subnets[0] == Subnet.dense(shape)
    assert ranks[1] == round(float(e.rank.sum())) < shape.n_layers * sum(site.rank for site in shape.sites)
    assert ranks[1:] == sorted(ranks[1:], reverse=True)
    for subnet in subnets[1:]:
        for plan in subnet.layers:
            gone = [m for m, s in enumerate(shape.sites) if not (plan.ffn if s.is_ffn else plan.attention)]
            assert all(plan.ranks[m] == () for m in gone)
    alone = list(closing(e, shape, ("rank",)))  # no head is gated: nothing but ranks goes
    assert len(alone) >= 2


def test_ranks_are_all_kept_where_they_are_not_gated():
    _, shape = tiny_adapted("bert")
    assert all(p.ranks is None for p in expected_subnet(scattered(shape, ("head",))).layers)


def size(subnet):
    """Sub-layers, heads and FFN blocks."""
    return sum(p.attention + p.ffn for p in subnet.layers), subnet.kept_heads, subnet.kept_ffn_blocks


@pytest.mark.parametrize(
    ("granularities", "kept"),
    [
        (("head",), {(3, 0, 36)}),
        (("ffn_block", "rank"), {(3, 12, 0)}),
        (("head", "ffn_block"), {(1, 1, 0), (1, 0, 1)}),
        (("attention", "ffn"), {(1, 4, 0), (1, 0, 12)}),
        (("layer",), {(2, 4, 12)}),
        (("layer", "head", "rank"), {(1, 0, 12)}),
        (("layer", "ffn_block"), {(1, 4, 0)}),
        (("head", "ffn"), {(1, 1, 0), (1, 0, 12)}),
        (GRANULARITIES, {(1, 1, 0), (1, 0, 1)}),
        (("rank",), {(6, 12, 36)}),
    ],
)
def test_smallest_are_what_closing_leaves_last(granularities, kept):
    _, shape = tiny_adapted("bert")
    found = smallest(shape, granularities)
    assert {size(s) for s in found} == kept
    *_, last = closing(scattered(shape, granularities, spread=0.5).expectations(), shape, granularities)
    assert size(last) in kept
    if "rank" in granularities:
        assert not any(ranks for s in found for p in s.layers for ranks in p.ranks)


@pytest.mark.parametrize("log_odds", [-1e3, None, 1e3], ids=["at 0", "untrained", "at 1"])
@pytest.mark.parametrize("granularities", [("head",), ("layer",), ("layer", "head"), GRANULARITIES])
def test_equal_gates_that_are_told_apart_close_in_turn_down_to_the_smallest(granularities, log_odds):
    _, shape = tiny_adapted("bert")
    gates = GateSet(shape, granularities)
    if log_odds is not None:
        for parameter in gates.parameters():
            torch.nn.init.constant_(parameter, log_odds)
    subnets = list(closing(told_apart(gates.expectations(), granularities), shape, granularities))
    assert len(subnets) >= shape.n_layers
    assert all(contains(outer, inner) for outer, inner in itertools.pairwise(subnets))
    assert size(subnets[-1]) in {size(s) for s in smallest(shape, granularities)}


def test_unequal_gates_that_are_told_apart_keep_their_order():
    _, shape = tiny_adapted("bert")
    values = scattered(shape).expectations()
    apart = told_apart(values, GRANULARITIES)
    for name in GRANULARITIES:
        before, after = getattr(values, name).flatten(), getattr(apart, name).flatten()
        assert torch.equal(before.argsort(stable=True, descending=True), after.argsort(stable=True, descending=True))
        assert torch.allclose(after.float(), before)
    assert torch.equal(told_apart(values, ("head",)).layer, values.layer.double())
