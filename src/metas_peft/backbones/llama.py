"""Llama and its like: pre-norm decoders with grouped queries and a gated feed-forward block.

Qwen3 and Gemma-3 norm queries and keys over the entries of one head: the same for all heads, so it stays as it is.
Gemma-3 has a second norm after each sub-layer.
"""

from torch import nn

from metas_peft.backbones.blocks import HeadlessAttention, ZeroAttention, ZeroFeedForward
from metas_peft.backbones.family import Family, SubLayer, register
from metas_peft.backbones.parts import Part


def attention(*norms: str, extra: tuple[Part, ...] = (), presence: str | None = None) -> SubLayer:
    """Attention with separate projections.

    Args:
        norms: Norms that go with it.
        extra: What heads own besides the projections.
        presence: Norm behind the block, where there is one.
    """
    return SubLayer(
        block="self_attn",
        projections={site: f"self_attn.{site}_proj" for site in ("q", "k", "v", "o")},
        parts=(
            Part("self_attn.q_proj", "out"),
            Part("self_attn.k_proj", "out", is_key_value=True),
            Part("self_attn.v_proj", "out", is_key_value=True),
            Part("self_attn.o_proj", "in"),
            *extra,
        ),
        norms=norms,
        absent={**dict.fromkeys(norms, nn.Identity), "self_attn": ZeroAttention},
        empty=("self_attn", lambda module: HeadlessAttention("o_proj", module.o_proj)),
        presence=presence,
        group_counters=(("self_attn", "num_key_value_groups"),),
    )


def gated_ffn(*norms: str, block: str = "mlp", presence: str | None = None) -> SubLayer:
    """A feed-forward block of three maps.

    Args:
        norms: Norms that go with it.
        block: Path of the block.
        presence: Norm behind the block, where there is one.
    """
    return SubLayer(
        block=block,
        projections={site: f"{block}.{site}_proj" for site in ("up", "gate", "down")},
        parts=(Part(f"{block}.up_proj", "out"), Part(f"{block}.gate_proj", "out"), Part(f"{block}.down_proj", "in")),
        norms=norms,
        absent={**dict.fromkeys(norms, nn.Identity), block: ZeroFeedForward},
        presence=presence,
    )


def decoder(
    name: str, *model_types: str, attention: SubLayer, ffn: tuple[SubLayer, ...], fills_cache: bool = False
) -> Family:
    """A decoder whose layers are in `layers` and whose classification head is `score`."""
    return Family(
        name=name,
        model_types=model_types,
        stack="layers",
        attention=(attention,),
        ffn=ffn,
        head_modules=("score",),
        head_per_token=True,
        causal=True,
        fills_cache=fills_cache,
    )


ATTENTION, FFN = attention("input_layernorm"), gated_ffn("post_attention_layernorm")

LLAMA = register(decoder("llama", "llama", attention=ATTENTION, ffn=(FFN,), fills_cache=True))
MISTRAL = register(decoder("mistral", "mistral", "ministral", attention=ATTENTION, ffn=(FFN,), fills_cache=True))
QWEN3 = register(decoder("qwen3", "qwen3", "qwen2", attention=ATTENTION, ffn=(FFN,), fills_cache=True))
GEMMA3 = register(
    decoder(
        "gemma3",
        "gemma3",
        "gemma3_text",
        attention=attention("input_layernorm", "post_attention_layernorm", presence="post_attention_layernorm"),
        ffn=(
            gated_ffn("pre_feedforward_layernorm", "post_feedforward_layernorm", presence="post_feedforward_layernorm"),
        ),
        fills_cache=True,
    )
)
