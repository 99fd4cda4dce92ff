"""LoRA through PEFT: what is trained, what merging gives, what goes to disk."""

import copy
import json

import peft
import pytest
import torch

from metas_peft.backbones import Layout, add_lora, compact, shape_of
from metas_peft.backbones.adapter_files import save_adapter
from metas_peft.backbones.adapters import adapter_sites, inverse, merged_weight, reorder
from metas_peft.backbones.store import load, save_compact
from metas_peft.core.errors import UnknownNameError, UnsupportedBackboneError
from metas_peft.core.subnet import Subnet
from metas_peft.gates import GateSet
from metas_peft.testing.tiny import TINY_CONFIGS, randomise_lora, tiny_adapted, tiny_batch, tiny_model

FAMILIES = ("bert", "roberta", "llama")


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch()).logits


def lora_of(model, targets="all-linear", **settings):
    return add_lora(model, targets, **{"rank": 3, "alpha": 6.0, "dropout": 0.0, "seed": 1, **settings})


def test_families_are_known():
    assert set(FAMILIES) <= set(TINY_CONFIGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_and_the_head_are_trained(family):
    adapted, sites = lora_of(tiny_model(family))
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    heads = ("classifier", "pooler", "score")
    assert all("lora_" in n or any(h in n and "modules_to_save" in n for h in heads) for n in trained)
    assert sum("lora_A" in n for n in trained) == sum("lora_B" in n for n in trained) == 3 * len(sites)
    assert any("modules_to_save" in n for n in trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapter_changes_nothing(family):
    model = tiny_model(family)
    before = logits(model)
    assert torch.allclose(logits(lora_of(model)[0].eval()), before, atol=1e-6)


@pytest.mark.parametrize(("targets", "names"), [
    (["q_proj", "v_proj"], ("q", "v")), (["query", "attention.output.dense"], ("q", "o")),
    ("all-linear", ("q", "k", "v", "o", "up", "down")), (["down_proj", "q"], ("q", "down")),
])  # fmt: skip
def test_targets_may_be_spelled_in_any_familys_way(targets, names):
    adapted, sites = lora_of(tiny_model("bert"), targets)
    assert tuple(s.name for s in sites) == names
    layout = Layout(adapted.get_base_model())
    carrying = [s for s in ("q", "k", "v", "o", "up", "down")
                if hasattr(layout.projection(layout.layers[1], s), "lora_A")]  # fmt: skip
    assert tuple(carrying) == names


def test_unknown_target_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'q_prof'.*did you mean"):
        lora_of(tiny_model("bert"), ["q_prof"])


def test_initial_adapter_follows_its_seed_alone():
    def a_map(seed, state):
        torch.manual_seed(state)
        adapted, _ = lora_of(tiny_model("bert"), seed=seed)
        return next(p for n, p in adapted.named_parameters() if "lora_A" in n)

    assert torch.equal(a_map(1, 0), a_map(1, 5))
    assert not torch.equal(a_map(1, 0), a_map(2, 0))


@pytest.mark.parametrize("ranks", [None, (), (1,), (0, 2)])
def test_merged_weight_is_the_base_plus_the_kept_ranks(ranks):
    adapted, _ = lora_of(tiny_model("bert"), rank=3, alpha=12.0)
    randomise_lora(adapted)
    layout = Layout(adapted.get_base_model())
    module = layout.projection(layout.layers[0], "up")
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    expected = module.base_layer.weight.clone()
    for rank in range(3) if ranks is None else ranks:
        expected += 4.0 * torch.outer(b[:, rank], a[rank])
    assert torch.allclose(merged_weight(module, ranks), expected, atol=1e-6)


def with_bias(model):
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"], lora_bias=True))


def another(model):
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["query"]))
    adapted.set_adapter("other")
    return adapted


def merged(model):
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    adapted.merge_adapter()
    return adapted


