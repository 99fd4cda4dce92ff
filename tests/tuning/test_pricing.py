"""The price of a unit: the gradient of the weighted relative cost."""

import numpy as np
import pytest

from metas_peft.core.cost import METRICS, Cost
from metas_peft.core.subnet import Subnet
from metas_peft.costs import Counts, paper_cost
from metas_peft.testing.tiny import TINY_CONFIGS, tiny_adapted
from metas_peft.testing.tuning import TINY_WORKLOAD, tiny_cost_model
from metas_peft.tuning.pricing import Price, flops_fraction


@pytest.fixture(scope="module", params=sorted(TINY_CONFIGS))
def shape(request):
    return tiny_adapted(request.param)[1]


def counts(shape, heads, blocks, attention=None, ffn=None):
    """Counts that need not be whole numbers."""
    heads, blocks = np.asarray(heads, dtype=float), np.asarray(blocks, dtype=float)
    return Counts(
        (heads > 0) * 1.0 if attention is None else attention,
        (blocks > 0) * 1.0 if ffn is None else ffn,
        heads,
        blocks * shape.block_size,
        Counts.dense(shape).ranks,
    )


def test_whole_model_costs_the_sum_of_the_weights(shape):
    price = Price.on(tiny_cost_model(shape), Cost(1.0, 2.0, 0.5), shape)
    assert float(price(Counts.dense(shape))) == pytest.approx(3.5, rel=1e-12)


def test_price_is_the_weighted_sum_of_relative_costs(shape):
    model = tiny_cost_model(shape)
    subnet = Counts.of(Subnet.prefix([1, 2, 0], [3, 0, 12]), shape)
    part, whole = model(subnet), model(Counts.dense(shape))
    expected = sum(w * getattr(part, m) / getattr(whole, m) for m, w in zip(METRICS, (0.3, 2.0, 1.0), strict=True))
    assert float(Price.on(model, Cost(0.3, 2.0, 1.0), shape)(subnet)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("weights", [Cost(1.0, 1.0, 1.0), Cost(1.0, 0.0, 0.0), Cost(0.0, 3.0, 0.2)])
@pytest.mark.parametrize(
    ("heads", "blocks"), [([2, 2, 2], [12, 12, 12]), ([1, 2, 0], [5, 0, 7]), ([2, 0, 1], [0, 1, 12])]
)
def test_marginal_price_is_that_of_finite_differences(shape, weights, heads, blocks):
    price = Price.on(tiny_cost_model(shape), weights, shape)
    per_head, per_block = price.marginal(np.array(heads), np.array(blocks))
    step = 1e-4

    def slope(change):
        # From below: what serves all heads goes with the last of them, so that the cost has a corner at one head.
        return float(price(change(0.0)) - price(change(-step))) / step

    attention, ffn = (np.array(heads) > 0) * 1.0, (np.array(blocks) > 0) * 1.0
    for layer in range(3):
        unit = np.eye(3)[layer]
        by_head = slope(lambda e, u=unit: counts(shape, np.array(heads) + e * u, blocks, attention, ffn))
        by_block = slope(lambda e, u=unit: counts(shape, heads, np.array(blocks) + e * u, attention, ffn))
        by_attention = slope(lambda e, u=unit: counts(shape, heads, blocks, attention + e * u, ffn))
        by_ffn = slope(lambda e, u=unit: counts(shape, heads, blocks, attention, ffn + e * u))
        if heads[layer]:
            assert per_head[layer] == pytest.approx(by_head + by_attention / heads[layer], rel=1e-5)
        if blocks[layer]:
            assert per_block[layer] == pytest.approx(by_block + by_ffn / blocks[layer], rel=1e-5)


def test_marginals_of_a_line_add_up_to_its_price_less_what_always_stays(shape):
    """For a cost that is linear in units and presences, the shares of presence are neither lost nor doubled."""
    if shape.n_kv_heads > 1 and shape.family == "gemma3":
        pytest.skip("what serves all heads makes its cost not linear in their number")
    model, heads, blocks = tiny_cost_model(shape), np.array([2, 1, 2]), np.array([12, 3, 7])
    price = Price.on(model, Cost(0.0, 1.0, 0.0), shape)
    per_head, per_block = price.marginal(heads, blocks)
    nothing = counts(shape, [0, 0, 0], [0, 0, 0])
    expected = float(price(counts(shape, heads, blocks)) - price(nothing))
    assert float(per_head @ heads + per_block @ blocks) == pytest.approx(expected, rel=1e-9)


def test_marginal_price_of_a_proxy_that_ignores_presence(shape):
    def flops(counts):
        return Cost.uniform(paper_cost(shape, counts, TINY_WORKLOAD).flops)

    price = Price.on(flops, Cost(1.0, 0.0, 0.0), shape)
    per_head, per_block = price.marginal(np.array([2, 2, 2]), np.array([12, 6, 0]))
    one = [flops_fraction(Subnet.prefix(h, b), shape, TINY_WORKLOAD) for h, b in
           (([2, 2, 2], [12, 6, 1]), ([2, 2, 1], [12, 6, 1]), ([2, 2, 2], [12, 5, 1]))]  # fmt: skip
    assert per_head == pytest.approx([one[0] - one[1]] * 3, rel=1e-9)
    assert per_block == pytest.approx([one[0] - one[2]] * 3, rel=1e-9)


def test_marginal_prices_are_positive_even_where_power_falls(shape):
    def odd(counts):
        paper = paper_cost(shape, counts, TINY_WORKLOAD)
        return Cost(paper.flops, paper.flops, 1e9 / paper.flops)

    per_head, per_block = Price.on(odd, Cost(0.0, 0.0, 1.0), shape).marginal(np.array([2, 2, 2]), np.array([12] * 3))
    assert (per_head > 0).all()
    assert (per_block > 0).all()


def test_devices_that_pay_for_kernels_and_for_operations_price_units_differently(shape):
    heads, blocks = np.array([2, 2, 2]), np.array([12, 12, 1])

    def ratio(**prices):
        _, per_block = Price.on(tiny_cost_model(shape, **prices), Cost(0.0, 1.0, 0.0), shape).marginal(heads, blocks)
        return per_block[2] / per_block[0]

    # The last block of a layer takes the layer's kernels with it.
    assert ratio(per_kernel=0.0) == pytest.approx(1.0, rel=1e-3)
    assert ratio(per_kernel=1e5) > 2


def test_flops_fraction_is_exact_at_the_ends_and_counts_the_head(shape):
    assert flops_fraction(Subnet.dense(shape), shape, TINY_WORKLOAD) == 1.0
    two = flops_fraction(
        Subnet.prefix([shape.n_kv_heads] * 2 + [0], [shape.ffn_blocks] * 2 + [0]), shape, TINY_WORKLOAD
    )
    assert 2 / 3 < two < 2 / 3 + 0.01
