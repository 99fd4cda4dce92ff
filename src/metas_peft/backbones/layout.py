"""A family's table bound to a model: its layers, what their units are, and where adapters can sit."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import nn

from metas_peft.backbones import bert, deberta, experts, gpt2, llama, modernbert  # noqa: F401 - they register
from metas_peft.backbones.family import SITE_ALIASES, Family, SubLayer, family_of, get
from metas_peft.backbones.parts import Part, base_of
from metas_peft.backbones.structure import family_by_structure, find_stack
from metas_peft.core.errors import UnknownNameError, UnsupportedBackboneError, nearest


class Layout:
    """A family's table bound to a model.

    Args:
        model: A `transformers` model (`PreTrainedModel`), with or without injected LoRA modules.

    Raises:
        UnsupportedBackboneError: The model's parts cannot be located, or cannot be cut.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family: Family = family_of(model.config.model_type) or family_by_structure(model)
        self.stack_path = find_stack(model, self.family)
        objection = self.family.objection(model)
        if objection is not None:
            raise UnsupportedBackboneError(objection)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return get(self.model, self.stack_path)

    @property
    def base_path(self) -> str:
        """Path of the bare model (without head) from the model's root, with a trailing dot where it is not empty."""
        return self.stack_path.removesuffix(self.family.stack)

    # ---- sub-layers and their units

    def attention(self, layer: nn.Module) -> SubLayer:
        """Table of a layer's attention."""
        return self._fitting(self.family.attention, layer)

    def ffn(self, layer: nn.Module) -> SubLayer:
        """Table of a layer's feed-forward sub-layer."""
        return self._fitting(self.family.ffn, layer)

    def _fitting(self, tables: Sequence[SubLayer], layer: nn.Module) -> SubLayer:
        found = next((table for table in tables if table.is_in(layer)), None)
        if found is None:
            raise UnsupportedBackboneError(
                f"A layer of this {self.family.name} model is not as its family builds it. Fused experts carry no "
                "adapters: name the projections of attention as targets, not all-linear."
            )
        return found

    @cached_property
    def shares_key_value(self) -> bool:
        """Whether all query heads share one key and value head; then heads are gated one by one, and K and V stay."""
        return self._heads[0] > 1 and self._heads[1] == 1

    @property
    def n_heads(self) -> int:
        """Query heads of a layer of the dense model."""
        return self._heads[0]

    @property
    def head_units(self) -> int:
        """Units of an attention sub-layer of the dense model: KV groups, or query heads that share one KV head."""
        return self.n_heads if self.shares_key_value else self._heads[1]

    @cached_property
    def _heads(self) -> tuple[int, int]:
        config = self.model.config.get_text_config()
        return config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    @cached_property
    def ffn_units(self) -> int:
        """Neurons of a feed-forward sub-layer; where widths differ, their greatest common divisor."""
        return math.gcd(*(p.length(get(x, p.path)) for x in self.layers for p in self.ffn(x).parts if p.side == "in"))

    def parts(self, table: SubLayer) -> list[Part]:
        """What the units of a sub-layer own in this model."""
        return [p for p in table.parts if not (p.is_key_value and self.shares_key_value)]

    def counters(self, table: SubLayer) -> list[tuple[str, str]]:
        """Attributes that shrink with the units in this model."""
        return [*table.counters, *(table.group_counters if self.shares_key_value else ())]

    # ---- projections and adapters

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Canonical names of the projections that every layer of this model has."""
        tables = [{**self.attention(x).projections, **self.ffn(x).projections} for x in self.layers]
        return tuple(site for site in tables[0] if all(site in table for table in tables))

    def path_of(self, layer: nn.Module, site: str) -> str:
        """Path of a site's projection inside a layer."""
        table = self.attention(layer)
        return (table if site in table.projections else self.ffn(layer)).projections[site]

    def projection(self, layer: nn.Module, site: str) -> Any:
        """The projection module of a site (a linear map, or the LoRA module around it)."""
        return get(layer, self.path_of(layer, site))

    def base(self, layer: nn.Module, site: str) -> Any:
        """The frozen map of a site, without the LoRA module that may surround it."""
        return base_of(self.projection(layer, site))

    def resolve_sites(self, names: "str | list[str] | tuple[str, ...]") -> tuple[str, ...]:
        """Canonical sites for the names in a run file, whichever family's spelling they use.

        Args:
            names: `all-linear`, or names such as `q_proj`, `query`, `attention.output.dense`.

        Raises:
            UnknownNameError: A name that means none of this family's projections.
        """
        if names == "all-linear":
            return self.sites
        spelled = {alias: site for site in self.sites for alias in (site, *SITE_ALIASES[site])}
        wanted = []
        for name in [names] if isinstance(names, str) else names:
            if name not in spelled:
                raise UnknownNameError(
                    f"Unknown LoRA target {name!r} for the {self.family.name} family: {nearest(name, spelled)} "
                    "'all-linear' takes every projection."
                )
            wanted.append(spelled[name])
        return tuple(site for site in self.sites if site in wanted)

    def head_modules(self) -> list[str]:
        """Names of the modules after the last layer that are trained and saved whole."""
        present = {name.rpartition(".")[2] for name, _ in self.model.named_modules()}
        return [name for name in self.family.head_modules if name in present]
