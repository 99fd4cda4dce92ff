"""From trained gates to one subnet: as many units as expected, those of the highest expected value."""

import torch

from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.gates.gate_set import GateSet, rank_mask


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
        sites = gates.shape.sites
        there = torch.stack([ffn if site.is_ffn else attention for site in sites], 1) if sites else attention[:, None]
        ranks = _highest(e.rank, there[..., None] & rank_mask(gates.shape))
    plans = []
    for i in range(gates.shape.n_layers):
        kept = tuple(_indices(ranks[i, m, : site.rank]) for m, site in enumerate(sites))
        plans.append(
            LayerPlan(
                attention=bool(attention[i]),
                ffn=bool(ffn[i]),
                heads=_indices(heads[i]),
                ffn_blocks=_indices(blocks[i]),
                ranks=kept if "rank" in gates.granularities and sites else None,
            )
        )
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
