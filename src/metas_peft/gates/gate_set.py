"""The trainable gates of a backbone: one tensor of log-odds per granularity, and what they expect to keep."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metas_peft.core.errors import UnknownNameError, nearest
from metas_peft.core.records import BackboneShape
from metas_peft.costs import Counts
from metas_peft.gates import hard_concrete

Granularity = Literal["layer", "attention", "ffn", "head", "ffn_block", "rank"]
GRANULARITIES: tuple[Granularity, ...] = ("layer", "attention", "ffn", "head", "ffn_block", "rank")


@dataclass(frozen=True)
class GateValues:
    """One value per gate, each in [0, 1]; a granularity that is not gated holds ones.

    Attributes:
        layer: (L,).
        attention: (L,).
        ffn: (L,).
        head: (L, G), G being KV groups.
        ffn_block: (L, F).
        rank: (L, M, R), M adapter sites of rank R.
    """

    layer: torch.Tensor
    attention: torch.Tensor
    ffn: torch.Tensor
    head: torch.Tensor
    ffn_block: torch.Tensor
    rank: torch.Tensor


def gate_shapes(shape: BackboneShape) -> dict[Granularity, tuple[int, ...]]:
    """Tensor shape of each granularity's gates for a backbone."""
    layers = shape.n_layers
    ranks = max((site.rank for site in shape.sites), default=0)
    return {
        "layer": (layers,),
        "attention": (layers,),
        "ffn": (layers,),
        "head": (layers, shape.n_kv_heads),
        "ffn_block": (layers, shape.ffn_blocks),
        "rank": (layers, len(shape.sites), ranks),
    }


class GateSet(nn.Module):
    """Hard-concrete gates on any combination of granularities.

    Args:
        shape: Shape of the backbone.
        granularities: Which granularities are gated; the others stay open.
        temperature: Concrete temperature.
        probability_open: Probability with which every gate starts open.
        seed: Seed of the samples.

    Raises:
        UnknownNameError: An unknown granularity.
    """

    def __init__(
        self,
        shape: BackboneShape,
        granularities: Iterable[str],
        *,
        temperature: float = 2 / 3,
        probability_open: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.temperature = temperature
        self.granularities = tuple(granularities)
        for name in self.granularities:
            if name not in GRANULARITIES:
                raise UnknownNameError(f"Unknown gate granularity {name!r}: {nearest(name, GRANULARITIES)}")
        start = hard_concrete.log_alpha_for(probability_open, temperature)
        self._shapes = gate_shapes(shape)
        self.log_alpha = nn.ParameterDict(
            {name: nn.Parameter(torch.full(self._shapes[name], start)) for name in self.granularities}  # type: ignore[index]
        )
        self._generator = torch.Generator().manual_seed(seed)

    def sample(self) -> GateValues:
        """Fresh samples, differentiable in the log-odds."""
        return self._values(lambda a: hard_concrete.sample(a, self.temperature, self._generator))

    def probabilities(self) -> GateValues:
        """P(z > 0) of every gate, differentiable."""
        return self._values(lambda a: hard_concrete.probability_open(a, self.temperature))

    def expectations(self) -> GateValues:
        """E[z] of every gate, detached: what the final choice ranks by."""
        with torch.no_grad():
            return self._values(lambda a: hard_concrete.expected_gate(a, self.temperature))

    def _values(self, function) -> GateValues:  # noqa: ANN001 - a tensor map
        given = {n: function(self.log_alpha[n]) for n in self.granularities}
        return GateValues(**{n: given.get(n, torch.ones(s)) for n, s in self._shapes.items()})

    def expected_counts(self) -> Counts[torch.Tensor]:
        """Expected kept counts, differentiable: a head counts only in a kept layer, and so does a rank."""
        return counts_of(self.probabilities(), self.shape)

    def penalty(self) -> torch.Tensor:
        """Sum of P(z > 0) over all gates: the sparsity regulariser before its weight."""
        return sum((hard_concrete.probability_open(a, self.temperature).sum() for a in self.log_alpha.values()),
                   torch.zeros(()))  # fmt: skip


def counts_of(values: GateValues, shape: BackboneShape) -> Counts[torch.Tensor]:
    """Kept counts for gate values (probabilities or zeros and ones)."""
    attention = values.layer * values.attention
    ffn = values.layer * values.ffn
    is_ffn = torch.tensor([site.is_ffn for site in shape.sites], dtype=torch.bool)
    present = torch.where(is_ffn, ffn[:, None], attention[:, None]) if shape.sites else values.rank.sum(-1)
    return Counts(
        attention=attention,
        ffn=ffn,
        heads=attention * values.head.sum(-1),
        neurons=ffn * values.ffn_block.sum(-1) * shape.block_size,
        ranks=present * values.rank.sum(-1),
    )
