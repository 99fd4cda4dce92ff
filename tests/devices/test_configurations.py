import dataclasses

import numpy as np
import pytest

from metas_peft.core.errors import UsageError
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, Counts, paper_cost
from metas_peft.devices.configurations import draw_configurations, with_sites


def flops_shares(shape, subnets):
    counts = Counts.stack(subnets, shape)
    whole = paper_cost(shape, counts, Workload())
    return np.sort(whole.flops / whole.flops.max())


def test_dense_comes_first_and_all_differ():
    subnets = draw_configurations(MINILM, 60, seed=0)
    assert len({s.key for s in subnets}) == len(subnets) == 60
    assert (subnets[0].kept_heads, subnets[0].kept_ffn_blocks) == (72, 72)


@pytest.mark.parametrize("shape", [MINILM, LLAMA_2_7B])
def test_sizes_are_spread_over_the_whole_range(shape):
    shares = flops_shares(shape, draw_configurations(shape, 60, seed=0))
    assert shares[0] < 0.15
    assert np.diff(shares).max() < 0.12
    assert 0.4 < np.median(shares) < 0.65


def test_whole_layers_are_missing_in_many_and_present_in_many():
    kept = [s.kept_layers for s in draw_configurations(MINILM, 60, seed=0)]
    assert sum(k < 6 for k in kept) > 15
    assert sum(k == 6 for k in kept) > 15


def test_more_configurations_add_to_those_of_before():
    few, many = (draw_configurations(MINILM, n, seed=3) for n in (20, 30))
    assert [s.key for s in many[:20]] == [s.key for s in few]


def test_seed_decides():
    assert draw_configurations(MINILM, 5, seed=1) == draw_configurations(MINILM, 5, seed=1)
    assert draw_configurations(MINILM, 5, seed=1) != draw_configurations(MINILM, 5, seed=2)


def test_ranks_are_drawn_for_separate_adapters():
    shape = with_sites(MINILM)
    subnets = draw_configurations(shape, 10, seed=0, with_ranks=True)
    ranks = Counts.stack(subnets, shape).ranks.sum(axis=(1, 2))
    assert ranks[0] == 6 * 16, "the dense one keeps them all"
    assert len(set(ranks.tolist())) > 5


def test_backbone_with_few_configurations_says_how_many_it_has():
    tiny = dataclasses.replace(MINILM, n_layers=1, n_kv_heads=1, ffn_blocks=1)
    with pytest.raises(UsageError, match="Ask for fewer"):
        draw_configurations(tiny, 10, seed=0)
    with pytest.raises(UsageError, match="one or more"):
        draw_configurations(MINILM, 0, seed=0)
