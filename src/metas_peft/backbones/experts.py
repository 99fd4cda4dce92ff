"""Decoders with experts: gpt-oss, Llama-4, DeepSeek-V3.

The matrices of all experts are one parameter each, so a block of neurons is the same neurons of every expert (and the
like share of a shared expert, and of the plain block that some layers have instead). Experts carry no adapters.
"""

import dataclasses

from torch import nn

from metas_peft.backbones.blocks import HeadlessAttention, ZeroAttention, ZeroExperts, ZeroFeedForward
from metas_peft.backbones.family import SubLayer, register
from metas_peft.backbones.llama import ATTENTION, FFN, attention, decoder, gated_ffn
from metas_peft.backbones.parts import Part

NORM = "post_attention_layernorm"

_GPT_OSS_EXPERTS = SubLayer(
    block="mlp",
    projections={},
    parts=(
        # gate and up alternate column by column: a neuron owns two neighbours.
        Part("mlp.experts", "out", tensors=(("gate_up_proj", 2), ("gate_up_proj_bias", 1))),
        Part("mlp.experts", "in", tensors=(("down_proj", 1),)),
    ),
    norms=(NORM,),
    absent={NORM: nn.Identity, "mlp": ZeroExperts},
)
GPT_OSS = register(
    decoder(
        "gpt-oss",
        "gpt_oss",
        attention=attention("input_layernorm", extra=(Part("self_attn", "out", tensors=(("sinks", 0),)),)),
        ffn=(_GPT_OSS_EXPERTS,),
    )
)

_LLAMA4_EXPERTS = SubLayer(
    block="feed_forward",
    projections={},
    parts=(
        Part("feed_forward.experts", "out", segments=2, tensors=(("gate_up_proj", 2),)),
        Part("feed_forward.experts", "in", tensors=(("down_proj", 1),)),
        *gated_ffn(block="feed_forward.shared_expert").parts,
    ),
    norms=(NORM,),
    absent={NORM: nn.Identity, "feed_forward": ZeroExperts},
)
LLAMA4 = register(
    dataclasses.replace(
        decoder(
            "llama4",
            "llama4",
            "llama4_text",
            attention=ATTENTION,
            ffn=(_LLAMA4_EXPERTS, gated_ffn(NORM, block="feed_forward")),
        ),
        per_layer_lists=("layer_types", "no_rope_layers"),
    )
)


def _latent_attention(query: str) -> SubLayer:
    """Attention whose keys and values (and queries, where `query` is `q_b_proj`) come out of a shared latent."""
    latent = {"q_down": "self_attn.q_a_proj", "q_up": "self_attn.q_b_proj"}
    return SubLayer(
        block="self_attn",
        projections={
            **(latent if query == "q_b_proj" else {"q": "self_attn.q_proj"}),
            "kv_down": "self_attn.kv_a_proj_with_mqa",
            "kv_up": "self_attn.kv_b_proj",
            "o": "self_attn.o_proj",
        },
        parts=(
            Part(f"self_attn.{query}", "out"),
            Part("self_attn.kv_b_proj", "out"),
            Part("self_attn.o_proj", "in"),
        ),
        norms=("input_layernorm",),
        absent={"input_layernorm": nn.Identity, "self_attn": ZeroAttention},
        empty=("self_attn", lambda module: HeadlessAttention("o_proj", module.o_proj)),
    )


_DEEPSEEK_EXPERTS = SubLayer(
    block="mlp",
    projections={},
    parts=(
        Part("mlp.experts", "out", segments=2, tensors=(("gate_up_proj", 1),)),
        Part("mlp.experts", "in", tensors=(("down_proj", 2),)),
        *gated_ffn(block="mlp.shared_experts").parts,
    ),
    norms=(NORM,),
    absent={NORM: nn.Identity, "mlp": ZeroFeedForward},
)
DEEPSEEK = register(
    dataclasses.replace(
        decoder("deepseek-v3", "deepseek_v3", attention=_latent_attention("q_b_proj"), ffn=(_DEEPSEEK_EXPERTS, FFN)),
        attention=(_latent_attention("q_b_proj"), _latent_attention("q_proj")),
        key_width=lambda model, values: model.config.qk_head_dim,
        cache=lambda model: (model.config.kv_lora_rank + model.config.qk_rope_head_dim, 0),
    )
)
