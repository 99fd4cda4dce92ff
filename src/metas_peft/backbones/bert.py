"""BERT and RoBERTa: post-norm encoders whose layers have the same names."""

from typing import Any

from torch import nn

from metas_peft.backbones.blocks import HeadlessSelfAttention, SkippedAttention, SkippedOutput
from metas_peft.backbones.family import Family, SubLayer, register
from metas_peft.backbones.parts import Part

ATTENTION = SubLayer(
    block="attention",
    residual=0,
    projections={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
    },
    parts=(
        Part("attention.self.query", "out"),
        Part("attention.self.key", "out"),
        Part("attention.self.value", "out"),
        Part("attention.output.dense", "in"),
    ),
    norms=("attention.output.LayerNorm",),
    absent={"attention": SkippedAttention},
    empty=("attention.self", lambda module: HeadlessSelfAttention()),
)
FFN = SubLayer(
    block="output",
    residual=1,
    projections={"up": "intermediate.dense", "down": "output.dense"},
    parts=(Part("intermediate.dense", "out"), Part("output.dense", "in")),
    norms=("output.LayerNorm",),
    absent={"intermediate": nn.Identity, "output": SkippedOutput},
)


def _objection(model: Any) -> str | None:
    if getattr(model.config, "is_decoder", False):
        return "This encoder is set up as a decoder (is_decoder), whose cache and cross-attention nothing here cuts."
    return None


def _encoder(name: str, model_types: tuple[str, ...], head_modules: tuple[str, ...]) -> Family:
    return Family(
        name=name,
        model_types=model_types,
        stack="encoder.layer",
        attention=(ATTENTION,),
        ffn=(FFN,),
        head_modules=head_modules,
        head_per_token=False,
        causal=False,
        objection=_objection,
    )


BERT = register(_encoder("bert", ("bert",), ("pooler", "classifier")))
ROBERTA = register(_encoder("roberta", ("roberta", "xlm-roberta"), ("classifier",)))
