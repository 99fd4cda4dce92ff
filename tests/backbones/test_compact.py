"""Compact models against masked ones, in every family and task."""

import pytest
import torch

from metas_peft.backbones import FAMILIES, Layout, compact, reorder
from metas_peft.core.errors import SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.gates import masked
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import random_subnet, tiny_batch

TASKS = [
    pytest.param(family, lm, id=f"{family}-{'language-model' if lm else 'classifier'}")
    for family, tiny in TINY_FAMILIES.items()
    for lm, architecture in ((False, tiny.classifier), (True, tiny.language_model))
    if architecture is not None
]
FLOAT32_BOUND, BFLOAT16_BOUND = 1e-4, 2e-2


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def extremes(shape):
    """The corners of what can be kept."""
    heads, blocks = tuple(range(shape.n_kv_heads)), tuple(range(shape.ffn_blocks))
    full, gone = LayerPlan(True, True, heads, blocks), LayerPlan(False, False, heads, blocks)
    no_rank = LayerPlan(True, True, heads, blocks, tuple(() for _ in shape.sites))
    rest = [full] * (shape.n_layers - 1)
    return {
        "everything open": [full] * shape.n_layers,
        "no rank anywhere": [no_rank] * shape.n_layers,
        "one layer": [full, *[gone] * (shape.n_layers - 1)],
        "last layer alone": [*[gone] * (shape.n_layers - 1), full],
        "one head in all": [LayerPlan(True, False, heads[:1], ()), *[gone] * (shape.n_layers - 1)],
        "one block in all": [LayerPlan(False, True, (), blocks[:1]), *[gone] * (shape.n_layers - 1)],
        "no head in a kept layer": [LayerPlan(True, True, (), blocks), *rest],
        "no head anywhere": [LayerPlan(True, True, (), blocks)] * shape.n_layers,
        "no block in a kept layer": [LayerPlan(True, True, heads, ()), *rest],
        "no attention in the first layer": [LayerPlan(False, True, heads, blocks), *rest],
        "no attention at all": [LayerPlan(False, True, (), blocks)] * shape.n_layers,
        "no feed-forward at all": [LayerPlan(True, False, heads, ())] * shape.n_layers,
    }


def check(model, shape, subnet, batch, bound, name):
    with masked(model, shape, subnet):
        expected = logits(model, batch)
    small = compact(model, shape, subnet)
    gap = float((logits(small, batch) - expected).abs().max())
    assert gap < bound, f"{name}: compact and masked logits differ by {gap}"
    assert not any("lora" in n for n, _ in small.named_modules())
    counted = paper_cost(shape, Counts.of(subnet, shape), Workload()).weight_bytes
    assert sum(p.numel() for p in small.parameters()) * 4 == counted, f"{name}: parameters are not those counted"


def test_families_all_have_a_tiny_model():
    assert set(TINY_FAMILIES) == set(FAMILIES)
    assert len(FAMILIES) == 12
    assert len(TASKS) == 19


@pytest.mark.parametrize(("family", "language_model"), TASKS)
def test_compact_equals_masked(network, family, language_model):
    model, shape = network(family, language_model)
    # 25 states per family, shared out between its tasks where it has two.
    seeds = range(language_model, 25, 2) if TINY_FAMILIES[family].language_model else range(25)
    for seed in seeds:
        check(model, shape, random_subnet(shape, seed), tiny_batch(seed, left=seed % 4 > 1), FLOAT32_BOUND, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "language_model"), TASKS)
