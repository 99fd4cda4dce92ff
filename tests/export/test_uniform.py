"""Uniform members: the largest one within the FLOPs of a free one."""

import itertools

import pytest

from metas_peft.core.errors import SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.costs.shapes import MINILM
from metas_peft.export.uniform import uniform


def flops(subnet):
    return float(paper_cost(MINILM, Counts.of(subnet, MINILM), Workload()).flops)


@pytest.mark.parametrize(
    ("heads", "blocks"),
    [([12, 3, 7, 1, 9, 12], [12, 2, 5, 8, 1, 11]), ([4, 0, 5, 3, 0, 1], [4, 0, 5, 3, 0, 0]), ([12] * 6, [12] * 6)],
)
def test_uniform_subnet_is_the_largest_that_fits(heads, blocks):
    free = Subnet.prefix(heads, blocks)
    found = uniform(free, MINILM)
    kept = [layer for layer in found.layers if layer.is_kept]
    assert [layer.is_kept for layer in found.layers] == [layer.is_kept for layer in free.layers]
    assert len({(layer.heads, layer.ffn_blocks, layer.attention, layer.ffn) for layer in kept}) == 1
    assert flops(found) <= flops(free)
    places = [bool(h or f) for h, f in zip(heads, blocks, strict=True)]
    sizes = itertools.product(range(1, 13), repeat=2)
    others = [flops(Subnet.prefix([h * there for there in places], [f * there for there in places])) for h, f in sizes]
    assert not [size for size in others if flops(found) < size <= flops(free)]


def test_dense_subnet_is_uniform_already():
    dense = Subnet.dense(MINILM)
    assert uniform(dense, MINILM).key == dense.key


def test_too_small_a_member_is_refused():
    crumb = LayerPlan(True, False, (0,), ())
    with pytest.raises(SubnetError, match="One head and one FFN block in each of 6 layers already cost more"):
        uniform(Subnet((crumb,) * 6), MINILM)
