"""Shapes of well-known backbones, for simulated device pools; tests hold them against transformers' own."""

from metas_peft.core.shape import BackboneShape


def encoder_shape(
    model_id: str, family: str, *, layers: int, hidden: int, heads: int, ffn: int, vocab: int, positions: int,
    types: int, blocks: int, head_params: int, head_flops: int,
) -> BackboneShape:  # fmt: skip
    """A BERT-like encoder: biases everywhere, two FFN matrices, learned positions."""
    return BackboneShape(
        model_id=model_id, family=family, n_layers=layers, hidden=hidden, n_heads=heads, n_kv_heads=heads,
        head_size=hidden // heads, ffn_size=ffn, ffn_matrices=2, ffn_blocks=blocks, attention_bias=True,
        output_bias=True, ffn_bias=True, norm_params=2 * hidden,
        embedding_params=(vocab + positions + types + 2) * hidden, head_params=head_params,
        head_flops_per_sequence=head_flops, head_flops_per_token=0, causal=False,
    )  # fmt: skip


def _pooled_head(hidden: int, labels: int = 2) -> dict[str, int]:
    params = hidden * hidden + hidden + hidden * labels + labels
    return {"head_params": params, "head_flops": 2 * (hidden * hidden + hidden * labels)}


MINILM = encoder_shape(
    "all-MiniLM-L6-v2", "bert", layers=6, hidden=384, heads=12, ffn=1536, vocab=30522, positions=512, types=2,
    blocks=12, **_pooled_head(384),
)  # fmt: skip
ROBERTA_BASE = encoder_shape(
    "roberta-base", "roberta", layers=12, hidden=768, heads=12, ffn=3072, vocab=50265, positions=514, types=1,
    blocks=12, **_pooled_head(768),
)  # fmt: skip
LLAMA_2_7B = BackboneShape(
    model_id="Llama-2-7B", family="llama", n_layers=32, hidden=4096, n_heads=32, n_kv_heads=32, head_size=128,
    ffn_size=11008, ffn_matrices=3, ffn_blocks=16, attention_bias=False, output_bias=False, ffn_bias=False,
    norm_params=4096, embedding_params=32000 * 4096, head_params=4096 + 4096 * 2,
    head_flops_per_sequence=0, head_flops_per_token=2 * 4096 * 2, causal=True,
)  # fmt: skip

SHAPES = {shape.model_id: shape for shape in (MINILM, ROBERTA_BASE, LLAMA_2_7B)}
