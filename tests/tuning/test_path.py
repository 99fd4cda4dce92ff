"""The path from the whole model down: who goes first, and that members lie inside one another."""

import itertools

import numpy as np
import pytest
import torch

from metas_peft.backbones import nested
from metas_peft.core.cost import Cost
from metas_peft.core.errors import TrainingDivergedError
from metas_peft.core.subnet import Subnet
from metas_peft.testing.tiny import tiny_adapted
from metas_peft.testing.tuning import TINY_WORKLOAD, tiny_context, tiny_cost_model
from metas_peft.tuning.data import random_batches
from metas_peft.tuning.path import SAVE_EVERY, PathSearch, largest_within
from metas_peft.tuning.pricing import Price, flops_fraction

FAMILIES = ("bert", "llama", "gemma3")


class Told:
    """A price whose marginals are given per layer."""

    def __init__(self, per_head, per_block):
        self.answer = np.array(per_head, dtype=float), np.array(per_block, dtype=float)

    def marginal(self, heads, blocks):
        return self.answer


class Slopes:
    """A loss whose slope in every gate of a view is given: head and block scores per layer and unit."""

    def __init__(self, view, head, block):
        self.slopes, self.gates = (head, block), ()
        set_gates = view.set_gates

        def note(heads, blocks):
            self.gates = heads, blocks
            set_gates(heads, blocks)

        view.set_gates = note

    def loss(self, model, batch):
        total = torch.zeros(())
        for gates, rows in zip(self.gates, self.slopes, strict=True):
            for gate, row in zip(gates, rows, strict=True):
                total = total + (gate * torch.tensor(row[: len(gate)], dtype=gate.dtype)).sum()
        return total


def first_removed(price, head, block, family="bert"):
    """(kind, layer) of the unit that goes first when the slopes of the loss are given."""
    adapted, shape = tiny_adapted(family)
    with nested(adapted.get_base_model(), shape) as view:
        search = PathSearch(view, Slopes(view, head, block), price, TINY_WORKLOAD, end=0.5)
        search.run(None, [{}], 100, progress=False)  # scores only: before the first removal
        assert search.current == Subnet.dense(shape)
        search._remove_one()
        kept = search.current
    changed = [("head", i) for i, p in enumerate(kept.layers) if len(p.heads) < shape.n_kv_heads]
    changed += [("ffn_block", i) for i, p in enumerate(kept.layers) if len(p.ffn_blocks) < shape.ffn_blocks]
    assert len(changed) == 1
    return changed[0]


def slopes(units, low=None):
    """Slope 1 everywhere, `low[layer]` in a layer's last two units."""
    rows = np.ones((3, units))
    for layer, value in (low or {}).items():
        rows[layer, -2:] = value
    return rows.tolist()


EVEN = Told([1, 1, 1], [1, 1, 1])


@pytest.mark.parametrize("layer", range(3))
def test_least_important_head_goes_first_at_equal_prices(layer):
    assert first_removed(EVEN, slopes(4, {layer: 0.1}), slopes(12)) == ("head", layer)


@pytest.mark.parametrize("layer", range(3))
def test_least_important_block_goes_first_at_equal_prices(layer):
    assert first_removed(EVEN, slopes(4), slopes(12, {layer: 0.1})) == ("ffn_block", layer)


def test_unit_with_the_least_importance_per_price_goes_first():
    # Importance is the squared slope: 0.25 at price 1 against 1 at price 5 (0.2 each) and 1 at price 3.
    head, block = slopes(4, {0: 0.5}), slopes(12)
    assert first_removed(Told([1, 1, 1], [1, 1, 1]), head, block) == ("head", 0)
    assert first_removed(Told([1, 5, 1], [1, 1, 1]), head, block) == ("head", 1)
    assert first_removed(Told([1, 1, 1], [1, 1, 5]), head, block) == ("ffn_block", 2)
    assert first_removed(Told([1, 3, 1], [1, 1, 3]), head, block) == ("head", 0)


