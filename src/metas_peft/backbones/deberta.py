"""DeBERTa-v2 and v3: post-norm encoders whose attention also looks at relative positions."""

import dataclasses
from typing import Any

from metas_peft.backbones import bert
from metas_peft.backbones.family import Family, SubLayer, get, register
from metas_peft.backbones.parts import Part
from metas_peft.backbones.structure import find_stack

SELF = "attention.self"


def _attention(*positions: str) -> SubLayer:
    """Table for attention with own projections of the relative positions (none where q and k serve for them)."""
    extra = tuple(f"{SELF}.{name}" for name in positions)
    inputs = {"q": f"{SELF}.query_proj", "k": f"{SELF}.key_proj", "v": f"{SELF}.value_proj"}
    return dataclasses.replace(
        bert.ATTENTION,
        projections={**inputs, "o": "attention.output.dense"},
        parts=(
            *(Part(path, "out") for path in inputs.values()),
            *(Part(path, "out", is_for_positions=True) for path in extra),
            Part("attention.output.dense", "in"),
        ),
        counters=((SELF, "num_attention_heads"),),
    )


def _objection(model: Any) -> str | None:
    stack = find_stack(model, DEBERTA)
    if get(model, stack.removesuffix(".layer")).conv is not None:
        return (
            "This DeBERTa has a convolution after its first layer, which no layer can be cut around. "
            "Use a checkpoint without one (all of DeBERTa-v3)."
        )
    return None


def _positions(model: Any) -> tuple[int, int, int]:
    config = model.config
    if not config.relative_attention:
        return 0, 0, 0
    span = config.position_buckets if config.position_buckets > 0 else config.max_relative_positions
    span = span if span > 0 else config.max_position_embeddings
    ways = len(config.pos_att_type)
    return 2 * span, 2 if config.share_att_key else ways, ways


def _position_sites(model: Any) -> tuple[str, ...]:
    # Where q and k serve for positions too, both are computed, whichever of the comparisons are made.
    return ("q", "k") if model.config.relative_attention and model.config.share_att_key else ()


DEBERTA = register(
    Family(
        name="deberta",
        model_types=("deberta-v2",),
        stack="encoder.layer",
        attention=(
            _attention("pos_key_proj", "pos_query_proj"),
            _attention("pos_key_proj"),
            _attention("pos_query_proj"),
            _attention(),
        ),
        ffn=(bert.FFN,),
        head_modules=("pooler", "classifier"),
        head_per_token=False,
        causal=False,
        objection=_objection,
        positions=_positions,
        position_sites=_position_sites,
    )
)
