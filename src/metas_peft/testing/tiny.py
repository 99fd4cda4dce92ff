"""Tiny random models of every supported family, random subnets of them, and a tiny backbone as a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from metas_peft.backbones import add_lora, shape_of
from metas_peft.core.records import BackboneShape, LayerPlan, Subnet

COMMON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 2}
TINY_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {**COMMON, "intermediate_size": 48, "max_position_embeddings": 40}),
    "roberta": (
        "RobertaForSequenceClassification",
        {**COMMON, "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 1},
    ),
    "llama": (
        "LlamaForSequenceClassification",
        {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0, "attention_bias": True},
    ),
}


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random sequence-classification model in evaluation mode, with biases and norms away from 0 and 1."""
    name, sizes = TINY_CONFIGS[family]
    architecture = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(architecture.config_class(**{**sizes, **changes}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny_adapted(family: str, rank: int = 3, seed: int = 0, **changes: Any) -> tuple[Any, BackboneShape]:
    """A tiny PEFT model whose adapters change something, and its shape with the adapter sites."""
    adapted, sites = add_lora(
        tiny_model(family, seed, **changes), "all-linear", rank=rank, alpha=2.0 * rank, dropout=0.0, seed=seed + 1
    )
    randomise_lora(adapted, seed + 2)
    network = adapted.get_base_model().eval()
    return adapted, shape_of(network, sites)


def save_tiny_backbone(folder: Path, texts: Iterable[str], family: str = "bert", seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random model and a word tokeniser of some texts as `from_pretrained` reads them; give the folder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    ends = [(token, words.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **changes}
    tiny_model(family, seed, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_batch(seed: int = 0, batch: int = 3, length: int = 9, vocabulary: int = 97) -> dict[str, torch.Tensor]:
    """Random token ids with right padding and a mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, length - row :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def randomise_lora(model: Any, seed: int = 0) -> None:
    """Give B maps values, so that an adapter changes something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def random_subnet(shape: BackboneShape, seed: int, prefix: bool = False) -> Subnet:
    """A random valid choice; extremes (no head in a kept layer, rank 0, one layer) are not rare.

    Args:
        shape: Shape of the backbone.
        seed: Seed of the choice.
        prefix: Only prefixes, and no attention without heads, as nested members have them.
    """
    rng = np.random.default_rng(seed)

    def choose(total: int) -> tuple[int, ...]:
        count = int(rng.choice([0, total, rng.integers(0, total + 1)]))
        return tuple(range(count)) if prefix else tuple(sorted(rng.permutation(total)[:count].tolist()))

    while True:
        layers = []
        for _ in range(shape.n_layers):
            heads, blocks = choose(shape.n_kv_heads), choose(shape.ffn_blocks)
            attention = bool(heads) if prefix else bool(rng.random() < 0.8)
            ffn = bool(blocks) if prefix else bool(rng.random() < 0.8)
            ranks = tuple(choose(site.rank) for site in shape.sites) if rng.random() < 0.7 else None
            layers.append(LayerPlan(attention, ffn, heads, blocks, ranks))
        if any(layer.is_kept for layer in layers):
            return Subnet(tuple(layers))
