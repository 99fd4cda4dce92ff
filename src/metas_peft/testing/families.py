"""One tiny configuration per backbone family, with what is particular about the family switched on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TinyFamily:
    """A family in miniature.

    Attributes:
        config: Name of its `transformers` config class.
        sizes: Config values.
        classifier: Architecture for sequence classification; None where `transformers` has none.
        language_model: Architecture for causal language modelling; None for encoders.
        has_views: Whether nested prefix views can show all that its units own.
    """

    config: str
    sizes: Mapping[str, Any]
    classifier: str | None
    language_model: str | None = None
    has_views: bool = True


_COMMON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 2}
_ENCODER = {**_COMMON, "intermediate_size": 48, "max_position_embeddings": 40}
# Token 0 pads and nothing ends a text early, so that all generated texts have their full length.
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_DECODER = {**_COMMON, **_TOKENS, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
_WINDOW = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

TINY_FAMILIES: dict[str, TinyFamily] = {
    "bert": TinyFamily("BertConfig", _ENCODER, "BertForSequenceClassification"),
    "roberta": TinyFamily("RobertaConfig", {**_ENCODER, "pad_token_id": 1}, "RobertaForSequenceClassification"),
    "deberta": TinyFamily(
        "DebertaV2Config",
        {
            **_ENCODER,
            "relative_attention": True,
            "position_buckets": 4,
            "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm",
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "DebertaV2ForSequenceClassification",
    ),
    "modernbert": TinyFamily(
        "ModernBertConfig",
        {
            **_ENCODER,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "local_attention": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
        },
        "ModernBertForSequenceClassification",
    ),
    "gpt2": TinyFamily(
        "GPT2Config",
        {**_COMMON, **_TOKENS, "n_inner": 48, "max_position_embeddings": 64},
        "GPT2ForSequenceClassification",
        "GPT2LMHeadModel",
    ),
    "llama": TinyFamily(
        "LlamaConfig", {**_DECODER, "attention_bias": True}, "LlamaForSequenceClassification", "LlamaForCausalLM"
    ),
    "mistral": TinyFamily(
        "MistralConfig", {**_DECODER, "sliding_window": 5}, "MistralForSequenceClassification", "MistralForCausalLM"
    ),
    "qwen3": TinyFamily(
        "Qwen3Config",
        {**_DECODER, **_WINDOW, "head_dim": 6, "use_sliding_window": True},
        "Qwen3ForSequenceClassification",
        "Qwen3ForCausalLM",
    ),
    "gemma3": TinyFamily(
        "Gemma3TextConfig",
        {**_DECODER, **_WINDOW, "num_key_value_heads": 1, "head_dim": 6, "query_pre_attn_scalar": 6},
        "Gemma3TextForSequenceClassification",
        "Gemma3ForCausalLM",
    ),
    "gpt-oss": TinyFamily(
        "GptOssConfig",
        {
            **_DECODER,
            **_WINDOW,
            "head_dim": 6,
            "intermediate_size": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        "GptOssForSequenceClassification",
        "GptOssForCausalLM",
        has_views=False,
    ),
    "llama4": TinyFamily(
        "Llama4TextConfig",
        {
            **_DECODER,
            "intermediate_size": 24,
            "intermediate_size_mlp": 48,
            "head_dim": 6,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "moe_layers": [1, 2],
            "no_rope_layers": [1, 0, 1],
            "attention_chunk_size": 6,
        },
        None,
        "Llama4ForCausalLM",
        has_views=False,
    ),
    "deepseek-v3": TinyFamily(
        "DeepseekV3Config",
        {
            **_DECODER,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 12,
            "kv_lora_rank": 10,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 6,
            "v_head_dim": 5,
        },
        "DeepseekV3ForSequenceClassification",
        "DeepseekV3ForCausalLM",
        has_views=False,
    ),
}
