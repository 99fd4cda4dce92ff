"""Where the layers, heads and projections of a backbone family are: one small table each.

Everything else in the project (gates, nested views, compaction, adapters) works on a `Layout`, which is a table bound
to a model, and knows no family by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from metas_peft.backbones.parts import Part
from metas_peft.core.registry import Registry

# What people call the projections in run files, whatever the family calls them.
SITE_ALIASES: dict[str, tuple[str, ...]] = {
    "q": ("q_proj", "query", "query_proj"),
    "k": ("k_proj", "key", "key_proj"),
    "v": ("v_proj", "value", "value_proj"),
    "qkv": ("c_attn", "Wqkv"),
    "q_down": ("q_a_proj",),
    "q_up": ("q_b_proj",),
    "kv_down": ("kv_a_proj_with_mqa",),
    "kv_up": ("kv_b_proj",),
    "o": ("o_proj", "out_proj", "attention.output.dense", "attn.c_proj", "attn.Wo"),
    "up": ("up_proj", "intermediate.dense", "c_fc"),
    "gate": ("gate_proj",),
    "gate_up": ("Wi",),
    "down": ("down_proj", "output.dense", "mlp.c_proj", "mlp.Wo"),
}


@dataclass(frozen=True)
class SubLayer:
    """One sub-layer, attention or feed-forward; all paths are relative to the layer.

    Attributes:
        block: Module whose output is the sub-layer's.
        presence: Module whose output is multiplied by the sub-layer's presence, where that is another: a norm behind
            the block would undo what multiplies the block's own output.
        projections: Canonical site -> path of a linear map that can carry an adapter.
        parts: What its units (heads, neurons) own; those with side `in` lead back to the residual.
        norms: Paths of the normalisation layers around it.
        absent: Path -> maker of what stands there when the sub-layer is gone.
        empty: Path of the module to replace when no unit is left, and the maker, given that module; None where maps
            without inputs do as they are.
        residual: Position of the argument of `block` that carries the residual, where the output of `block` contains
            it (post-norm); None where the layer adds it afterwards.
        counters: Path and name of attributes that count units or their entries and shrink with them.
        group_counters: The same, for attributes that shrink only where query heads share one key and value head.
    """

    block: str
    projections: Mapping[str, str]
    parts: tuple[Part, ...]
    norms: tuple[str, ...]
    absent: Mapping[str, Callable[[], nn.Module]]
    empty: tuple[str, Callable[[nn.Module], nn.Module]] | None = None
    residual: int | None = None
    presence: str | None = None
    counters: tuple[tuple[str, str], ...] = ()
    group_counters: tuple[tuple[str, str], ...] = ()

    def is_in(self, layer: nn.Module) -> bool:
        """Whether a layer has all modules and parameters that this table names."""
        paths = {self.block, *self.projections.values(), *(p.path for p in self.parts), *self.absent}
        return all(has(layer, path) for path in paths) and all(
            name in get(layer, part.path)._parameters for part in self.parts for name, _ in part.tensors
        )


@dataclass(frozen=True)
class Family:
    """Paths inside a `transformers` model of one family.

    Attributes:
        name: Name of the family.
        model_types: `config.model_type` values that belong to it.
        stack: Path of the list of layers inside the bare model.
        attention: Tables of the attention sub-layer; a layer uses the first that fits it.
        ffn: The same for the feed-forward sub-layer.
        head_modules: Names of trainable modules after the last layer, where the model has them.
        head_per_token: Whether the head runs on every token.
        causal: Whether a token sees only earlier ones.
        per_layer_lists: Config entries with one value per layer that the model reads while it runs.
        objection: Says why a model of this family cannot be cut; None where it can.
        key_width: Entries of a head unit's queries (all of them), given the model and those of its output.
        cache: Values per token in the cache that always stay, and those of each unit; None for keys and values.
        positions: Relative positions that attention compares with; how many maps project them; in how many ways it
            compares.
        position_sites: Projections that relative positions go through, besides the tokens.
        fills_cache: Whether keys and values come from maps of their own in every layer, and keys are rotated there by
            halves and by nothing else, as Llama's are: what a skipped layer leaves in the cache can then be computed.
    """

    name: str
    model_types: tuple[str, ...]
    stack: str
    attention: tuple[SubLayer, ...]
    ffn: tuple[SubLayer, ...]
    head_modules: tuple[str, ...]
    head_per_token: bool
    causal: bool
    per_layer_lists: tuple[str, ...] = ("layer_types",)
    objection: Callable[[Any], str | None] = field(default=lambda model: None)
    key_width: Callable[[Any, int], int] = field(default=lambda model, values: values)
    cache: Callable[[Any], tuple[int, int] | None] = field(default=lambda model: None)
    positions: Callable[[Any], tuple[int, int, int]] = field(default=lambda model: (0, 0, 0))
    position_sites: Callable[[Any], tuple[str, ...]] = field(default=lambda model: ())
    fills_cache: bool = False


FAMILIES: Registry[Family] = Registry("backbone family")
_BY_MODEL_TYPE: dict[str, str] = {}


def register(family: Family) -> Family:
    """Add a family's table; one line at the end of its file."""
    for model_type in family.model_types:
        _BY_MODEL_TYPE[model_type] = family.name
    return FAMILIES.add(family.name, family)


def family_of(model_type: str) -> Family | None:
    """The family that a `config.model_type` belongs to, if one is registered for it."""
    name = _BY_MODEL_TYPE.get(model_type)
    return None if name is None else FAMILIES[name]


def model_types() -> list[str]:
    """All `config.model_type` values with a table."""
    return sorted(_BY_MODEL_TYPE)


def get(root: nn.Module, path: str) -> Any:
    """Sub-module at a dotted path; the root itself for an empty path."""
    return root.get_submodule(path)


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the sub-module at a dotted path."""
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def has(root: nn.Module, path: str) -> bool:
    """Whether there is a sub-module at a dotted path."""
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True
