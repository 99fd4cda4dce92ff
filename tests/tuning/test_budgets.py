"""Budgets that one member of the front is to hold."""

import numpy as np
import pytest
import torch

from metas_peft.core.cost import Cost
from metas_peft.core.errors import BudgetInfeasibleError
from metas_peft.core.subnet import Subnet
from metas_peft.costs import MINILM, Counts
from metas_peft.testing.tuning import TINY_WORKLOAD, tiny_context, tiny_cost_model
from metas_peft.tuning.budgets import Limits
from metas_peft.tuning.methods import METHODS
from metas_peft.tuning.pricing import flops_fraction

COST = tiny_cost_model(MINILM)
DENSE = COST(Counts.dense(MINILM))


def test_relative_limit_is_of_the_predicted_dense_cost_and_the_tighter_one_counts():
    absolute = {"latency_ms": 0.3 * DENSE.latency_ms, "energy_j": DENSE.energy_j}
    fractions = {"latency_ms": 0.5, "energy_j": 0.5, "peak_power_w": 0.9}
    assert Limits.of(absolute, fractions, COST, MINILM).values == pytest.approx(
        {
            "latency_ms": 0.3 * DENSE.latency_ms,
            "energy_j": 0.5 * DENSE.energy_j,
            "peak_power_w": 0.9 * DENSE.peak_power_w,
        }
    )


def test_all_limits_must_hold():
    subnets = [Subnet.prefix([k] * 6, [k] * 6) for k in (12, 6, 3)]
    costs = [COST(Counts.of(s, MINILM)) for s in subnets]
    between = (costs[0].latency_ms + costs[1].latency_ms) / 2
    assert Limits({"latency_ms": between}, COST, MINILM).hold(subnets).tolist() == [False, True, True]
    both = Limits({"latency_ms": between, "energy_j": costs[2].energy_j}, COST, MINILM)
    assert both.hold(subnets).tolist() == [False, False, True]
    assert Limits({}, COST, MINILM).hold(subnets).all()


def test_budget_that_no_model_holds_is_told_with_the_least_that_is_predicted():
    least = COST(Counts.of(Subnet.prefix([1] + [0] * 5, [0] * 6), MINILM)).latency_ms
    block = COST(Counts.of(Subnet.prefix([0] * 6, [1] + [0] * 5), MINILM)).latency_ms
    Limits({"latency_ms": 1.01 * min(least, block)}, COST, MINILM).check()
    with pytest.raises(
        BudgetInfeasibleError, match=rf"latency_ms=.* \(the least predicted is {min(least, block):.4g} ms"
    ):
        Limits({"latency_ms": 0.99 * min(least, block), "energy_j": 9.0}, COST, MINILM).check()


def test_budgets_that_hold_only_one_at_a_time_are_told_with_the_model_that_comes_nearest():
    def cost(counts):  # a head is dear in joules, an FFN block in milliseconds
        heads, neurons = counts.heads.sum(-1), counts.neurons.sum(-1) / MINILM.block_size
        return Cost(1.0 + 9.0 * heads, 1.0 + 5.0 * neurons, 1.0 + 0.0 * heads)

    Limits({"energy_j": 2.0, "latency_ms": 7.0}, cost, MINILM).check()  # a block alone: 1 J, 6 ms
    with pytest.raises(
        BudgetInfeasibleError, match=r"energy_j=2 \(the least predicted is 1 J\) and latency_ms=3 \(the le"
    ):
        Limits({"energy_j": 2.0, "latency_ms": 3.0}, cost, MINILM).check()


@pytest.mark.parametrize(
    ("granularities", "least"),
    [
        (("head",), Subnet.prefix([0] * 6, [12] * 6)),  # FFN blocks cannot close
        (("ffn_block",), Subnet.prefix([12] * 6, [0] * 6)),
        (("layer",), Subnet.prefix([12] + [0] * 5, [12] + [0] * 5)),
        (("layer", "head"), Subnet.prefix([0] * 6, [12] + [0] * 5)),
    ],
)
def test_budget_is_checked_against_what_the_gates_can_leave(granularities, least):
    cost = float(COST(Counts.of(least, MINILM)).latency_ms)
    Limits({"latency_ms": 1.001 * cost}, COST, MINILM).check(granularities)
    tight = Limits({"latency_ms": 0.999 * cost}, COST, MINILM)
    tight.check()  # a single head or block holds it
    told = f"by gates on {', '.join(granularities)} .*the least predicted is {cost:.4g} ms.* or gate heads and FFN bl"
    with pytest.raises(BudgetInfeasibleError, match=told):
        tight.check(granularities)


@pytest.mark.parametrize("fraction", [0.7, 0.3])
def test_gates_trained_for_a_budget_leave_a_member_that_holds_it(fraction):
    """Also where every operating point is larger than the budget allows."""
    context = tiny_context("bert", gate_steps=30, joint_steps=2, operating_points=(0.9, 0.8))
    dense = context.cost_model(Counts.dense(context.shape)).latency_ms
    context.train_dense()
    context.limits = Limits({"latency_ms": fraction * dense}, context.cost_model, context.shape)
    front = METHODS["MetaS-PEFT"](front="gates").tune(context)
    held = context.limits.hold([m.subnet for m in front.members])
    assert held.any()
    holding = [s for s, h in zip(front.path, context.limits.hold(front.path), strict=True) if h]
    assert holding[0].key in {m.subnet.key for m in front.members}


