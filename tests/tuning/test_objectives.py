"""Losses: each term against its formula, the teacher against the model."""

import pytest
import torch
import torch.nn.functional as F

from metas_peft.core.cost import Cost
from metas_peft.gates import GateSet
from metas_peft.testing.tiny import tiny_adapted
from metas_peft.testing.tuning import tiny_cost_model, tiny_texts
from metas_peft.tuning.context import GateSettings
from metas_peft.tuning.data import Collator
from metas_peft.tuning.methods.gates import GatesObjective
from metas_peft.tuning.objectives import Distillation, DistilledObjective, TaskObjective, Teacher
from metas_peft.tuning.pricing import Price

DATA = tiny_texts(40)
COLLATOR = Collator(0)


@pytest.fixture(scope="module", params=["bert", "llama"])
def adapted(request):
    return tiny_adapted(request.param)[0].eval()


def batch_of(*rows):
    return COLLATOR([DATA[i] for i in rows])


def logits(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def teacher_of(adapted, **settings):
    settings = {"hidden": True, "bf16": False, "progress": False, **settings}
    return Teacher.record(adapted.get_base_model(), DATA, COLLATOR, **settings)


def student(seed=9):
    """Another model of the same kind."""
    return tiny_adapted("bert", seed=seed)[0].eval()


def test_teacher_answers_every_text_in_its_own_place(adapted):
    teacher = teacher_of(adapted)
    with torch.no_grad():
        for index in (0, 17, 39):
            assert torch.allclose(teacher.logits[index], logits(adapted, batch_of(index))[0], atol=1e-5)


def test_teacher_keeps_the_hidden_states_of_real_tokens_only(adapted):
    batch = batch_of(3, 0, 31)
    hidden = teacher_of(adapted).hidden(batch)
    assert hidden.shape == (sum(len(DATA.ids[i]) for i in (3, 0, 31)), 32)
    with torch.no_grad():
        states = adapted.get_base_model().base_model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    # bfloat16 keeps three digits.
    assert torch.allclose(hidden, states[batch["attention_mask"].bool()], rtol=1e-2, atol=1e-2)


def test_teacher_leaves_out_hidden_states_that_would_take_too_much_memory(adapted, monkeypatch, caplog):
    monkeypatch.setattr("metas_peft.tuning.objectives.CACHE_LIMIT_GB", 1e-9)
    assert teacher_of(adapted).hidden(batch_of(0, 1)) is None
    assert "left out of the distillation" in caplog.text


def test_task_loss_is_the_mean_cross_entropy():
    model, batch = student(), batch_of(*range(8))
    with torch.no_grad():
        out = logits(model, batch).double()
        by_hand = -sum(out[i].log_softmax(-1)[batch["labels"][i]] for i in range(8)) / 8
        assert float(TaskObjective().loss(model, batch)) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_is_scaled_by_the_temperature_squared(temperature):
    model = student()
    teacher = teacher_of(tiny_adapted("bert")[0].eval())
    batch = batch_of(*range(6))
    with torch.no_grad():
        p = (teacher.logits[:6].double() / temperature).softmax(-1)
        q = (logits(model, batch).double() / temperature).softmax(-1)
        by_hand = temperature**2 * (p * (p / q).log()).sum(-1).mean()
        objective = DistilledObjective(model.get_base_model(), teacher, Distillation(temperature, 0.0, 1.0, 0.0))
        assert float(objective.loss(model, batch)) == pytest.approx(float(by_hand), rel=1e-4)


def test_hidden_term_is_relative_to_the_teachers_mean_square():
    model, teacher, batch = student(), teacher_of(tiny_adapted("bert")[0].eval()), batch_of(4, 9, 2)
    objective = DistilledObjective(model.get_base_model(), teacher, Distillation(2.0, 0.0, 0.0, 3.0))
    with torch.no_grad():
        own = model.get_base_model().base_model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        target = teacher.hidden(batch)
        own = own[batch["attention_mask"].bool()]
        expected = 3.0 * (own - target).pow(2).mean() / target.pow(2).mean()
        assert float(objective.loss(model, batch)) == pytest.approx(float(expected), rel=1e-4)


def test_terms_add_up_with_their_weights():
    model, teacher, batch = student(), teacher_of(tiny_adapted("bert")[0].eval()), batch_of(*range(5))

    def loss(*weights):
        with torch.no_grad():
            return float(
                DistilledObjective(model.get_base_model(), teacher, Distillation(2.0, *weights)).loss(model, batch)
            )

    whole = 0.3 * loss(1, 0, 0) + 0.5 * loss(0, 1, 0) + 0.9 * loss(0, 0, 1)
    assert loss(0.3, 0.5, 0.9) == pytest.approx(whole, rel=1e-5)
    assert loss(1, 0, 0) == pytest.approx(float(F.cross_entropy(logits(model, batch), batch["labels"])), rel=1e-5)


def test_teacher_itself_has_nothing_to_learn_from_its_answers():
    adapted = tiny_adapted("bert")[0].eval()
    objective = DistilledObjective(adapted.get_base_model(), teacher_of(adapted), Distillation(2.0, 0.0, 1.0, 1.0))
    with torch.no_grad():
        assert float(objective.loss(adapted, batch_of(*range(12)))) < 1e-4


def test_loss_does_not_depend_on_padding():
    model, teacher = student(), teacher_of(tiny_adapted("bert")[0].eval())
    objective = DistilledObjective(model.get_base_model(), teacher, Distillation())
    items = [DATA[i] for i in range(6)]
    with torch.no_grad():
        short, padded = (float(objective.loss(model, Collator(0, length)(items))) for length in (None, 30))
    assert short == pytest.approx(padded, rel=1e-4)


# ---- gates


class Constant:
    """A loss of a fixed value."""

    def loss(self, model, batch):
        return torch.tensor(0.25)


@pytest.mark.parametrize(("warmup", "ramp", "half_way"), [(0.1, 0.3, 20), (0.4, 0.8, 60), (0.2, 0.2, None)])
def test_gates_are_held_open_then_priced_with_a_rising_weight(warmup, ramp, half_way):
    shape = tiny_adapted("bert")[1]
    gates = GateSet(shape, ("layer", "head", "ffn_block"), start=0.8)
    price = Price.on(tiny_cost_model(shape), Cost(1.0, 1.0, 1.0), shape)
    objective = GatesObjective(
        gates, Constant(), price, GateSettings(gates.granularities, 2 / 3, 0.01, 0.05, 100, warmup, ramp)
    )
    cost, penalty = float(price(gates.soft_counts()).detach()), float(gates.penalty().detach())
    for step in range(1, 101):
        value = float(torch.as_tensor(objective.loss(None, {})).detach())
        if step <= 100 * warmup:
            assert value == 0.25
            assert objective.draw() is None
        elif step > 100 * ramp + 1:
            assert value == pytest.approx(0.25 + cost + 0.01 * penalty, rel=1e-5)
        elif half_way is not None and step == half_way + 1:
            assert value == pytest.approx(0.25 + 0.5 * cost + 0.01 * penalty, rel=1e-5)
        objective.after_step(step, 100)
    assert any((v < 1).any() for v in vars(objective.draw()).values())
