"""BERT and RoBERTa: post-norm encoders whose layers have the same names."""

from torch import nn

from metas_peft.backbones.blocks import HeadlessSelfAttention, SkippedAttention, SkippedOutput
from metas_peft.backbones.family import Family, register


def _encoder(name: str, model_types: tuple[str, ...], head_modules: tuple[str, ...]) -> Family:
    return Family(
        name=name,
        model_types=model_types,
        stack="encoder.layer",
        projections={
            "q": "attention.self.query",
            "k": "attention.self.key",
            "v": "attention.self.value",
            "o": "attention.output.dense",
            "up": "intermediate.dense",
            "down": "output.dense",
        },
        attention_block="attention",
        ffn_block="output",
        residual="inside",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        without_attention={"attention": SkippedAttention},
        without_ffn={"intermediate": nn.Identity, "output": SkippedOutput},
        without_heads=("attention.self", lambda module: HeadlessSelfAttention()),
        index_path="attention.self",
        head_modules=head_modules,
        head_per_token=False,
        causal=False,
    )


BERT = register(_encoder("bert", ("bert",), ("pooler", "classifier")))
ROBERTA = register(_encoder("roberta", ("roberta", "xlm-roberta"), ("classifier",)))
