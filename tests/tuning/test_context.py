"""The shared start: what a later stage is trained with, and what is the same for all methods."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.adapters import adapter_sites
from metas_peft.core.errors import SubnetError
from metas_peft.core.subnet import Subnet
from metas_peft.testing.tiny import randomise_lora, tiny_batch, tiny_model
from metas_peft.testing.tuning import tiny_context
from metas_peft.tuning import context as context_module
from metas_peft.tuning.context import LATER_RATE


@pytest.fixture
def stages(monkeypatch):
    """Settings of the stages that were trained; none is."""
    seen = {}
    monkeypatch.setattr(context_module, "fit", lambda *args, title, **rest: seen.update({title: args[4]}) or 0.0)
    return seen


@pytest.mark.parametrize(
    ("given", "steps", "expected"), [(0.05, 200, 0.05), (500, 200, 20), (15, 200, 15), (500, 5, 1), (0, 200, 0)]
)
def test_warm_up_in_steps_takes_a_tenth_of_a_later_stage_at_most(stages, given, steps, expected):
    context = tiny_context("bert", warmup=given, learning_rate=1e-3)
    context.train_dense()
    context.fit(None, steps, "later", offset=3)
    assert (stages["dense"].warmup, stages["later"].warmup) == (given, expected)
    assert (stages["dense"].steps, stages["later"].steps) == (None, steps)
    assert stages["later"].learning_rate == LATER_RATE * stages["dense"].learning_rate
    assert stages["later"].seed == stages["dense"].seed + 3


def test_start_is_recorded_once_and_the_teacher_with_it():
    context = tiny_context("bert")
    context.reset()
    teacher = context.teacher
    with torch.no_grad():
        for parameter in context.adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    context.reset()
    assert context.teacher is teacher


def test_compact_model_that_differs_from_the_masked_one_is_refused(monkeypatch):
    context = tiny_context("bert")
    context.reset()
    subnet = Subnet.dense(context.shape)
    assert context.cut("dense", subnet).gap < 1e-5

    def damaged(*args):
        model = compact(*args)
        with torch.no_grad():
            model.classifier.bias.add_(3e-4)
        return model

    monkeypatch.setattr(context_module, "compact", damaged)
    with pytest.raises(SubnetError, match="differs from the masked one by 0.0003"):
        context.cut("dense", subnet)
    monkeypatch.setattr(context_module, "compact", compact)
    with torch.no_grad():
        context.network.classifier.bias.fill_(float("nan"))
    with pytest.raises(SubnetError, match="by nan"):
        context.cut("dense", subnet)


def test_order_of_heads_is_a_permutation_and_not_the_callers_to_change():
    context = tiny_context("llama")
    context.reset()
    order = context.head_order
    assert order.sort(-1).values.tolist() == [list(range(context.shape.n_kv_heads))] * 3
    order.zero_()
    assert context.head_order.sort(-1).values.tolist() == [list(range(context.shape.n_kv_heads))] * 3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_ranks_in_another_order_are_the_same_adapter(family):
    context = tiny_context(family)
    batch = context.collator([context.data[i] for i in range(6)])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    sites = len(context.shape.sites)
    values = torch.rand(3, sites, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = context.network.eval()(**inputs).logits
        first = next(p.clone() for n, p in context.adapted.named_parameters() if "lora_A" in n)
        ordered = context.order_ranks(values)
        assert torch.allclose(context.network(**inputs).logits, before, atol=1e-6)
    assert torch.equal(ordered, values.sort(-1, descending=True).values)
    assert not torch.equal(next(p for n, p in context.adapted.named_parameters() if "lora_A" in n), first)


def test_ranks_of_a_site_of_lower_rank_come_before_the_places_that_stand_for_none():
    config = LoraConfig(r=3, rank_pattern={"query": 1, "value": 2}, target_modules=["query", "key", "value"],
                        task_type="SEQ_CLS")  # fmt: skip
    adapted = get_peft_model(tiny_model("bert"), config)
    randomise_lora(adapted)
    context = tiny_context("bert")
    context.adapted, context.network = adapted, adapted.get_base_model()
    context.shape = shape_of(context.network, adapter_sites(context.network))
    ranks = [site.rank for site in context.shape.sites]
    assert sorted(ranks) == [1, 2, 3]
    values = torch.full((3, 3, 3), 0.8)  # where there is no rank, a gate stays at its start
    generator = torch.Generator().manual_seed(0)
    for m, rank in enumerate(ranks):
        values[:, m, :rank] = 0.7 * torch.rand(3, rank, generator=generator)
    inputs = tiny_batch()
    with torch.no_grad():
        before = context.network.eval()(**inputs).logits
        ordered = context.order_ranks(values)
        assert torch.allclose(context.network(**inputs).logits, before, atol=1e-6)
    for m, rank in enumerate(ranks):
        assert torch.equal(ordered[:, m, :rank], values[:, m, :rank].sort(-1, descending=True).values)
        assert (ordered[:, m, rank:] == 0.8).all()