def test_importance_is_squared_so_that_its_sign_does_not_matter():
    assert first_removed(EVEN, slopes(4, {1: -0.5, 2: 0.6}), slopes(12, {0: -2.0})) == ("head", 1)


def kept_after(price, head, block, end):
    """What a path leaves when the slopes of the loss are given."""
    adapted, shape = tiny_adapted("bert")
    with nested(adapted.get_base_model(), shape) as view:
        search = PathSearch(view, Slopes(view, head, block), price, TINY_WORKLOAD, end=end)
        search.run(None, itertools.repeat({}), 60, progress=False)
    return [(len(plan.heads), len(plan.ffn_blocks)) for plan in search.current.layers]


@pytest.mark.parametrize("end", [0.7, 0.5, 0.3])
def test_units_of_equal_worth_go_evenly(end):
    kept = kept_after(EVEN, slopes(4), slopes(12), end)
    for left, in_all in zip(zip(*kept, strict=True), (4, 12), strict=True):
        assert max(left) - min(left) <= 1
        assert abs(sum(left) / (3 * in_all) - end) < 0.15


def test_few_units_that_are_left_count_for_more():
    # Layer 0's units are worth half of the others': at a scarcity of 1 it keeps half of what they keep.
    rows = [np.ones((3, n)) for n in (4, 12)]
    for row in rows:
        row[0] = 0.5**0.5
    kept = kept_after(EVEN, *(row.tolist() for row in rows), 0.5)
    assert kept[0][1] == pytest.approx(kept[1][1] / 2, abs=1)
    assert kept[0][0] >= 1


def walk(cost_model=None, weights=None, count=60, end=0.3, seed=0, family="bert"):
    """A path through a tiny model that teaches itself."""
    context = tiny_context(family, seed=seed, operating_points=(0.8, end))
    context.reset()
    shape = context.shape
    price = Price.on(cost_model or context.cost_model, weights or context.weights, shape)
    with nested(context.network, shape) as view:
        search = PathSearch(view, context.distilled(), price, context.workload, end=end)
        batches = random_batches(context.data, context.collator, 8, seed)
        search.run(context.adapted, batches, count, progress=False)
    return search, shape


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", [0.5, 0.2])
def test_path_is_nested_falls_and_ends_where_it_should(family, end):
    search, shape = walk(family=family, end=end)
    path = search.path
    fractions = [flops_fraction(s, shape, TINY_WORKLOAD) for s in path]
    assert path[0] == Subnet.dense(shape)
    assert len(path) > 8
    for before, after in zip(path, path[1:], strict=False):
        for outer, inner in zip(before.layers, after.layers, strict=True):
            assert set(inner.heads) <= set(outer.heads)
            assert set(inner.ffn_blocks) <= set(outer.ffn_blocks)
            assert inner.attention == bool(inner.heads)
            assert inner.ffn == bool(inner.ffn_blocks)
    assert all(a - b >= SAVE_EVERY for a, b in zip(fractions[:-2], fractions[1:-1], strict=True))
    assert fractions == sorted(fractions, reverse=True)
    # The last unit may be large, but the one before it was still above the end.
    assert fractions[-1] <= end < fractions[-2]
    assert search.current == path[-1]


@pytest.mark.parametrize("count", [1, 39, 40, 41])
def test_short_path_reaches_its_end(count):
    search, shape = walk(count=count)
    assert flops_fraction(search.path[-1], shape, TINY_WORKLOAD) <= 0.3


def test_path_that_cannot_end_keeps_one_unit():
    search, shape = walk(end=1e-6)
    last = search.current
    assert search.path[-1] == last
    assert last.kept_heads + last.kept_ffn_blocks == 1
    assert flops_fraction(last, shape, TINY_WORKLOAD) > 0


def test_same_seed_walks_the_same_path_and_another_does_not():
    path = walk()[0].path
    assert walk()[0].path == path
    assert walk(seed=1)[0].path != path


