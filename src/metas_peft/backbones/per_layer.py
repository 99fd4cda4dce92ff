"""A compact model's shape in the form of `transformers`' `per_layer_config`.

Models there do not read it yet (several raise on it, others ignore `skip`), so nothing here depends on it.
"""

import json
from typing import Any

from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet

# Names under which configs keep the width of a feed-forward block.
WIDTHS = ("intermediate_size", "intermediate_size_mlp", "moe_intermediate_size", "n_inner")


def per_layer_config(model: Any, dense_config: Any, shape: BackboneShape, subnet: Subnet) -> dict[str, Any]:
    """What would be a compact model's `config.json`, with the kept sizes of each remaining layer.

    Args:
        model: Compact model.
        dense_config: Config of the backbone before it was cut.
        shape: Shape of that backbone.
        subnet: What was kept.
    """
    text = dense_config.get_text_config()
    kept = [plan for plan in subnet.layers if plan.is_kept]
    values = json.loads(model.config.to_json_string(use_diff=False))
    values["architectures"] = [type(model).__name__]
    values["per_layer_config"] = {str(i): layer_entry(plan, text, shape) for i, plan in enumerate(kept)}
    return values


def layer_entry(plan: LayerPlan, config: Any, shape: BackboneShape) -> dict[str, Any]:
    """Config values of one remaining layer.

    Args:
        plan: What it keeps.
        config: Config of the backbone before it was cut.
        shape: Shape of that backbone.
    """
    entry: dict[str, Any] = {}
    skip = [name for name, is_there in (("attention", plan.attention), ("mlp", plan.ffn)) if not is_there]
    if skip:
        entry["skip"] = skip
    if plan.attention:
        entry["num_attention_heads"] = len(plan.heads) * shape.queries_per_group
        groups = getattr(config, "num_key_value_heads", None)
        if groups is not None:
            # A single key and value head serves however many query heads are left.
            entry["num_key_value_heads"] = groups if groups == 1 else len(plan.heads)
        if getattr(config, "head_dim", None) in (None, shape.head_size):  # latent attention has other widths too
            entry["head_dim"] = shape.head_size
    if plan.ffn:
        for name in WIDTHS:
            width = getattr(config, name, None)
            if width is not None:
                entry[name] = width * len(plan.ffn_blocks) // shape.ffn_blocks
        if getattr(config, "n_inner", 0) is None:  # GPT-2's way of saying four times the width
            entry["n_inner"] = 4 * shape.hidden * len(plan.ffn_blocks) // shape.ffn_blocks
    return entry
