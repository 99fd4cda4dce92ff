"""The training loop: what a step minimises, in which order texts come, and how it ends badly."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metas_peft.backbones.load import without_dropout
from metas_peft.core.errors import TrainingDivergedError
from metas_peft.testing.tiny import tiny_adapted
from metas_peft.testing.tuning import tiny_loop_settings, tiny_texts
from metas_peft.tuning.data import Collator
from metas_peft.tuning.loop import BucketSampler, fit
from metas_peft.tuning.objectives import TaskObjective


class Recorded(TaskObjective):
    """Cross-entropy that remembers the texts and steps it saw."""

    def __init__(self):
        self.batches, self.steps = [], []

    def loss(self, model, batch):
        self.batches.append(batch["index"].tolist())
        return super().loss(model, batch)

    def after_step(self, step, steps):
        self.steps.append((step, steps))


def train(objective, adapted=None, data=None, gates=(), gate_rate=0.0, **settings):
    adapted = adapted if adapted is not None else tiny_adapted("bert")[0]
    data = data if data is not None else tiny_texts()
    fit(adapted, data, Collator(0), objective, tiny_loop_settings(**settings), title="test", gates=gates,
        gate_rate=gate_rate, progress=False)  # fmt: skip
    return {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}


# ---- the order of texts


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (7, 8), (8, 8), (67, 8), (1000, 16), (1037, 32)])
def test_sampler_gives_every_text_once(count, batch_size):
    lengths = np.random.default_rng(0).integers(1, 60, count)
    order = list(BucketSampler(lengths, batch_size, seed=1))
    assert sorted(order) == list(range(count))
    assert len(BucketSampler(lengths, batch_size, seed=1)) == count


def test_sampler_puts_texts_of_similar_length_into_a_batch():
    lengths = np.random.default_rng(0).integers(3, 60, 2048)
    order = np.array(list(BucketSampler(lengths, 16, seed=1))).reshape(-1, 16)
    spread = (lengths[order].max(1) - lengths[order].min(1)).mean()
    shuffled = np.random.default_rng(1).permutation(2048).reshape(-1, 16)
    assert spread < 0.1 * (lengths[shuffled].max(1) - lengths[shuffled].min(1)).mean()


def test_sampler_does_not_run_from_short_to_long():
    lengths = np.random.default_rng(0).integers(3, 60, 4096)
    means = lengths[np.array(list(BucketSampler(lengths, 16, seed=1)))].reshape(-1, 16).mean(1)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2


def test_sampler_keeps_the_incomplete_batch_for_the_end():
    lengths = np.arange(1, 38)
    order = list(BucketSampler(lengths, 8, seed=3))
    whole = np.array(order[:32]).reshape(-1, 8)
    assert all(set(np.diff(np.sort(row))) <= {1, 2, 3, 4, 5, 6} for row in whole)
    assert len(order[32:]) == 5


def test_sampler_follows_its_seed_and_each_pass_has_its_own_order():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    sampler, again = BucketSampler(lengths, 8, seed=5), BucketSampler(lengths, 8, seed=5)
    first, second = list(sampler), list(sampler)
    assert first != second
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    assert [list(again), list(again)] == [first, second]
    assert list(BucketSampler(lengths, 8, seed=6)) != first


def test_training_sees_every_text_once_an_epoch():
    objective = Recorded()
    train(objective, epochs=2, batch_size=7)
    seen = [index for batch in objective.batches for index in batch]
    assert sorted(seen[:96]) == sorted(seen[96:]) == list(range(96))
    assert seen[:96] != seen[96:]


# ---- steps


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"steps": 5}, 5),
        ({"epochs": 2, "batch_size": 8}, 24),
        ({"epochs": 1, "batch_size": 8, "accumulation": 4}, 3),
        ({"steps": 30, "batch_size": 32}, 30),  # more than there are batches in an epoch
    ],
)
def test_objective_is_told_of_every_step(settings, steps):
    objective = Recorded()
    train(objective, **settings)
    assert objective.steps == [(step, steps) for step in range(1, steps + 1)]
    assert len(objective.batches) == steps * settings.get("accumulation", 1)


class Gate(TaskObjective):
    """A loss whose slope in a gate is 1, and the slopes that arrive there."""

    def __init__(self):
        self.gate = torch.nn.Parameter(torch.zeros(()))
        self.slopes, self.before_step = [], []
        self.gate.register_hook(lambda g: self.slopes.append(float(g)))

    def loss(self, model, batch):
        self.before_step.append(self.gate.grad)
        return super().loss(model, batch) + self.gate


def test_gates_forget_the_gradient_of_earlier_steps():
    objective = Gate()
    train(objective, gates=[objective.gate], gate_rate=0.01, steps=4)
    assert objective.slopes == [1.0] * 4
    assert objective.before_step == [None] * 4


def test_gates_have_their_own_rate_and_no_weight_decay():
    objective = Gate()
    train(objective, gates=[objective.gate], gate_rate=0.01, steps=3, scheduler="constant", warmup=0, weight_decay=10.0)
    # Adam's step is the rate where all gradients are equal.
    assert float(objective.gate.detach()) == pytest.approx(-0.03, rel=1e-4)


@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_rate_warms_up_under_every_scheduler(scheduler):
    adapted = tiny_adapted("bert")[0]
    before = {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}
    settings = {"learning_rate": 0.01, "scheduler": scheduler, "warmup": 4}
    after = train(TaskObjective(), adapted, steps=1, **settings)
    assert all(torch.equal(after[n], before[n]) for n in before)  # the first step of a warm-up has a rate of 0


def test_accumulated_batches_are_averaged():
    objective = Gate()
    train(objective, gates=[objective.gate], gate_rate=0.01, steps=2, accumulation=4)
    assert objective.slopes == [0.25] * 8


def gradients_of_a_step(data, **settings):
    """Sum of the gradients that arrive at each trainable parameter in one step, and the passes they came in."""
    adapted = without_dropout(tiny_adapted("bert")[0])
    found = {n: [] for n, p in adapted.named_parameters() if p.requires_grad}
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda g, name=name: found[name].append(g.clone()))
    train(TaskObjective(), adapted, data, steps=1, **settings)
    return {name: sum(parts) for name, parts in found.items()}, {len(parts) for parts in found.values()}


def test_accumulation_trains_as_one_large_batch_does():
    data = tiny_texts(64)
    data = type(data)([ids[:3] for ids in data.ids], data.labels)  # equal lengths: batches differ in size only
    whole, one = gradients_of_a_step(data, batch_size=64)
    parts, four = gradients_of_a_step(data, batch_size=16, accumulation=4)
    assert (one, four) == ({1}, {4})
    assert len(whole) > 10
    for name in whole:
        assert torch.allclose(parts[name], whole[name], atol=1e-6), name


def test_same_seed_trains_to_the_same_bits_and_another_does_not():
    first = train(TaskObjective(), seed=4)
    torch.manual_seed(99)
    again, other = train(TaskObjective(), seed=4), train(TaskObjective(), seed=5)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_training_leaves_the_global_generators_alone():
    def drawn():
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - just these

    def seed():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    expected = drawn()
    seed()
    train(TaskObjective(), steps=1)
    assert drawn() == expected


def test_training_lowers_the_loss():
    adapted, data = tiny_adapted("bert")[0], tiny_texts(96)

    def loss():
        batch = Collator(0)([data[i] for i in range(96)])
        with torch.no_grad():
            logits = adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return float(F.cross_entropy(logits, batch["labels"]))

    before = loss()
    train(TaskObjective(), adapted, data, epochs=5, learning_rate=5e-3)
    assert loss() < 0.8 * before


def test_linear_schedule_falls_to_zero():
    objective = Gate()
    steps, rate = 40, 0.01
    train(objective, gates=[objective.gate], gate_rate=rate, steps=steps, warmup=0)
    expected = -rate * sum(1 - s / steps for s in range(steps))
    assert float(objective.gate.detach()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (4, 4), (4, 9), (2, 0.99)])
def test_stage_that_is_all_warm_up_is_trained(steps, warmup):
    objective = Recorded()
    train(objective, steps=steps, warmup=warmup)
    assert len(objective.steps) == steps


# ---- endings


class Broken(TaskObjective):
    """A loss that is not a number from some step on."""

    def __init__(self, value, at):
        self.value, self.at, self.calls = value, at, 0

    def loss(self, model, batch):
        self.calls += 1
        loss = super().loss(model, batch)
        return loss * self.value if self.calls == self.at else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 3])
def test_loss_that_is_no_number_ends_training_by_name(value, at):
    with pytest.raises(TrainingDivergedError, match=rf"became -?{value} at step {at} .*0\.002.*Lower") as error:
        train(Broken(value, at), steps=5)
    assert "\n" not in str(error.value)


class BrokenGradient(TaskObjective):
    """A finite loss with a gradient that is not, in the last step."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def loss(self, model, batch):
        self.calls += 1
        loss = super().loss(model, batch)
        return loss + (0 * loss).sqrt() if self.calls == self.at else loss


def test_weights_that_the_last_step_broke_end_training():
    with pytest.raises(TrainingDivergedError, match="Weights became NaN or infinite in the last step"):
        train(BrokenGradient(at=5), steps=5)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_loop_settings().seed = 3
