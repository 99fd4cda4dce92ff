"""Counted FLOPs and parameters of every family against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metas_peft.backbones import compact, shape_of
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_model

# transformers computes every token in all experts of a Llama-4, counted are those that a token is sent to.
COUNTED = [family for family in TINY_FAMILIES if family != "llama4"]


def flops_of(model):
    # The counter does not see inside fused kernels.
    for module in model.modules():
        if getattr(module, "config", None) is not None:
            module.config._attn_implementation = "eager"
            module.config._experts_implementation = "eager"
    ids = torch.full((2, 8), 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops()


@pytest.mark.parametrize("family", COUNTED)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_counted_flops_are_those_that_torch_counts(family, seed):
    model = tiny_model(family, language_model=TINY_FAMILIES[family].language_model is not None)
    shape = shape_of(model)
    subnet = Subnet.dense(shape) if seed is None else random_subnet(shape, seed)
    counted = paper_cost(shape, Counts.of(subnet, shape), Workload(batch_size=2, seq_len=8)).flops
    assert flops_of(compact(model, shape, subnet)) == counted


@pytest.mark.parametrize("family", COUNTED)
def test_counted_flops_of_separate_adapters_are_those_that_torch_counts(network, family):
    model, shape = network(family, False)
    workload = Workload(batch_size=2, seq_len=8, adapter="separate")
    for subnet in (Subnet.dense(shape), random_subnet(shape, 1, prefix=True)):
        counted = paper_cost(shape, Counts.of(subnet, shape), workload).flops
        assert flops_of(compact(model, shape, subnet, merge=False)) == counted


def test_counted_flops_know_own_projections_of_relative_positions():
    for changes in ({"share_att_key": False}, {"share_att_key": False, "pos_att_type": ["c2p"]},
                    {"pos_att_type": ["p2c"]}, {"relative_attention": False, "pos_att_type": []}):  # fmt: skip
        model = tiny_model("deberta", **changes)
        shape = shape_of(model)
        subnet = random_subnet(shape, 2)
        counted = paper_cost(shape, Counts.of(subnet, shape), Workload(batch_size=2, seq_len=8)).flops
        assert flops_of(compact(model, shape, subnet)) == counted, changes


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_counted_parameters_of_separate_adapters_are_those_of_the_cut_ones(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    merged, separate = Workload(adapter="merged"), Workload(adapter="separate")
    for seed in range(6):
        subnet = random_subnet(shape, seed, prefix=True)
        small = compact(model, shape, subnet, merge=False)
        counts = Counts.of(subnet, shape)
        counted = paper_cost(shape, counts, separate).weight_bytes - paper_cost(shape, counts, merged).weight_bytes
        assert sum(p.numel() for n, p in small.named_parameters() if "lora_" in n) * 4 == counted, seed


def test_plain_families_need_no_sizes_of_their_own():
    plain = [family for family in TINY_FAMILIES if not shape_of(tiny_model(family)).layer_sizes]
    assert plain == ["bert", "roberta", "gpt2", "llama"]


def test_windows_are_those_of_the_layers_that_slide():
    sizes = {family: [a.window for a, _ in shape_of(tiny_model(family)).layer_sizes] for family in TINY_FAMILIES}
    assert sizes["gemma3"] == sizes["qwen3"] == [5, 0, 5]
    assert sizes["mistral"] == [5] * 3
    assert sizes["modernbert"] == [0] * 3  # an encoder keeps no cache
    assert shape_of(tiny_model("mistral", sliding_window=None)).layer_sizes == ()