def test_compact_equals_masked_in_200_states(network, family, language_model):
    model, shape = network(family, language_model)
    for seed in range(1000, 1200):
        check(model, shape, random_subnet(shape, seed), tiny_batch(seed, left=seed % 2 == 0), FLOAT32_BOUND, seed)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_compact_equals_masked_at_the_extremes(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    found = extremes(shape)
    assert len(found) == 12
    for name, layers in found.items():
        check(model, shape, Subnet(tuple(layers)), tiny_batch(7), FLOAT32_BOUND, name)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_compact_equals_masked_in_bfloat16(network, family):
    import copy

    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    model = copy.deepcopy(model).bfloat16()
    for seed in range(4):
        subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
        with masked(model, shape, subnet):
            expected = logits(model, batch)
        gap = (logits(compact(model, shape, subnet), batch) - expected).float().abs().max()
        assert gap < BFLOAT16_BOUND * max(1.0, float(expected.float().abs().max())), seed


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "qwen3", "gemma3", "deepseek-v3"])
def test_compact_equals_masked_in_both_attention_implementations(network, family, implementation):
    model, shape = network(family, False)
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        for seed in (3, 4):
            check(model, shape, random_subnet(shape, seed), tiny_batch(seed), FLOAT32_BOUND, seed)
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_masked_model_with_everything_open_is_the_model_bit_for_bit(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    batch, names = tiny_batch(), list(model.state_dict())
    before = logits(model, batch)
    with masked(model, shape, Subnet.dense(shape)):
        assert torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)
    assert list(model.state_dict()) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_compact_leaves_the_model_untouched(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    numbers = vars(model.config).copy()
    compact(model, shape, random_subnet(shape, 5))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert vars(model.config) == numbers


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_reorder_keeps_the_function_and_its_inverse_restores_the_weights(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    batch = tiny_batch()
    generator = torch.Generator().manual_seed(5)
    heads = torch.stack([torch.randperm(shape.n_kv_heads, generator=generator) for _ in range(shape.n_layers)])
    neurons = torch.stack([torch.randperm(shape.ffn_size, generator=generator) for _ in range(shape.n_layers)])
    before, weights = logits(model, batch), {k: v.clone() for k, v in model.state_dict().items()}
    reorder(model, shape, heads, neurons)
    try:
        assert torch.allclose(logits(model, batch), before, atol=1e-5)
        assert any(not torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    finally:
        reorder(model, shape, heads.argsort(-1), neurons.argsort(-1))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_unmerged_compact_equals_merged(network, family):
    model, shape = network(family, TINY_FAMILIES[family].classifier is None)
    n_adapters = 0
    for seed in range(4):
        subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
        apart = compact(model, shape, subnet, merge=False)
        assert torch.allclose(logits(apart, batch), logits(compact(model, shape, subnet), batch), atol=1e-4, rtol=0)
        n_adapters += sum(n.endswith("lora_A") for n, _ in apart.named_modules())
    assert n_adapters > 0


def test_layout_counts_units_of_a_single_key_value_head_as_query_heads(network):
    model, shape = network("gemma3", False)
    assert model.config.num_key_value_heads == 1
    assert shape.n_kv_heads == Layout(model).head_units == 4
    small = compact(model, shape, Subnet(tuple(LayerPlan(True, True, (1, 3), (0, 1)) for _ in range(3))))
    attention = small.model.layers[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (12, 6)


def test_compact_refuses_a_subnet_of_another_backbone(network):
    model, shape = network("llama", False)
    with pytest.raises(SubnetError, match="2 layers, the model has 3"):
        compact(model, shape, Subnet.prefix([1, 1], [1, 1]))
    plan = LayerPlan(True, True, (0, 2), (0,))
    with pytest.raises(SubnetError, match=r"Layer 0 .*heads \[0, 2\], the model has 2"):
        compact(model, shape, Subnet((plan, plan, plan)))
    plan = LayerPlan(True, True, (0,), (0, 0))
    with pytest.raises(SubnetError, match=r"FFN blocks \[0, 0\]"):
        compact(model, shape, Subnet((plan, plan, plan)))
    plan = LayerPlan(True, True, (0,), (0,), ((0,),))
    with pytest.raises(SubnetError, match="ranks of 1 adapter sites, the model has 7"):
        compact(model, shape, Subnet((plan, plan, plan)))


def test_subnet_refuses_to_keep_nothing():
    with pytest.raises(SubnetError, match="keeps no layer"):
        Subnet.prefix([0, 0], [0, 0])