@pytest.mark.parametrize(
    ("adapt", "message"),
    [
        (with_bias, "has a bias, which belongs to no rank"),
        (another, "that is active is called other; the one called 'default' is used"),
        (merged, "is merged into its weights. Call model.unmerge_adapter"),
        (lambda m: peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=["query"], use_dora=True)),
         "is a variant"),
        (lambda m: peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=["query"]), adapter_name="mine"),
         "is called mine"),
        (lambda m: peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=["word_embeddings"])),
         "adapts an embedding"),
        (lambda m: peft.get_peft_model(m, peft.IA3Config(target_modules=["query"], feedforward_modules=[])),
         "gates and cuts know LoRA alone"),
        (lambda m: peft.get_peft_model(m, peft.AdaLoraConfig(target_modules=["query"], total_step=9)),
         "is AdaLoRA, whose ranks are its own"),
        (lambda m: peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=["query"], trainable_token_indices=[1])),
         "Leave out trainable_token_indices"),
    ],
)  # fmt: skip
def test_adapters_that_would_be_cut_as_something_else_are_refused(adapt, message):
    network = adapt(tiny_model("bert")).get_base_model()
    shape = shape_of(tiny_model("bert"))
    for refused in (lambda: adapter_sites(network), lambda: compact(network, shape, Subnet.dense(shape))):
        with pytest.raises(UnsupportedBackboneError, match=message):
            refused()


def test_adapters_outside_of_the_layers_are_merged_too(tmp_path):
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", init_lora_weights=False)
    model = tiny_model("bert")
    adapted = peft.get_peft_model(model, config).eval()
    network, plain = adapted.get_base_model(), shape_of(tiny_model("bert"))
    shape = shape_of(network, adapter_sites(network))
    assert shape.head_flops_per_sequence == plain.head_flops_per_sequence
    small = compact(network, shape, Subnet.dense(shape))
    assert not [name for name, _ in small.named_parameters() if "lora_" in name]
    save_compact(small, model.config, Subnet.dense(shape), tmp_path / "m", {"name": "all"})
    assert torch.allclose(logits(load(tmp_path / "m")), logits(adapted), atol=1e-5)


def test_embeddings_that_are_trained_whole_count_once():
    plain = shape_of(tiny_model("llama"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    network = peft.get_peft_model(tiny_model("llama"), config).get_base_model()
    assert shape_of(network, adapter_sites(network)).embedding_params == plain.embedding_params


def test_experts_with_adapters_are_refused_in_a_sentence():
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    adapted = peft.get_peft_model(tiny_model("deepseek-v3", language_model=True), config)
    with pytest.raises(
        UnsupportedBackboneError, match="fused experts, which are cut without adapters. Name the projections"
    ):
        GateSet.of(adapted, ["layer"])


def test_head_that_was_trained_apart_from_tied_embeddings_is_loaded_as_it_is(tmp_path):
    model = tiny_model("llama", language_model=True, tie_word_embeddings=True)
    dense_config = copy.deepcopy(model.config)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    network = peft.get_peft_model(model, config).get_base_model()
    with torch.no_grad():
        network.lm_head.modules_to_save["default"].weight.add_(1.0)
    shape = shape_of(network, adapter_sites(network))
    small = compact(network, shape, Subnet.dense(shape))
    save_compact(small, dense_config, Subnet.dense(shape), tmp_path / "m", {"name": "all"})
    assert torch.allclose(logits(load(tmp_path / "m")), logits(small), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_on_disk_fits_the_published_backbone(family, tmp_path):
    """Whatever the order of heads and neurons in memory."""
    adapted, shape = tiny_adapted(family)
    network, expected = adapted.get_base_model(), logits(adapted)
    generator = torch.Generator().manual_seed(3)
    heads = torch.stack([torch.randperm(shape.n_kv_heads, generator=generator) for _ in range(3)])
    neurons = torch.stack([torch.randperm(shape.ffn_size, generator=generator) for _ in range(3)])
    reorder(network, shape, heads, neurons)
    before = {n: p.clone() for n, p in adapted.named_parameters()}
    save_adapter(adapted, shape, heads, neurons, tmp_path)
    assert all(torch.equal(p, before[n]) for n, p in adapted.named_parameters())
    plain = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert torch.equal(logits(plain), expected)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 6.0, "LORA")


def test_inverse_undoes_an_order():
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    assert torch.gather(order, -1, inverse(order)).tolist() == [[0, 1, 2], [0, 1, 2]]