def test_uniform_prefix_is_the_widest_that_holds():
    limits = Limits({"energy_j": 0.6 * DENSE.energy_j}, COST, MINILM)
    found = limits.uniform_prefix()
    width = len(found.layers[0].heads)
    wider = Subnet.prefix([width + 1] * 6, [width + 1] * 6)
    assert limits.hold([found, wider]).tolist() == [True, False]


@pytest.mark.parametrize("fraction", [0.9, 0.6, 0.25])
def test_front_has_the_largest_member_of_the_path_that_holds(fraction):
    context = tiny_context("bert", path_steps=24, joint_steps=2, operating_points=(0.8, 0.5))
    dense = context.cost_model(Counts.dense(context.shape)).latency_ms
    limits = Limits({"latency_ms": fraction * dense}, context.cost_model, context.shape)
    context.train_dense()
    context.limits = limits
    front = METHODS["MetaS-PEFT"]().tune(context)
    holding = [s for s, h in zip(front.path, limits.hold(front.path), strict=True) if h]
    assert len(holding) < len(front.path)
    assert holding[0].key in {m.subnet.key for m in front.members}
    sizes = [flops_fraction(m.subnet, context.shape, TINY_WORKLOAD) for m in front.members]
    assert sizes == sorted(sizes, reverse=True)
    assert [m.name for m in front.members if m.name not in ("80 %", "50 %")] in (["budget"], [])
    assert any("predicted to hold the budgets" in note for note in front.notes)
    assert np.all([m.gap < 1e-4 for m in front.members])


def heads_are_slow(counts):
    """FFN blocks cost the energy, heads the time: what weights on energy remove first does little for latency."""
    heads, neurons = counts.heads.sum(-1), counts.neurons.sum(-1)
    return Cost(1.0 + 10.0 * neurons, 1.0 + heads + 0.01 * neurons, 1.0 + 0.0 * heads)


@pytest.mark.parametrize("heads", [3, 2])
def test_path_goes_on_until_a_budget_holds_that_the_weights_do_not_look_at(heads):
    context = tiny_context("bert", path_steps=24, joint_steps=1, operating_points=(0.9, 0.8), cost_model=heads_are_slow)
    context.weights, shape = Cost(1.0, 0.0, 0.0), context.shape
    wide = Subnet.prefix([heads] * 3, [3 * heads] * 3)
    limits = Limits({"latency_ms": float(heads_are_slow(Counts.of(wide, shape)).latency_ms)}, heads_are_slow, shape)
    assert limits.uniform_prefix() == wide
    context.train_dense()
    context.limits = limits
    front = METHODS["MetaS-PEFT"]().tune(context)
    held = limits.hold(front.path)
    assert held.tolist() == [False] * (len(held) - 1) + [True]  # it goes on, and no further than it must
    assert front.path[-1].key in {m.subnet.key for m in front.members}
    assert not any("No subnet on the path is predicted" in note for note in front.notes)


def test_path_goes_on_to_one_unit_at_most():
    context = tiny_context("bert", path_steps=24, joint_steps=1, operating_points=(0.9, 0.8))
    context.train_dense()
    context.limits = Limits({"latency_ms": 1e-9}, context.cost_model, context.shape)
    front = METHODS["MetaS-PEFT"]().tune(context)
    assert front.path[-1].kept_heads + front.path[-1].kept_ffn_blocks == 1
    assert any("No subnet on the path is predicted" in note for note in front.notes)


@pytest.mark.parametrize("method", ["MetaS-PEFT-as-described", "EChorda-as-described"])
def test_methods_as_described_are_trained_by_their_weights_whatever_the_budgets(method):
    fronts = []
    for fraction in (None, 0.3):
        context = tiny_context("bert", gate_steps=12, joint_steps=1)
        if fraction is not None:
            dense = context.cost_model(Counts.dense(context.shape)).latency_ms
            context.limits = Limits({"latency_ms": fraction * dense}, context.cost_model, context.shape)
            context.limits_on = lambda _, limits=context.limits: limits
        context.train_dense()
        fronts.append(METHODS[method]().tune(context))
    free, limited = fronts
    assert limited.path == free.path
    assert [m.subnet for m in limited.members] == [m.subnet for m in free.members]
    for name, log_odds in free.gates.items():
        assert torch.equal(limited.gates[name], log_odds)


@pytest.mark.parametrize("method", ["EChorda", "MetaS-PEFT-apart"])
def test_variants_and_rivals_that_predict_costs_have_a_member_that_holds_too(method):
    context = tiny_context("bert", path_steps=24, joint_steps=1, operating_points=(0.9, 0.8))
    limits = Limits.of({}, {"latency_ms": 0.5}, context.cost_model, context.shape)
    context.train_dense()
    if method == "EChorda":
        context.cost_model, context.limits_on = None, lambda own: Limits(limits.values, own, limits.shape)
    else:
        context.limits = limits
    front = METHODS[method]().tune(context)
    assert limits.hold([m.subnet for m in front.members]).tolist() == [False, False, True]
    assert front.members[-1].name == "budget"
    assert any("predicted to hold the budgets has" in note for note in front.notes)
