"""Llama and its like: pre-norm decoders with grouped queries and a gated feed-forward block."""

from torch import nn

from metas_peft.backbones.blocks import HeadlessAttention, ZeroAttention, ZeroFeedForward
from metas_peft.backbones.family import Family, register

LLAMA = register(
    Family(
        name="llama",
        model_types=("llama", "mistral"),
        stack="layers",
        projections={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.o_proj",
            "up": "mlp.up_proj",
            "gate": "mlp.gate_proj",
            "down": "mlp.down_proj",
        },
        attention_block="self_attn",
        ffn_block="mlp",
        residual="outside",
        norms=("input_layernorm", "post_attention_layernorm"),
        without_attention={"input_layernorm": nn.Identity, "self_attn": ZeroAttention},
        without_ffn={"post_attention_layernorm": nn.Identity, "mlp": ZeroFeedForward},
        without_heads=("self_attn", lambda module: HeadlessAttention(module.o_proj)),
        index_path="self_attn",
        head_modules=("score",),
        head_per_token=True,
        causal=True,
    )
)
