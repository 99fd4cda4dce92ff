"""The trainable gates of a backbone: one tensor of log-odds per granularity, and what they expect to keep."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn

from metas_peft.backbones.adapters import adapter_sites
from metas_peft.backbones.quantised import blueprint
from metas_peft.backbones.shape import shape_of
from metas_peft.core.errors import UnknownNameError, UsageError, nearest
from metas_peft.core.shape import BackboneShape
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

    The samples come from a generator of its own on the CPU, which is part of what `gates.files` saves.

    Args:
        shape: Shape of the backbone.
        granularities: Which granularities are gated; the others stay open.
        temperature: Concrete temperature.
        start: Expected value E[z] of every gate at the start. (Started by the probability to be open, nearly every
            sample would be small at high temperatures, and the model damaged before a gate has learnt anything.)
        seed: Seed of the samples.

    Raises:
        UnknownNameError: An unknown granularity.
        UsageError: A temperature or start out of range.

    Attributes:
        are_held_open: Whether an attached model is trained with open gates, as in a warm-up.
    """

    def __init__(
        self,
        shape: BackboneShape,
        granularities: Iterable[str],
        *,
        temperature: float = 2 / 3,
        start: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (temperature > 0 and 0 < start < 1):
            raise UsageError(
                f"Seen temperature={temperature:g} and start={start:g}; expected a positive temperature and a start "
                "(an expected gate) between 0 and 1."
            )
        self.shape = shape
        self.temperature = temperature
        wanted = tuple(granularities)
        for name in wanted:
            if name not in GRANULARITIES:
                raise UnknownNameError(f"Unknown gate granularity {name!r}: {nearest(name, GRANULARITIES)}")
        self.granularities: tuple[Granularity, ...] = tuple(g for g in GRANULARITIES if g in wanted)
        self.are_held_open = False
        log_odds = hard_concrete.log_alpha_for_expectation(start, temperature)
        shapes = gate_shapes(shape)
        self.log_alpha = nn.ParameterDict({name: torch.full(shapes[name], log_odds) for name in self.granularities})
        self._sizes = {name: shapes[name] for name in self.granularities}
        self._ones = {name: torch.ones(size) for name, size in shapes.items()}
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def of(cls, model: Any, granularities: Iterable[str], **settings: Any) -> "GateSet":
        """Gates for a PEFT model (or a plain `transformers` model, which has no ranks to gate).

        Args:
            model: The model; its LoRA adapters are found in it.
            granularities: As in the constructor.
            **settings: As in the constructor.

        Raises:
            UnsupportedBackboneError: The model's parts cannot be located, or its adapters differ between layers.
            UsageError: Ranks are to be gated, but there are no adapters.
        """
        network = network_of(model)
        shape, wanted = shape_of(blueprint(network), adapter_sites(network)), tuple(granularities)
        if "rank" in wanted and not shape.sites:
            raise UsageError(
                "Rank gates need LoRA adapters, and the model has none. Add them with peft.get_peft_model first, or "
                "gate something else."
            )
        return cls(shape, wanted, **settings)

    @property
    def count(self) -> int:
        """How many gates there are; places that stand for no rank do not count."""
        sizes = {name: a.numel() for name, a in self.log_alpha.items()}
        if "rank" in sizes:
            sizes["rank"] = self.shape.n_layers * int(rank_mask(self.shape).sum())
        return sum(sizes.values())

    def sample(self) -> GateValues:
        """Fresh samples, differentiable in the log-odds."""
        return self._values(lambda a: hard_concrete.sample(a, self.temperature, self.generator))

    def probabilities(self) -> GateValues:
        """P(z > 0) of every gate, differentiable."""
        return self._values(lambda a: hard_concrete.probability_open(a, self.temperature))

    def expectations(self) -> GateValues:
        """E[z] of every gate, detached: what the final choice ranks by."""
        with torch.no_grad():
            return self._values(lambda a: hard_concrete.expected_gate(a, self.temperature))

    def _values(self, function: Callable[[torch.Tensor], torch.Tensor]) -> GateValues:
        """A function of all log-odds at once: many small calls would cost more than the gates themselves."""
        if not self._sizes:
            return GateValues(**self._ones)
        flat = function(torch.cat([self.log_alpha[name].flatten() for name in self.granularities]))
        pieces = flat.split([size.numel() for size in map(torch.Size, self._sizes.values())])
        given = {name: piece.view(self._sizes[name]) for name, piece in zip(self._sizes, pieces, strict=True)}
        return GateValues(**{**self._ones, **given})

    def expected_counts(self) -> Counts[torch.Tensor]:
        """Expected kept counts, differentiable: a head counts only in a kept layer, and so does a rank."""
        return counts_of(self.probabilities(), self.shape)

    def soft_counts(self) -> Counts[torch.Tensor]:
        """What the expected gates E[z] add up to, differentiable: what is priced, and how much the final choice keeps.

        Expected counts agree with it once gates are decided. Before that, at high temperatures, nearly every sample is
        above 0 and P(z > 0) has no slope, so that a price of the expected counts would not be felt.
        """
        return counts_of(self._values(lambda a: hard_concrete.expected_gate(a, self.temperature)), self.shape)

    def penalty(self) -> torch.Tensor:
        """Sum of P(z > 0) over all gates: the sparsity regulariser before its weight."""
        p = self.probabilities()
        given = {name: getattr(p, name) for name in self.granularities}
        if "rank" in given:
            given["rank"] = given["rank"] * rank_mask(self.shape)
        return sum((values.sum() for values in given.values()), torch.zeros(()))


def network_of(model: Any) -> Any:
    """The `transformers` model inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def rank_mask(shape: BackboneShape) -> torch.Tensor:
    """Which of the (M, R) places of rank gates stand for a rank: sites of lower rank leave some empty."""
    most = max((site.rank for site in shape.sites), default=0)
    ranks = torch.tensor([site.rank for site in shape.sites])
    return torch.arange(most) < ranks[:, None] if shape.sites else torch.zeros(0, 0, dtype=torch.bool)


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
        ranks=present * (values.rank * rank_mask(shape)).sum(-1),
    )
