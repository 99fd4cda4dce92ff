"""ModernBERT: pre-norm encoders with a fused q, k, v, a fused gated feed-forward block and local attention."""

from torch import nn

from metas_peft.backbones.blocks import HeadlessAttention, ZeroAttention, ZeroFeedForward
from metas_peft.backbones.family import Family, SubLayer, register
from metas_peft.backbones.parts import Part

MODERNBERT = register(
    Family(
        name="modernbert",
        model_types=("modernbert",),
        stack="layers",
        attention=(
            SubLayer(
                block="attn",
                projections={"qkv": "attn.Wqkv", "o": "attn.Wo"},
                parts=(Part("attn.Wqkv", "out", segments=3), Part("attn.Wo", "in")),
                norms=("attn_norm",),
                absent={"attn_norm": nn.Identity, "attn": ZeroAttention},
                empty=("attn", lambda module: HeadlessAttention("Wo", module.Wo)),
            ),
        ),
        ffn=(
            SubLayer(
                block="mlp",
                projections={"gate_up": "mlp.Wi", "down": "mlp.Wo"},
                parts=(Part("mlp.Wi", "out", segments=2), Part("mlp.Wo", "in")),
                norms=("mlp_norm",),
                absent={"mlp_norm": nn.Identity, "mlp": ZeroFeedForward},
            ),
        ),
        head_modules=("head", "classifier"),
        head_per_token=False,
        causal=False,
    )
)
