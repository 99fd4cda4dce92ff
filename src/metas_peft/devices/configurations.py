"""Which gate configurations to profile: the dense model, and sizes spread evenly over everything below it."""

import dataclasses

import numpy as np

from metas_peft.core.errors import UsageError
from metas_peft.core.shape import AdapterSite, BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet

SMALLEST = 0.08  # of the heads and blocks; smaller ones are all overhead
WITHOUT_LAYERS = 0.5  # of the configurations lack whole layers
PLAIN_SITES = (AdapterSite("q", 8), AdapterSite("v", 8))
GOLDEN = (5**0.5 - 1) / 2
MOST_DRAWS = 200  # per configuration wanted, before the backbone is called too small


def with_sites(shape: BackboneShape) -> BackboneShape:
    """The shape with adapters on queries and values where it has none: what `separate` adapters are priced on."""
    return shape if shape.sites else dataclasses.replace(shape, sites=PLAIN_SITES)


def draw_configurations(shape: BackboneShape, count: int, *, seed: int, with_ranks: bool = False) -> list[Subnet]:
    """Different configurations of a backbone, the dense one first.

    Sizes follow the golden ratio, so that any number of them is spread evenly from 8 % to everything, and asking for
    more adds to those of before.

    Args:
        shape: The backbone.
        count: How many, the dense one included.
        seed: Decides all of them.
        with_ranks: Also draw the kept ranks of each adapter site.

    Raises:
        UsageError: Fewer than one asked for, or more than the backbone has.
    """
    if count < 1:
        raise UsageError(f"{count} configurations asked for; ask for one or more.")
    rng = np.random.default_rng(seed)
    dense = Subnet.dense(shape)
    found = {dense.key: dense}
    start = rng.random()
    draws = 0
    while len(found) < count:
        if draws >= MOST_DRAWS * count:
            raise UsageError(
                f"{shape.model_id} gave {len(found)} different configurations in {draws} draws, {count} were asked "
                "for. Ask for fewer."
            )
        share = (start + draws * GOLDEN) % 1.0
        subnet = _draw(shape, SMALLEST + (1 - SMALLEST) * share, rng)
        if with_ranks:
            subnet = Subnet(tuple(_with_ranks(layer, shape, rng) for layer in subnet.layers))
        found.setdefault(subnet.key, subnet)
        draws += 1
    return list(found.values())


def _draw(shape: BackboneShape, size: float, rng: np.random.Generator) -> Subnet:
    """A configuration that keeps about `size` of the heads and blocks."""
    layers = shape.n_layers
    is_kept = np.ones(layers, dtype=bool)
    if rng.random() < WITHOUT_LAYERS:
        kept = int(rng.integers(max(1, int(np.ceil(size * layers))), layers + 1))
        is_kept[rng.permutation(layers)[kept:]] = False
    width = min(1.0, size * layers / is_kept.sum())
    heads = rng.binomial(shape.n_kv_heads, width, layers) * is_kept
    blocks = rng.binomial(shape.ffn_blocks, width, layers) * is_kept
    if not (heads.any() or blocks.any()):
        blocks[rng.integers(layers)] = 1
    return Subnet.prefix(heads.tolist(), blocks.tolist())


def _with_ranks(layer: LayerPlan, shape: BackboneShape, rng: np.random.Generator) -> LayerPlan:
    ranks = tuple(tuple(range(int(rng.integers(0, site.rank + 1)))) for site in shape.sites)
    return dataclasses.replace(layer, ranks=ranks)
