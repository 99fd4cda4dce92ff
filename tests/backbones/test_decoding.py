"""Compact language models generate what masked ones do: caches, positions and padding with layers gone."""

import pytest
import torch

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.kv_cache import CACHE
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.gates import masked
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_batch, tiny_model

DECODERS = [family for family, tiny in TINY_FAMILIES.items() if tiny.language_model]
NEW = 8


def states(shape):
    """The first layer, whose cache is asked for lengths, has nothing to answer with; and random states."""
    heads, blocks = tuple(range(shape.n_kv_heads)), tuple(range(shape.ffn_blocks))
    full, gone = LayerPlan(True, True, heads, blocks), LayerPlan(False, False, heads, blocks)
    headless, no_attention = LayerPlan(True, True, (), blocks), LayerPlan(False, True, heads, blocks)
    return [
        Subnet((no_attention, full, full)),
        Subnet((gone, full, full)),
        Subnet((headless, no_attention, full)),
        Subnet((no_attention, no_attention, no_attention)),
        Subnet((full, gone, headless)),
        *(random_subnet(shape, seed) for seed in range(3)),
    ]


def generate(model, **options):
    prompt = tiny_batch(3, length=7, left=True, pad=0)
    with torch.no_grad():
        return model.generate(
            **prompt, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True, **options
        )


@pytest.mark.parametrize("family", DECODERS)
def test_compact_generates_what_the_masked_model_does(network, family):
    model, shape = network(family, True)
    for i, subnet in enumerate(states(shape)):
        with masked(model, shape, subnet):
            expected = generate(model)
        found = generate(compact(model, shape, subnet))
        assert torch.equal(found.sequences, expected.sequences), i
        gap = (torch.stack(found.logits) - torch.stack(expected.logits)).abs().max()
        assert gap < 1e-4, (i, gap)


@pytest.mark.parametrize("family", DECODERS)
def test_compact_with_a_cache_equals_compact_without(network, family):
    model, shape = network(family, True)
    for i, subnet in enumerate(states(shape)):
        small = compact(model, shape, subnet)
        cached, plain = generate(small), generate(small, use_cache=False)
        gap = (torch.stack(cached.logits) - torch.stack(plain.logits)).abs().max()
        assert gap < 1e-4, (i, gap)


@pytest.mark.parametrize("family", DECODERS)
def test_cache_knows_its_length_in_every_layer(network, family):
    model, shape = network(family, True)
    for subnet in states(shape):
        cache = generate(compact(model, shape, subnet))[CACHE]
        assert [cache.get_seq_length(i) for i in range(len(cache.layers))] == [7 + NEW - 1] * subnet.kept_layers


def test_compact_searches_beams_as_the_masked_model_does(network):
    model, shape = network("llama", True)
    subnet = states(shape)[0]
    with masked(model, shape, subnet):
        expected = generate(model, num_beams=3)
    assert torch.equal(generate(compact(model, shape, subnet), num_beams=3).sequences, expected.sequences)


def test_static_cache_serves_a_compact_model(network):
    model, shape = network("llama", True)
    small = compact(model, shape, states(shape)[0])
    expected = generate(small)
    assert torch.equal(generate(small, cache_implementation="static").sequences, expected.sequences)


def in_two_passes(model, batch, first=7):
    """Logits of a prompt, and of what follows behind its cache."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        prompt = model(input_ids=ids[:, :first], attention_mask=mask[:, :first], use_cache=True)
        cache = prompt[CACHE]
        rest = model(input_ids=ids[:, first:], attention_mask=mask, use_cache=True, **{CACHE: cache})
    return torch.cat([prompt.logits, rest.logits], dim=1).float()


@pytest.mark.parametrize("family", DECODERS)
def test_compact_equals_masked_in_bfloat16_with_a_cache_and_left_padding(family):
    # Without adapters: merging them rounds the weights once more, which is no difference between mask and cut.
    model = tiny_model(family, language_model=True).bfloat16()
    shape, batch = shape_of(model), tiny_batch(5, length=10, left=True, pad=0)
    real = batch["attention_mask"].bool()
    for i, subnet in enumerate(states(shape)):
        with masked(model, shape, subnet):
            expected = in_two_passes(model, batch)[real]
        gap = (in_two_passes(compact(model, shape, subnet), batch)[real] - expected).abs().max()
        assert gap < 2e-2 * max(1.0, float(expected.abs().max())), (i, gap)
