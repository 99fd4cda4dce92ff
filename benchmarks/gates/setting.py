"""What the benchmarks of gates share: a backbone with LoRA, and a price on a phone that the surrogate has not seen."""

from typing import Any

import torch
import transformers

from metas_peft.backbones import add_lora, shape_of
from metas_peft.backbones.load import load_backbone, without_dropout
from metas_peft.core.cost import Cost
from metas_peft.core.shape import BackboneShape
from metas_peft.core.workload import Workload
from metas_peft.costs import random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.surrogate import shipped
from metas_peft.tuning.pricing import Price

DEVICE, POINTS = "pixel-8", 5
RANK = 8
LLAMA = {
    "vocab_size": 8000, "hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12,
    "num_key_value_heads": 4, "intermediate_size": 2048, "num_labels": 2, "pad_token_id": 0,
}  # fmt: skip
# Four key-value groups of two heads each, and as many tokens as MiniLM's tokeniser has.
SMALL = {"vocab_size": 30522, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 768}


def backbone(name: str) -> Any:
    """`minilm` with its published weights, or `llama`, four random layers of the Llama kind."""
    if name == "minilm":
        return load_backbone("minilm", n_labels=2).model
    config = transformers.LlamaConfig(**LLAMA, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return without_dropout(transformers.LlamaForSequenceClassification(config))


def small_decoder() -> tuple[Any, BackboneShape]:
    """A small random Llama that classifies texts in MiniLM's tokens, all of it to be trained, and its shape."""
    config = transformers.LlamaConfig(**LLAMA | SMALL, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = without_dropout(transformers.LlamaForSequenceClassification(config)).requires_grad_(True)
    return model, shape_of(model)


def adapted(name: str) -> tuple[Any, BackboneShape]:
    """A PEFT model with LoRA on every projection, and its shape."""
    model, sites = add_lora(backbone(name), "all-linear", rank=RANK, alpha=2 * RANK, dropout=0.0, seed=1)
    return model, shape_of(model.get_base_model(), sites)


def price_on_phone(shape: BackboneShape, workload: Workload) -> Price:
    """The shipped surrogate, calibrated by five points of a simulated device."""
    device = open_device(DEVICE)
    points = [Specimen(subnet, shape) for subnet in random_prefixes(shape, POINTS, seed=0)]
    records = device.measure(points, workload, purpose=Purpose.CALIBRATION)
    surrogate = shipped().fit("metas", records, device.spec)
    return Price.on(surrogate.bind(shape, workload), Cost.uniform(1.0), shape)