def test_device_on_which_heads_are_dear_loses_more_heads():
    def dear(per_head, per_neuron):
        def cost(counts):
            total = per_head * counts.heads.sum(-1) + per_neuron * counts.neurons.sum(-1)
            return Cost(total, total, total)

        return cost

    kept = {}
    for name, model in (("heads", dear(50.0, 0.1)), ("neurons", dear(0.1, 50.0))):
        subnet = walk(model, end=0.6)[0].current
        kept[name] = (subnet.kept_heads, subnet.kept_ffn_blocks)
    assert kept["heads"][0] < kept["neurons"][0]
    assert kept["heads"][1] > kept["neurons"][1]


def test_loss_that_is_no_number_ends_the_search():
    adapted, shape = tiny_adapted("bert")
    broken = np.full((3, 4), np.nan).tolist()
    with nested(adapted.get_base_model(), shape) as view:
        search = PathSearch(view, Slopes(view, broken, slopes(12)), EVEN, TINY_WORKLOAD, end=0.5)
        with pytest.raises(TrainingDivergedError, match="The loss is nan while units are chosen"):
            search.run(None, itertools.repeat({}), 60, progress=False)


def test_whole_sublayer_goes_where_the_device_thanks_for_it():
    dear = Told([1e9, 1, 1], [1, 1, 1])
    adapted, shape = tiny_adapted("bert")
    with nested(adapted.get_base_model(), shape) as view:
        search = PathSearch(view, Slopes(view, slopes(4), slopes(12)), dear, TINY_WORKLOAD, end=0.4)
        search.run(None, itertools.repeat({}), 60, progress=False)
    last = search.current
    assert not last.layers[0].attention
    assert all(len(plan.heads) > 0 for plan in last.layers[1:])


def test_preference_changes_the_path():
    adapted, shape = tiny_adapted("bert")
    model = tiny_cost_model(shape, per_kernel=3e4)
    by_latency = walk(model, Cost(0.0, 1.0, 0.0))[0].path
    by_power = walk(model, Cost(0.0, 0.0, 1.0))[0].path
    assert by_latency != by_power


def test_search_changes_no_weight_and_leaves_no_gate():
    context = tiny_context("bert")
    context.reset()
    names = [n for n, _ in context.network.named_modules()]
    before = {n: p.clone() for n, p in context.adapted.named_parameters()}
    batches = random_batches(context.data, context.collator, 8, 0)
    with nested(context.network, context.shape) as view:
        search = PathSearch(view, context.distilled(), EVEN, TINY_WORKLOAD, end=0.5)
        view.activate(Subnet.dense(context.shape))
        inputs = {k: v for k, v in next(batches).items() if k != "index"}
        ungated = context.network(**inputs).logits
        search.run(context.adapted, batches, 60, progress=False)
        view.activate(Subnet.dense(context.shape))
        assert torch.equal(context.network(**inputs).logits, ungated)
        assert not any(p.grad is not None for p in context.adapted.parameters())
    assert [n for n, _ in context.network.named_modules()] == names
    assert all(torch.equal(p, before[n]) for n, p in context.adapted.named_parameters())


def test_largest_within_takes_the_largest_that_fits_and_else_the_smallest():
    shape = tiny_adapted("bert")[1]
    path = [Subnet.prefix([h] * 3, [b] * 3) for h, b in ((4, 12), (3, 9), (2, 6), (1, 3))]
    sizes = [flops_fraction(s, shape, TINY_WORKLOAD) for s in path]
    for subnet, size in zip(path, sizes, strict=True):
        assert largest_within(path, size, shape, TINY_WORKLOAD) == subnet
        assert largest_within(path, size + 0.01, shape, TINY_WORKLOAD) == subnet
    assert largest_within(path, sizes[-1] / 2, shape, TINY_WORKLOAD) == path[-1]
