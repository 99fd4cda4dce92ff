"""Where the layers, heads and projections of a backbone family are: one small table each.

Everything else in the project (gates, nested views, compaction, adapters) works on a `Layout`, which is a
table bound to a model, and knows no family by name.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import nn

from metas_peft.core.errors import UnknownNameError, UnsupportedBackboneError, nearest
from metas_peft.core.records import AdapterSite, BackboneShape
from metas_peft.core.registry import Registry

ATTENTION_SITES = ("q", "k", "v", "o")
FFN_SITES = ("up", "gate", "down")
# What people call the seven projections in run files, whatever the family calls them.
SITE_ALIASES = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "o": ("o_proj", "out_proj", "attention.output.dense"),
    "up": ("up_proj", "intermediate.dense"),
    "gate": ("gate_proj",),
    "down": ("down_proj", "output.dense"),
}


@dataclass(frozen=True)
class Family:
    """Paths inside a `transformers` model of one family.

    Attributes:
        name: Name of the family.
        model_types: `config.model_type` values that belong to it.
        stack: Path of the list of layers inside the bare model.
        projections: Canonical site -> path inside a layer.
        attention_block: Path inside a layer of the module that is the attention sub-layer.
        ffn_block: Path inside a layer of the module whose output is the feed-forward sub-layer's.
        residual: `inside`: those modules' outputs contain the residual (post-norm); `outside`: the layer
            adds it afterwards (pre-norm).
        norms: Paths of the attention's and the feed-forward's norm inside a layer.
        without_attention: Path -> maker of what stands there when attention is removed.
        without_ffn: The same for the feed-forward sub-layer.
        without_heads: Path of the module to replace when no head is left, and the maker, given that module.
        index_path: Path of the modules that carry `layer_idx`.
        head_modules: Names of trainable modules after the last layer, where the model has them.
        head_per_token: Whether the head runs on every token.
        causal: Whether a token sees only earlier ones.
    """

    name: str
    model_types: tuple[str, ...]
    stack: str
    projections: Mapping[str, str]
    attention_block: str
    ffn_block: str
    residual: Literal["inside", "outside"]
    norms: tuple[str, str]
    without_attention: Mapping[str, Callable[[], nn.Module]]
    without_ffn: Mapping[str, Callable[[], nn.Module]]
    without_heads: tuple[str, Callable[[nn.Module], nn.Module]]
    index_path: str
    head_modules: tuple[str, ...]
    head_per_token: bool
    causal: bool


FAMILIES: Registry[Family] = Registry("backbone family")
_BY_MODEL_TYPE: dict[str, str] = {}


def register(family: Family) -> Family:
    """Add a family's table; one line at the end of its file."""
    for model_type in family.model_types:
        _BY_MODEL_TYPE[model_type] = family.name
    return FAMILIES.add(family.name, family)


def get(root: nn.Module, path: str) -> Any:
    """Sub-module at a dotted path; the root itself for an empty path."""
    return root.get_submodule(path)


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the sub-module at a dotted path."""
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


class Layout:
    """A family's table bound to a model.

    Args:
        model: A `transformers` model (`PreTrainedModel`), with or without injected LoRA modules.

    Raises:
        UnsupportedBackboneError: The model's type belongs to no known family.
    """

    def __init__(self, model: Any) -> None:
        model_type = model.config.model_type
        if model_type not in _BY_MODEL_TYPE:
            raise UnsupportedBackboneError(
                f"No table for models of type {model_type!r}: {nearest(model_type, _BY_MODEL_TYPE)} "
                "Add one file under metas_peft/backbones/ that registers a Family with this model type."
            )
        self.model = model
        self.family = FAMILIES[_BY_MODEL_TYPE[model_type]]

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks."""
        return get(self.model.base_model, self.family.stack)

    @property
    def stack_path(self) -> str:
        """Path of the list of layers from the model's root."""
        return f"{self.model.base_model_prefix}.{self.family.stack}"

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Canonical names of the projections that this model has."""
        return tuple(self.family.projections)

    def projection(self, layer: nn.Module, site: str) -> Any:
        """The projection module of a site (a Linear, or the LoRA module around it)."""
        return get(layer, self.family.projections[site])

    def base(self, layer: nn.Module, site: str) -> nn.Linear:
        """The frozen Linear of a site, without the LoRA module that may surround it."""
        module = self.projection(layer, site)
        return getattr(module, "base_layer", module)

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

    def target_pattern(self, sites: tuple[str, ...]) -> str:
        """Anchored regular expression that matches these projections and nothing else."""
        paths = "|".join(re.escape(self.family.projections[s]) for s in sites)
        return rf"{re.escape(self.stack_path)}\.\d+\.({paths})"

    def head_modules(self) -> list[str]:
        """Names of the modules after the last layer that are trained and saved whole."""
        present = {name.rpartition(".")[2] for name, _ in self.model.named_modules()}
        return [name for name in self.family.head_modules if name in present]


def ffn_blocks_for(ffn_size: int) -> int:
    """Blocks into which an FFN is divided: 12 or 16 where that divides it, else the largest divisor below 16."""
    for blocks in (12, 16, *range(15, 0, -1)):
        if ffn_size % blocks == 0:
            return blocks
    return 1


def shape_of(model: Any, sites: tuple[AdapterSite, ...] = (), model_id: str = "") -> BackboneShape:
    """Measure a model's shape from its modules and parameters.

    Args:
        model: A dense `transformers` model of a known family; LoRA modules are not counted.
        sites: Adapter sites present in every layer.
        model_id: Name for records; the config's own by default.
    """
    layout = Layout(model)
    config, family = model.config.get_text_config(), layout.family
    layer = layout.layers[0]
    q, k, up, o = (layout.base(layer, s) for s in ("q", "k", "up", "o"))
    n_heads = config.num_attention_heads
    head_size = q.out_features // n_heads

    def count(name_filter: Callable[[str], bool]) -> int:
        return sum(p.numel() for n, p in model.named_parameters() if name_filter(n) and "lora_" not in n)

    inside, base = f"{layout.stack_path}.", f"{model.base_model_prefix}."
    last = [name for name, _ in model.base_model.named_children()]
    after_stack = last[last.index(family.stack.split(".")[0]) + 1 :]

    def is_head(name: str) -> bool:
        return not name.startswith(base) or any(name.startswith(f"{base}{c}.") for c in after_stack)

    head_linears = [
        m for n, m in model.named_modules() if isinstance(m, nn.Linear) and is_head(n) and "original_module" not in n
    ]
    head_flops = sum(2 * m.in_features * m.out_features for m in head_linears)
    return BackboneShape(
        model_id=model_id or config.name_or_path or config.model_type,
        family=family.name,
        n_layers=len(layout.layers),
        hidden=q.in_features,
        n_heads=n_heads,
        n_kv_heads=k.out_features // head_size,
        head_size=head_size,
        ffn_size=up.out_features,
        ffn_matrices=3 if "gate" in layout.sites else 2,
        ffn_blocks=ffn_blocks_for(up.out_features),
        attention_bias=q.bias is not None,
        output_bias=o.bias is not None,
        ffn_bias=up.bias is not None,
        norm_params=sum(p.numel() for p in get(layer, family.norms[0]).parameters()),
        embedding_params=count(lambda n: not n.startswith(inside) and not is_head(n)),
        head_params=count(lambda n: is_head(n) and "original_module" not in n),
        head_flops_per_sequence=0 if family.head_per_token else head_flops,
        head_flops_per_token=head_flops if family.head_per_token else 0,
        causal=family.causal,
        sites=sites,
    )
