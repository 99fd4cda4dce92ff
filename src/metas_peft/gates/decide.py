"""From trained gates to subnets: as many units as expected, or fewer and fewer, those of the highest expected value."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.gates.gate_set import GateSet, GateValues, gate_shapes, rank_mask

_APART = 1e-9  # relative; a float32 below 1 is at least 6e-8 from its neighbours
_LEAST = 1e-30  # of a gate at 0, which a factor alone would leave there; nothing beside the others


def expected_subnet(gates: GateSet) -> Subnet:
    """Snap gates to zeros and ones.

    Of each granularity as many stay as the expected gates E[z] add up to: layers first, then sub-layers of the kept
    layers, then heads, FFN blocks and ranks of the kept sub-layers, always those of the highest E[z] (unlike P(z > 0)
    it still tells gates apart at high temperatures). At least one sub-layer stays.

    Args:
        gates: Trained gates.
    """
    with torch.no_grad():
        e = gates.expectations()
        everywhere = torch.ones(gates.shape.n_layers, dtype=torch.bool)
        layer = _highest(e.layer, everywhere, least=1)
        attention = _highest(e.attention, layer)
        ffn = _highest(e.ffn, layer)
        if not (attention | ffn).any():
            best = torch.where(layer, torch.maximum(e.attention, e.ffn), -1.0).argmax()
            (attention if e.attention[best] >= e.ffn[best] else ffn)[best] = True
        heads = _highest(e.head, attention[:, None])
        blocks = _highest(e.ffn_block, ffn[:, None])
        ranks = None
        if "rank" in gates.granularities:
            ranks = _highest(e.rank, _present(attention, ffn, gates.shape)[..., None] & rank_mask(gates.shape))
    return _subnet(attention, ffn, heads, blocks, ranks, gates.shape)


def closing(values: GateValues, shape: BackboneShape, granularities: Collection[str]) -> Iterator[Subnet]:
    """Nested subnets from closing heads and FFN blocks one by one, those of the least expected value first.

    The expected value of a unit is its own times that of its layer and sub-layer. At least one unit stays. Ranks, if
    they are gated, are cut once: as many stay as their expected values add up to, and those of a closed sub-layer go
    with it.

    Args:
        values: Expected gates E[z].
        shape: Shape of the backbone.
        granularities: What is gated.

    Yields:
        The whole backbone first; each of the others lies within the one before it.
    """
    whole = Subnet.dense(shape)
    yield whole
    heads = values.head * (values.layer * values.attention)[:, None]
    blocks = values.ffn_block * (values.layer * values.ffn)[:, None]
    left = None
    if "rank" in granularities:
        left = _highest(values.rank, rank_mask(shape).expand_as(values.rank))
    levels = torch.cat([heads.flatten(), blocks.flatten()]).unique()
    # Above the highest level nothing would be left; below the lowest nothing but ranks is gone.
    for level in [-1.0, *levels[:-1].tolist()]:
        kept_heads, kept_blocks = heads > level, blocks > level
        attention, ffn = kept_heads.any(-1), kept_blocks.any(-1)
        ranks = None if left is None else left & _present(attention, ffn, shape)[..., None]
        subnet = _subnet(attention, ffn, kept_heads, kept_blocks, ranks, shape)
        if level >= 0 or ranks is not None:
            yield subnet


def told_apart(values: GateValues, granularities: Collection[str]) -> GateValues:
    """Gates of equal value, as all are before training and those at 0 or 1 after it, in an order: the later, the less.

    `closing` closes what is equal at once and leaves the highest open, all of them if there are several; for a budget
    every gate must be able to close. Unequal ones keep their order, and what has no gate stays above all that have.

    Args:
        values: Expected gates E[z].
        granularities: What is gated. Ranks are left as they are: `closing` counts them.
    """
    gated = [name for name in granularities if name != "rank"]
    # All in float64: a step below 1 as small as these would be 1 again beside what stayed in float32.
    doubled = {name: z.double() for name, z in vars(values).items() if name != "rank"}
    total, start = sum(doubled[name].numel() for name in gated), 1
    for name in gated:
        z = doubled[name]
        place = torch.arange(start, start + z.numel(), dtype=z.dtype, device=z.device).view_as(z)
        doubled[name] = (z + _LEAST) * (1 - _APART * place / total)
        start += z.numel()
    return replace(values, **doubled)


def smallest(shape: BackboneShape, granularities: Collection[str]) -> list[Subnet]:
    """What `closing` can leave last, of whatever gates: one head or FFN block where both are gated, else more.

    Args:
        shape: Shape of the backbone.
        granularities: What is gated.
    """
    found: list[Subnet] = []
    for i in range(shape.n_layers):
        for favoured in (("layer", "attention", "head"), ("layer", "ffn", "ffn_block")):
            values = {name: torch.ones(size) for name, size in gate_shapes(shape).items()}
            for name in granularities:
                values[name].fill_(0.0 if name == "rank" else 0.5)
                if name in favoured:
                    values[name][i if values[name].ndim == 1 else (i, 0)] = 0.9
            *_, last = closing(GateValues(**values), shape, granularities)
            if last not in found:
                found.append(last)
    return found


def _present(attention: torch.Tensor, ffn: torch.Tensor, shape: BackboneShape) -> torch.Tensor:
    """Which adapter sites belong to a kept sub-layer, (L, M)."""
    there = [ffn if site.is_ffn else attention for site in shape.sites]
    return torch.stack(there, 1) if there else torch.zeros(shape.n_layers, 0, dtype=torch.bool)


def _subnet(
    attention: torch.Tensor, ffn: torch.Tensor, heads: torch.Tensor, blocks: torch.Tensor,
    ranks: torch.Tensor | None, shape: BackboneShape,
) -> Subnet:  # fmt: skip
    """A subnet from masks (L,), (L,), (L, G), (L, F) and, where ranks are gated, (L, M, R)."""
    plans = []
    for i in range(shape.n_layers):
        kept = None
        if ranks is not None and shape.sites:
            kept = tuple(_indices(ranks[i, m, : site.rank]) for m, site in enumerate(shape.sites))
        plans.append(LayerPlan(bool(attention[i]), bool(ffn[i]), _indices(heads[i]), _indices(blocks[i]), kept))
    return Subnet(tuple(plans))


def _highest(value: torch.Tensor, among: torch.Tensor, least: int = 0) -> torch.Tensor:
    """Mask of the units that stay, shape of `value`."""
    among = among.expand_as(value)
    count = max(least, round(float(value[among].sum())))
    kept = torch.zeros_like(value, dtype=torch.bool)
    order = torch.where(among, value, -1.0).flatten().argsort(descending=True, stable=True)
    kept.view(-1)[order[:count]] = True
    return kept


def _indices(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())
