"""Counted costs against torch's own FLOP counter and the parameters that are there."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.catalogue import BACKBONES
from metas_peft.backbones.kv_cache import CACHE
from metas_peft.core.cost import PAPER_COSTS
from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import AdapterSite
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE, SHAPES, Counts, layer_ops, outer_op, paper_cost
from metas_peft.gates import gate_values
from metas_peft.gates.gate_set import counts_of
from metas_peft.testing.tiny import TINY_CONFIGS, random_subnet, tiny_adapted

FAMILIES = sorted(TINY_CONFIGS)
WORKLOAD = Workload(batch_size=2, seq_len=9)
REAL = {"minilm": MINILM, "roberta-base": ROBERTA_BASE, "llama-2-7b": LLAMA_2_7B}


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    adapted, shape = tiny_adapted(request.param)
    return adapted.get_base_model(), shape


def flops_of(model, **inputs):
    # Fused attention is partly invisible to the counter.
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


def tokens(workload, vocabulary=97):
    ids = torch.randint(
        2, vocabulary, (workload.batch_size, workload.seq_len), generator=torch.Generator().manual_seed(0)
    )
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("seed", range(8))
def test_flops_and_weights_of_a_compact_model_are_exact(tiny, seed):
    model, shape = tiny
    subnet = random_subnet(shape, seed)
    small = compact(model, shape, subnet)
    counted = paper_cost(shape, Counts.of(subnet, shape), WORKLOAD)
    assert flops_of(small, **tokens(WORKLOAD)) == counted.flops
    assert sum(p.numel() * p.element_size() for p in small.parameters()) == counted.weight_bytes


@pytest.mark.parametrize("workload", [WORKLOAD, Workload(batch_size=1, seq_len=1), Workload(batch_size=5, seq_len=16)])
def test_flops_of_separate_adapters_are_exact(tiny, workload):
    model, shape = tiny
    counted = paper_cost(shape, Counts.dense(shape), dataclasses.replace(workload, adapter="separate"))
    assert flops_of(model, **tokens(workload)) == counted.flops


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("before", [3, 9, 31])
def test_flops_and_cache_of_decoding_one_token_are_exact(family, before):
    """Windows of 5 tokens slide in some layers of two of them."""
    adapted, shape = tiny_adapted(family)
    subnet = Subnet.prefix([shape.n_kv_heads] * 3, [6, 0, 12])
    small = compact(adapted.get_base_model(), shape, subnet)
    small.set_attn_implementation("eager")
    step = Workload(phase="decode", batch_size=2, seq_len=1, context_len=before)
    inputs = tokens(dataclasses.replace(step, phase="prefill", seq_len=before, context_len=0))
    cache = transformers.DynamicCache(config=small.config)
    with torch.no_grad():
        small(**inputs, use_cache=True, **{CACHE: cache})
    counted = paper_cost(shape, Counts.of(subnet, shape), step)
    assert flops_of(small, input_ids=inputs["input_ids"][:, :1], **{CACHE: cache}) == counted.flops
    # A layer whose window slides keeps one token less than it attends to.
    attended = [layer.keys.shape[2] + (before >= 5) * layer.is_sliding for layer in cache.layers]
    width = 2 * 2 * cache.layers[0].keys.shape[1] * cache.layers[0].keys.shape[3]
    assert counted.kv_bytes == 4 * width * sum(attended)


def test_every_shape_has_its_architecture():
    assert set(SHAPES.values()) == set(REAL.values())


@pytest.mark.parametrize("name", sorted(REAL))
def test_shape_flops_and_weights_of_a_real_backbone(name):
    """The architecture from `transformers` without its weights."""
    shape = REAL[name]
    config = transformers.AutoConfig.for_model(**BACKBONES[name].config, num_labels=2)
    workload = Workload(batch_size=2, seq_len=128)
    with FakeTensorMode():
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        assert dataclasses.asdict(shape_of(model, (), shape.model_id)) == dataclasses.asdict(shape)
        counted = paper_cost(shape, Counts.dense(shape), workload)
        assert sum(p.numel() for p in model.parameters()) * 4 == counted.weight_bytes
        assert flops_of(model, **tokens(workload)) == pytest.approx(float(counted.flops), rel=1e-3)


def test_known_sizes_of_known_models():
    def millions(shape):
        return float(paper_cost(shape, Counts.dense(shape), Workload()).weight_bytes) / 4e6

    assert millions(MINILM) == pytest.approx(22.7, abs=0.1)
    assert millions(ROBERTA_BASE) == pytest.approx(124.6, abs=0.2)
    assert millions(LLAMA_2_7B) == pytest.approx(6607, abs=5)  # 6,738 less the language-model head


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_stored_bytes_follow_the_width_of_the_weights(bits):
    whole = paper_cost(MINILM, Counts.dense(MINILM), Workload())
    narrow = paper_cost(MINILM, Counts.dense(MINILM), Workload(param_bits=bits))
    assert narrow.weight_bytes == whole.weight_bytes * bits / 32
    assert narrow.flops == whole.flops
    assert narrow.act_bytes == whole.act_bytes * (1 if bits == 32 else 0.5)


def test_cache_of_a_decoder_is_read_whole_and_an_encoder_has_none():
    step = Workload(phase="decode", batch_size=3, seq_len=1, context_len=100, param_bits=16)
    counted = paper_cost(LLAMA_2_7B, Counts.dense(LLAMA_2_7B), step)
    # Keys and values of 100 old tokens and the new one, 32 layers of width 4096, two bytes each.
    assert counted.kv_bytes == 2 * 2 * 3 * 101 * 32 * 4096
    assert paper_cost(MINILM, Counts.dense(MINILM), Workload()).kv_bytes == 0


def test_operations_add_up_to_the_total(tiny):
    _, shape = tiny
    workload = Workload(batch_size=2, seq_len=9, adapter="separate")
    counts = Counts.of(random_subnet(shape, 3), shape)
    ops = [*layer_ops(shape, counts, workload), outer_op(shape, counts, workload)]
    total = paper_cost(shape, counts, workload)
    for field in ("flops", "act_bytes", "kv_bytes"):
        assert sum(float(getattr(op, field).sum()) for op in ops) == pytest.approx(float(getattr(total, field)))


def test_kernels_of_whole_and_half_layers():
    def kernels(heads, blocks):
        counts = Counts.of(Subnet.prefix(heads, blocks), MINILM)
        return float(paper_cost(MINILM, counts, Workload()).n_ops)

    whole = kernels([12] * 6, [12] * 6)
    assert whole == 6 * 10 + 3
    assert kernels([1] * 6, [1] * 6) == whole  # narrower, not fewer
    assert kernels([12] * 3 + [0] * 3, [12] * 3 + [0] * 3) == 3 * 10 + 3
    assert kernels([12] * 6, [0] * 6) + kernels([0] * 6, [12] * 6) == whole + 3


@pytest.mark.parametrize("adapter", ["merged", "separate"])
def test_batched_counts_and_tensors_give_what_single_ones_give(tiny, adapter):
    _, shape = tiny
    workload = dataclasses.replace(WORKLOAD, adapter=adapter)
    subnets = [random_subnet(shape, seed) for seed in range(6)]
    batched = paper_cost(shape, Counts.stack(subnets, shape), workload)
    for row, subnet in enumerate(subnets):
        single = paper_cost(shape, Counts.of(subnet, shape), workload)
        gated = paper_cost(shape, counts_of(gate_values(subnet, shape), shape), workload)
        for name in PAPER_COSTS:
            assert getattr(batched, name)[row] == getattr(single, name)
            assert float(getattr(gated, name)) == pytest.approx(float(getattr(single, name)), rel=1e-6)


def test_counted_costs_have_the_gradients_of_finite_differences(tiny):
    _, shape = tiny
    dense = Counts.dense(shape)
    fields = [torch.tensor(getattr(dense, f.name) * 0.6, requires_grad=True) for f in dataclasses.fields(dense)]

    def total(*values):
        cost = paper_cost(shape, Counts(*values), dataclasses.replace(WORKLOAD, adapter="separate"))
        return cost.flops / 1e6 + cost.weight_bytes / 1e5 + cost.act_bytes / 1e5 + cost.kv_bytes / 1e3 + cost.n_ops

    assert torch.autograd.gradcheck(total, fields, eps=1e-5, atol=1e-4)


def test_subnet_of_another_depth_is_refused():
    with pytest.raises(SubnetError, match="2 layers, all-MiniLM-L6-v2 has 6"):
        Counts.of(Subnet.prefix([1, 1], [1, 1]), MINILM)


def test_counts_of_absent_sub_layers_are_zero():
    shape = dataclasses.replace(MINILM, sites=(AdapterSite("q", 8), AdapterSite("down", 4)))
    counts = Counts.of(Subnet.prefix([12, 0, 12, 12, 12, 12], [12, 12, 0, 12, 12, 12]), shape)
    assert counts.heads.tolist() == [12, 0, 12, 12, 12, 12]
    assert counts.neurons.tolist() == [1536, 1536, 0, 1536, 1536, 1536]
    assert counts.ranks.tolist() == [[8, 4], [0, 4], [8, 0], [8, 4], [8, 4], [8, 4]]
    assert counts.attention.dtype == np.float64
