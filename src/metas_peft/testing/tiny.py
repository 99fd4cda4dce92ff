"""Tiny random models of every supported family, random subnets of them, and a tiny backbone as a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from metas_peft.backbones import add_lora, shape_of
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.testing.families import TINY_FAMILIES

# Families with a separate map for each projection, for tests that name projections.
TINY_CONFIGS = {name: TINY_FAMILIES[name] for name in ("bert", "roberta", "llama", "qwen3", "gemma3")}


def tiny_model(family: str, seed: int = 0, *, language_model: bool = False, **changes: Any) -> Any:
    """A random model in evaluation mode, with biases and norms away from 0 and 1.

    Args:
        family: Key of `TINY_FAMILIES`.
        seed: Seed of the weights.
        language_model: A causal language model instead of a sequence classifier (always, where there is none).
        **changes: Config values other than the family's.
    """
    tiny = TINY_FAMILIES[family]
    name = tiny.language_model if language_model or tiny.classifier is None else tiny.classifier
    architecture, config = getattr(transformers, str(name)), getattr(transformers, tiny.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(config(**{**tiny.sizes, **changes}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny_adapted(
    family: str, rank: int = 3, seed: int = 0, *, language_model: bool = False, **changes: Any
) -> tuple[Any, BackboneShape]:
    """A tiny PEFT model whose adapters change something, and its shape with the adapter sites."""
    model = tiny_model(family, seed, language_model=language_model, **changes)
    adapted, sites = add_lora(model, "all-linear", rank=rank, alpha=2.0 * rank, dropout=0.0, seed=seed + 1)
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


def tiny_batch(
    seed: int = 0, batch: int = 3, length: int = 9, vocabulary: int = 97, left: bool = False, pad: int | None = None
) -> dict[str, torch.Tensor]:
    """Random token ids with padding and a mask.

    Args:
        seed: Seed of the ids.
        batch: Sequences; each is one token shorter than the one before.
        length: Tokens of the first.
        vocabulary: Ids are below this.
        left: Whether the padding comes first, as for generation.
        pad: Id of the padding; None leaves random ids there.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        padding = slice(0, row) if left else slice(length - row, None)
        mask[row, padding] = 0
        if pad is not None:
            ids[row, padding] = pad
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
        count = int(rng.choice([0, total, int(rng.integers(0, total + 1))]))
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
