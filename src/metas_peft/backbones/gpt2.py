"""GPT-2: a pre-norm decoder whose maps are stored transposed (Conv1D), with a fused q, k, v."""

from typing import Any

from torch import nn

from metas_peft.backbones.blocks import HeadlessAttention, ZeroAttention, ZeroFeedForward
from metas_peft.backbones.family import Family, SubLayer, register
from metas_peft.backbones.parts import Part


def _objection(model: Any) -> str | None:
    if getattr(model.config, "add_cross_attention", False):
        return "This GPT-2 has cross-attention, whose heads nothing here gates. Use a plain decoder."
    return None


GPT2 = register(
    Family(
        name="gpt2",
        model_types=("gpt2",),
        stack="h",
        attention=(
            SubLayer(
                block="attn",
                projections={"qkv": "attn.c_attn", "o": "attn.c_proj"},
                parts=(Part("attn.c_attn", "out", segments=3), Part("attn.c_proj", "in")),
                norms=("ln_1",),
                absent={"ln_1": nn.Identity, "attn": ZeroAttention},
                empty=("attn", lambda module: HeadlessAttention("c_proj", module.c_proj)),
                counters=(("attn", "split_size"),),
            ),
        ),
        ffn=(
            SubLayer(
                block="mlp",
                projections={"up": "mlp.c_fc", "down": "mlp.c_proj"},
                parts=(Part("mlp.c_fc", "out"), Part("mlp.c_proj", "in")),
                norms=("ln_2",),
                absent={"ln_2": nn.Identity, "mlp": ZeroFeedForward},
            ),
        ),
        head_modules=("score",),
        head_per_token=True,
        causal=True,
        objection=_objection,
    )
)
