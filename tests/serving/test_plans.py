"""Members that take turns in the largest one's modules, and as modules of their own."""

import copy

import pytest
import torch

from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import tiny_batch

WITH_VIEWS = [family for family, tiny in TINY_FAMILIES.items() if tiny.has_views]
ORDER = (3, 0, 2, 1, 2, 3, 1, 0)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_every_member_answers_as_the_separately_cut_model_whoever_was_active_before(served, family):
    for seed in range(3):
        front, cut = served(family, seed=seed)
        for i in ORDER:
            batch = tiny_batch(i)
            assert front.activate(f"m{i}").name == f"m{i}"
            assert torch.allclose(front(**batch).logits, logits(cut[i], batch), atol=1e-5, rtol=0), (seed, i)


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_modules_of_their_own_answer_so_too_and_leave_the_front_as_it_is(served, family):
    front, cut = served(family)
    front.activate("m2")
    batch = tiny_batch()
    for i in ORDER:
        module = front.module(f"m{i}")
        assert torch.allclose(logits(module, batch), logits(cut[i], batch), atol=1e-5, rtol=0), i
        assert module.config.get_text_config().num_hidden_layers == cut[i].config.get_text_config().num_hidden_layers
        assert torch.allclose(front(**batch).logits, logits(cut[2], batch), atol=1e-5, rtol=0), i


@pytest.mark.parametrize("family", [f for f in WITH_VIEWS if TINY_FAMILIES[f].language_model])
def test_members_generate_as_the_separately_cut_models(served, family):
    front, cut = served(family, True)
    prompt = tiny_batch(1, left=True, pad=0)
    for i in ORDER[:4]:
        expected = cut[i].generate(**prompt, max_new_tokens=6, do_sample=False)
        assert torch.equal(front.module(f"m{i}").generate(**prompt, max_new_tokens=6, do_sample=False), expected), i


@pytest.mark.parametrize("family", WITH_VIEWS)
def test_hidden_states_are_those_of_the_member(served, family):
    front, cut = served(family)
    for i in ORDER:
        front.activate(f"m{i}")
        found = front(**tiny_batch(), output_hidden_states=True).hidden_states
        with torch.no_grad():
            expected = cut[i](**tiny_batch(), output_hidden_states=True).hidden_states
        assert len(found) == len(expected)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_switching_back_restores_every_module_and_number(served):
    front, _ = served("llama")
    before = {name: (copy.copy(vars(m)), dict(m._modules)) for name, m in front._model.named_modules()}
    for i in ORDER:
        front.activate(f"m{i}")
    after = {name: (vars(m), dict(m._modules)) for name, m in front._model.named_modules()}
    assert list(after) == list(before)
    for name, (attributes, children) in after.items():
        assert children == before[name][1], name
        assert {k: v for k, v in attributes.items() if k != "_modules"} == {
            k: v for k, v in before[name][0].items() if k != "_modules"
        }, name
