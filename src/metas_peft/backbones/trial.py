"""Trying out a table on a small twin of a model: structure alone does not tell what a forward pass counts on.

A family located by structure may read a number of heads from an attribute, or add its sub-layers up in another way.
Two layers of the same architecture and width are cut and compared with the masked ones before anything is built on it.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from metas_peft.backbones.cutting import cut
from metas_peft.backbones.hooks import gate_presence, gate_units
from metas_peft.backbones.kv_cache import CACHE
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.shape import shape_of
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet

N_LAYERS, VOCABULARY = 2, 32
BOUND = 1e-3  # of the largest logit


def try_out(model: Any) -> str | None:
    """Cut a twin of a model in two ways and compare it with the masked twin.

    Args:
        model: `transformers` model whose family has just been located.

    Returns:
        What went wrong; None if nothing did.
    """
    try:
        twin = _twin(model)
        shape = shape_of(twin)
        for subnet in _subnets(shape):
            gap = _gap(twin, shape, subnet)
            if not gap < BOUND:
                return f"its cut layers answer differently from the masked ones (by {gap:.2g} of the largest logit)"
    # Whatever a stranger's forward pass raises is the answer to the question.
    except Exception as error:
        return f"cutting it fails ({type(error).__name__}: {error})"
    return None


def _twin(model: Any) -> Any:
    """Two layers of the same architecture with random weights and a small vocabulary."""
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    n_layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == n_layers:
            setattr(text, name, value[:N_LAYERS])
    text.num_hidden_layers, text.vocab_size = N_LAYERS, VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = type(model)(config).float().eval()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return twin


def _subnets(shape: BackboneShape) -> list[Subnet]:
    heads, blocks = tuple(range(shape.n_kv_heads)), tuple(range(shape.ffn_blocks))
    return [
        Subnet((LayerPlan(True, True, heads[1::2], blocks[1::2]), LayerPlan(True, True, heads[:1], blocks[1:]))),
        Subnet((LayerPlan(False, True, heads, blocks), LayerPlan(True, False, heads, blocks))),
    ]


@torch.no_grad()
def _gap(twin: Any, shape: BackboneShape, subnet: Subnet) -> float:
    """Largest difference between cut and masked logits, as a fraction of the largest logit."""
    ids = torch.randint(1, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))
    with _masked(twin, shape, subnet):
        expected = twin(input_ids=ids, use_cache=False).logits if twin.can_generate() else twin(input_ids=ids).logits
    small = copy.deepcopy(twin)
    cut(small, shape, subnet)
    found = [small(input_ids=ids).logits]
    if small.can_generate():
        first = small(input_ids=ids[:, :4], use_cache=True)
        rest = small(input_ids=ids[:, 4:], use_cache=True, **{CACHE: first[CACHE]})
        found.append(torch.cat([first.logits, rest.logits], dim=1))
    return max(float((logits - expected).abs().max() / expected.abs().max()) for logits in found)


@contextlib.contextmanager
def _masked(model: Any, shape: BackboneShape, subnet: Subnet) -> Iterator[None]:
    layout = Layout(model)
    handles: list[Any] = []
    for layer, plan in zip(layout.layers, subnet.layers, strict=True):
        for table, is_there, units, total in (
            (layout.attention(layer), plan.attention, plan.heads, shape.n_kv_heads),
            (layout.ffn(layer), plan.ffn, plan.ffn_blocks, shape.ffn_blocks),
        ):
            mask = torch.zeros(total)
            mask[list(units)] = 1.0
            presence = torch.tensor(float(is_there))
            handles += gate_presence(layer, table, lambda presence=presence: presence)
            handles += gate_units(layout, layer, table, lambda mask=mask: mask)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
