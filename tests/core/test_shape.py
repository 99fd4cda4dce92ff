"""Shapes: sizes that follow from others."""

from metas_peft.core.shape import AdapterSite
from metas_peft.costs import MINILM


def test_shape_divides_as_it_says():
    assert MINILM.block_size * MINILM.ffn_blocks == MINILM.ffn_size
    assert MINILM.queries_per_group * MINILM.n_kv_heads == MINILM.n_heads
    assert AdapterSite("q", 8).rank == 8
