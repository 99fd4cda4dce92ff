"""Gates in a Trainer of one's own: trained, reported, saved, resumed."""

import itertools
import logging

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from metas_peft.backbones import compact
from metas_peft.core.cost import Cost
from metas_peft.core.errors import BudgetInfeasibleError, CheckpointError, UnsupportedBackboneError, UsageError
from metas_peft.core.subnet import Subnet
from metas_peft.costs import MINILM
from metas_peft.gates import GateSet, attach, closing, expected_subnet, hard_concrete
from metas_peft.testing.tiny import tiny_adapted, tiny_model
from metas_peft.testing.tuning import tiny_cost_model
from metas_peft.tuning.budgets import BudgetPrice, Limits, budgeted_subnet
from metas_peft.tuning.gating import GateCallback, GateOptimizer, moved, unmoved
from metas_peft.tuning.pricing import Price

GATED = ("layer", "head", "ffn_block", "rank")


class Texts(torch.utils.data.Dataset):
    """Random texts of equal length; the label is the parity of a token."""

    def __init__(self, count=48):
        self.ids = torch.randint(2, 97, (count, 7), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "attention_mask": torch.ones(7, dtype=torch.long),
                "labels": self.ids[index, 0] % 2}  # fmt: skip


class Run:
    """One training in a plain Trainer, as a researcher would set it up."""

    def __init__(self, folder, *, steps=8, granularities=GATED, attached=True, callback=None, **arguments):
        transformers.set_seed(1)
        config = LoraConfig(r=3, lora_alpha=6, lora_dropout=0.1, target_modules=["query", "value"], task_type="SEQ_CLS")
        self.model = get_peft_model(tiny_model("bert", hidden_dropout_prob=0.1), config)
        self.gates = GateSet.of(self.model, granularities, seed=5)
        usual = {
            "max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 2, "seed": 3,
            "save_steps": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
        }  # fmt: skip
        args = transformers.TrainingArguments(output_dir=str(folder), **{**usual, **arguments})
        self.trainer = transformers.Trainer(self.model, args, train_dataset=Texts(), eval_dataset=Texts(8))
        self.price = Price.on(tiny_cost_model(self.gates.shape), Cost.uniform(1.0), self.gates.shape)
        settings = {"learning_rate": 0.2, "price": self.price, "sparsity": 1e-3, **(callback or {})}
        self.trainer.add_callback(GateCallback(self.gates, self.trainer, **settings))
        self.attached = attached

    def train(self, resume=None):
        if self.attached:
            with attach(self.gates, self.model):
                self.trainer.train(resume_from_checkpoint=resume)
        else:
            self.trainer.train(resume_from_checkpoint=resume)
        return self

    def state(self):
        trained = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        return trained | {f"gate {n}": a.detach().clone() for n, a in self.gates.log_alpha.items()}

    def told(self):
        return [row for row in self.trainer.state.log_history if "gates/moved" in row]


def tight(run, latency=0.5, **others):
    """Budgets of fractions of the whole model's predicted costs, which a few steps leave exceeded."""
    fractions = {"latency_ms": latency, **others}
    return BudgetPrice(Limits.of({}, fractions, run.price.cost_model, run.gates.shape), rate=1.0)


def budgeted(folder, **arguments):
    """A training for budgets."""
    run = Run(folder, **arguments)
    price = tight(run)
    run.trainer.remove_callback(GateCallback)
    run.trainer.add_callback(GateCallback(run.gates, run.trainer, learning_rate=0.2, price=price, sparsity=1e-3))
    run.price = price
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, Run(folder).train()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_gates_and_adapters_are_both_trained(whole):
    _, run = whole
    start = Run(whole[0]).state()
    for name, value in run.state().items():
        assert not torch.equal(value, start[name]), name
    assert hooks(run.model) == 0
    subnet = expected_subnet(run.gates)
    assert any(plan.is_kept for plan in subnet.layers)


def test_each_log_of_a_loss_is_followed_by_one_of_the_gates(whole):
    _, run = whole
    history = run.trainer.state.log_history
    assert [row["step"] for row in run.told()] == [row["step"] for row in history if "loss" in row] == [2, 4, 6, 8]
    with torch.no_grad():
        last, counts = run.told()[-1], run.gates.soft_counts()
    assert last["gates/kept_heads"] == pytest.approx(float(counts.heads.sum()), rel=1e-6)
    assert last["gates/kept_ranks"] == pytest.approx(float(counts.ranks.sum()), rel=1e-6)
    assert last["gates/kept_layers"] == pytest.approx(float(counts.attention.sum()), rel=1e-6)  # whole layers alone
    cost = run.price.cost_model(counts)
    for metric, value in cost.items():
        assert last[f"gates/{metric}"] == pytest.approx(float(value), rel=1e-6)
    assert last["gates/price"] == pytest.approx(float(run.price(counts)), rel=1e-6)
    assert last["gates/moved"] > 0.05


def test_integrations_see_counts_costs_and_budgets(tmp_path):
    seen = []

    class Integration(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    run = Run(tmp_path, steps=4, callback={"budgets": {"latency_ms": 0.25}})
    run.trainer.callback_handler.callbacks.insert(0, Integration())  # they stand before callbacks that are added
    run.train()
    rows = [row for row in seen if "gates/kept_heads" in row]
    assert len(rows) == 2
    assert all(row["gates/budget_latency_ms"] == 0.25 and row["gates/latency_ms"] > 0 for row in rows)


def test_gates_stay_open_during_the_warm_up(tmp_path):
    run = Run(tmp_path, steps=10, callback={"warmup": 0.5, "ramp": 0.8}, logging_steps=1).train()
    told = run.told()
    assert [row["gates/moved"] for row in told[:5]] == [0.0] * 5
    assert all(row["gates/moved"] > 0 for row in told[5:])
    assert [row["gates/price_weight"] for row in told] == pytest.approx([0] * 5 + [1 / 3, 2 / 3, 1, 1, 1], abs=1e-6)
    assert not run.gates.are_held_open


def test_price_closes_gates(tmp_path):
    at_once = {"sparsity": 0.0, "warmup": 0.0, "ramp": 0.0}
    free = Run(tmp_path / "free", steps=12, callback={"price": None, **at_once}).train()
    dear = Run(tmp_path / "dear", steps=12, callback=at_once).train()
    for name in ("head", "ffn_block"):
        kept = [float(hard_concrete.probability_open(r.gates.log_alpha[name], 2 / 3).mean()) for r in (free, dear)]
        assert kept[1] < kept[0] - 0.02, name


def test_budgets_drive_the_gates_to_hold_them_and_no_further(tmp_path):
    def trained(part):
        run = Run(
            tmp_path / str(part), steps=120, granularities=("head", "ffn_block"), logging_steps=120, save_steps=99
        )
        limits = Limits.of({}, {"latency_ms": part}, run.price.cost_model, run.gates.shape)
        price = BudgetPrice(limits)
        run.trainer.remove_callback(GateCallback)
        run.trainer.add_callback(GateCallback(run.gates, run.trainer, learning_rate=0.1, price=price, warmup=0, ramp=0))
        run.train()
        with torch.no_grad():
            soft = float(run.price.cost_model(run.gates.soft_counts()).latency_ms) / limits.values["latency_ms"]
        assert run.told()[-1]["gates/budget_latency_ms"] == limits.values["latency_ms"]
        return run, limits, soft

    run, limits, soft = trained(0.5)
    assert 0.8 < soft < 1.1
    subnet = budgeted_subnet(run.gates, limits)
    assert limits.hold([subnet])[0]
    *larger, found = itertools.takewhile(
        lambda s: s.key != subnet.key, closing(run.gates.expectations(), run.gates.shape, run.gates.granularities)
    )
    assert not limits.hold([*larger, found]).any()
    _, _, held = trained(0.95)  # the budget is held from the start, so that nothing presses
    assert held < 1.0


def test_budgets_that_the_gates_cannot_reach_are_refused_before_training(tmp_path):
    run = Run(tmp_path, granularities=("head",))
    limits = Limits.of({}, {"latency_ms": 0.2}, run.price.cost_model, run.gates.shape)
    limits.check()
    with pytest.raises(BudgetInfeasibleError, match="by gates on head is predicted to hold latency_ms"):
        GateCallback(run.gates, run.trainer, learning_rate=0.1, price=BudgetPrice(limits))
    with pytest.raises(BudgetInfeasibleError, match="by gates on head is predicted to hold latency_ms"):
        budgeted_subnet(run.gates, limits)


def test_gates_of_one_value_are_cut_to_a_budget_too(tmp_path):
    run = Run(tmp_path)
    limits = Limits.of({}, {"latency_ms": 0.5}, run.price.cost_model, run.gates.shape)
    subnet = budgeted_subnet(run.gates, limits)
    assert limits.hold([subnet])[0]
    assert float(limits.predicted([subnet]).latency_ms[0]) > 0.8 * limits.values["latency_ms"]


def test_multipliers_rise_while_a_budget_is_exceeded_and_fall_at_once():
    gates, cost_model = GateSet(MINILM, ("layer",)), tiny_cost_model(MINILM)
    with torch.no_grad():
        cost = cost_model(gates.soft_counts()).map(float)
    limits = Limits({"latency_ms": cost.latency_ms / 2, "energy_j": 2 * cost.energy_j}, cost_model, MINILM)
    price = BudgetPrice(limits, rate=0.5)
    assert float(price(gates.soft_counts())) == 0.0
    for _ in range(3):
        price.after_step(gates.soft_counts())
    assert price.multipliers == pytest.approx(
        {"latency_ms": 1.5, "energy_j": 0.0}
    )  # three times half of an excess of 1
    assert float(price(gates.soft_counts())) == pytest.approx(1.5)
    again = BudgetPrice(limits)
    again.load(price.state())
    assert again.multipliers == price.multipliers
    with torch.no_grad():
        gates.log_alpha["layer"].fill_(-20.0)
    price.after_step(gates.soft_counts())
    assert price.multipliers == {"latency_ms": 0.0, "energy_j": 0.0}


@pytest.mark.parametrize(("made", "counts"), [(Run, 1), (budgeted, 2)])
def test_gates_are_counted_once_a_step_and_again_without_gradients_for_budgets(tmp_path, monkeypatch, made, counts):
    seen, count = [], GateSet.soft_counts

    def noted(gates):
        found = count(gates)
        seen.append(found.heads.requires_grad)
        return found

    run = made(tmp_path, steps=4, logging_strategy="no")
    monkeypatch.setattr(GateSet, "soft_counts", noted)
    run.train()
    assert seen == [True, False][:counts] * 3  # the gates are open in the first of the four steps


def test_gate_rate_follows_the_trainers_schedule(tmp_path):
    """Adam's step is the rate where all gradients are equal: that of the sparsity alone, far from saturation."""
    run = Run(
        tmp_path, steps=5, granularities=("rank",), learning_rate=0.0 + 1e-12, lr_scheduler_type="linear",
        callback={"price": None, "sparsity": 1e6, "warmup": 0.0, "learning_rate": 1e-3},
    )  # fmt: skip
    start = run.gates.log_alpha["rank"].detach().clone()
    run.train()
    moved = start - run.gates.log_alpha["rank"].detach()
    assert torch.allclose(moved, torch.full_like(moved, 1e-3 * (5 + 4 + 3 + 2 + 1) / 5), rtol=1e-3)


@pytest.mark.parametrize(
    ("made", "arguments"), [(Run, {}), (Run, {"gradient_accumulation_steps": 2, "bf16": True}), (budgeted, {})],
    ids=["weights", "accumulated in bf16", "budgets"],
)  # fmt: skip
def test_resumed_training_equals_uninterrupted_training(tmp_path, made, arguments):
    whole = made(tmp_path / "whole", **arguments).train()
    made(tmp_path / "parts", **arguments).train()  # leaves checkpoint-4
    resumed = made(tmp_path / "parts", **arguments).train(resume=str(tmp_path / "parts" / "checkpoint-4"))
    assert resumed.trainer.state.global_step == 8
    expected = whole.state()
    assert len(expected) > 10
    for name, value in resumed.state().items():
        assert torch.equal(value, expected[name]), name
    assert resumed.told()[-1]["gates/moved"] == whole.told()[-1]["gates/moved"]
    if made is budgeted:
        assert resumed.price.multipliers == whole.price.multipliers
        assert whole.price.multipliers["latency_ms"] > 0


def test_checkpoint_of_other_budgets_or_of_none_is_refused(whole, tmp_path):
    run = Run(tmp_path)
    price, other, more = tight(run), tight(run, 0.6), tight(run, energy_j=0.9)
    of_other = f"latency_ms={other.budgets['latency_ms']:.6g}, where the budgets latency_ms"
    for theirs, told in ((other, of_other), (more, "energy_j="), (run.price, "weights instead of budgets, where")):
        with pytest.raises(CheckpointError, match=f"{told}.* were expected. Resume with the price"):
            price.load(theirs.state())
    with pytest.raises(CheckpointError, match="trained with budgets, where weights were expected"):
        run.price.load(price.state())
    with pytest.raises(CheckpointError, match="weights instead of budgets"):
        budgeted(whole[0]).train(resume=str(whole[0] / "checkpoint-4"))


def test_checkpoints_hold_the_gates(whole):
    folder, _ = whole
    assert sorted(p.parent.name for p in folder.glob("*/gates.safetensors")) == ["checkpoint-4", "checkpoint-8"]


def test_checkpoint_without_gates_or_of_other_gates_is_refused(whole, tmp_path):
    source = whole[0] / "checkpoint-4"
    with pytest.raises(CheckpointError, match="another granularity"):
        Run(whole[0], granularities=("head",)).train(resume=str(source))
    with pytest.raises(CheckpointError, match=r"checkpoint-4.gates\.safetensors is absent .* Name the checkpoint"):
        Run(tmp_path).train(resume=str(source))  # a folder that is not the output's
    moved = Run(tmp_path, callback={"checkpoint": source}).train(resume=str(source))
    assert moved.trainer.state.global_step == 8


def test_checkpoint_of_another_run_is_refused(whole, tmp_path):
    Run(tmp_path, learning_rate=5e-3).train()
    with pytest.raises(CheckpointError, match="a checkpoint of another run than the one that training resumes from"):
        Run(tmp_path, learning_rate=5e-3).train(resume=str(whole[0] / "checkpoint-4"))


def test_gates_of_the_best_checkpoint_come_back_with_its_weights(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "eval_strategy": "steps",
            "eval_steps": 4, "save_total_limit": None}  # fmt: skip
    run = Run(tmp_path, **best)
    losses = itertools.chain([0.1], itertools.repeat(0.9))
    run.trainer.evaluate = lambda *_, **__: {"eval_loss": next(losses)}
    run.train()
    assert run.trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    saved = load_file(tmp_path / "checkpoint-4" / "gates.safetensors")
    last = load_file(tmp_path / "checkpoint-8" / "gates.safetensors")
    for name, log_alpha in run.gates.log_alpha.items():
        assert torch.equal(log_alpha.detach(), saved[f"log_alpha.{name}"])
        assert not torch.equal(log_alpha.detach(), last[f"log_alpha.{name}"])


@pytest.mark.parametrize(("best", "warned"), [(2, True), (8, False)])
def test_best_checkpoint_from_before_the_gates_moved_is_told_of(tmp_path, caplog, best, warned):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "eval_strategy": "steps",
                "eval_steps": 2, "save_steps": 2}  # fmt: skip
    run = Run(tmp_path, callback={"warmup": 0.25}, **settings)
    run.trainer.evaluate = lambda *_, **__: {"eval_loss": abs(run.trainer.state.global_step - best)}
    with caplog.at_level(logging.WARNING, logger="metas_peft"):
        run.train()
    told = [r.message for r in caplog.records if "gates" in r.message.lower()]
    assert [f"checkpoint-{best}) is from before the gates had learnt" in message for message in told] == [True] * warned


def test_gates_that_do_not_move_are_told_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="metas_peft"):
        Run(tmp_path, callback={"learning_rate": 1e-9}).train()
    told = [r.message for r in caplog.records if "Gates do not move" in r.message]
    assert len(told) == 1
    assert "Raise their learning rate (1e-09)" in told[0]


def test_starved_granularity_is_named_though_another_moves():
    _, shape = tiny_adapted("bert")
    gates = GateSet(shape, ("layer", "head", "rank"))
    start = gates.expectations()
    with torch.no_grad():
        gates.log_alpha["layer"][0] -= 3.0
        gates.log_alpha["rank"][0, 0, 0] += 1.0
    assert moved(gates, start)["layer"] > 0.1
    assert unmoved(gates, start) == "no expected gate of a head has changed by more than 0.0e+00"


def test_gate_rate_is_a_share_of_the_peak_of_the_optimiser_in_use():
    """An optimiser of one's own has its own peak; the arguments' default rate says nothing."""
    gate = torch.nn.Parameter(torch.zeros(3))
    own = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    torch.optim.lr_scheduler.LambdaLR(own, lambda _: 0.5)  # notes the peak in the optimiser, as the Trainer's do
    stepped = GateOptimizer({"gate": gate}, rate=0.1)
    gate.grad = torch.ones(3)
    stepped.step(transformers.TrainingArguments(use_cpu=True, learning_rate=5e-5), own)
    assert torch.allclose(gate.detach(), torch.full((3,), -0.05), rtol=1e-3)


def test_gates_that_move_are_not_warned_about(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="metas_peft"):
        Run(tmp_path).train()
    assert not [r for r in caplog.records if "gates" in r.message]


def test_gates_that_are_not_attached_end_training(tmp_path):
    with pytest.raises(UsageError, match=r"No gradient reached the gates in step 2\. Attach them"):
        Run(tmp_path, attached=False).train()


def test_gradients_that_would_be_wrong_are_refused(tmp_path):
    how = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(UsageError, match="Re-entrant checkpointing"):
        Run(tmp_path, **how).train()


@pytest.mark.parametrize("how", [{"use_reentrant": True}, {"preserve_rng_state": False}])
def test_reentrant_checkpointing_of_the_model_itself_is_refused(tmp_path, how):
    run = Run(tmp_path)
    run.model.activation_checkpointing_enable(how)
    with pytest.raises(UsageError, match="Re-entrant checkpointing"):
        run.train()


@pytest.fixture
def inputs():
    return torch.utils.data.default_collate([{k: v for k, v in Texts()[i].items() if k != "labels"} for i in range(4)])


def cut_logits(run, subnet, inputs):
    """What the model says once a subnet is cut out of it; the subnet is not the whole model."""
    assert subnet != Subnet.dense(run.gates.shape)
    with torch.no_grad():
        return compact(run.model.eval().get_base_model(), run.gates.shape, subnet)(**inputs).logits


def test_evaluation_runs_the_subnet_that_would_be_cut(tmp_path, inputs):
    run = Run(tmp_path, steps=6, callback={"sparsity": 0.5, "warmup": 0.0}).train()
    expected = cut_logits(run, expected_subnet(run.gates), inputs)
    with torch.no_grad(), attach(run.gates, run.model):
        state = run.gates.generator.get_state()
        first, second = run.model(**inputs).logits, run.model(**inputs).logits
        assert torch.equal(first, second)
        assert torch.equal(run.gates.generator.get_state(), state)
    assert torch.allclose(first, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert not torch.allclose(run.model(**inputs).logits, expected, atol=1e-3)


def test_evaluation_in_the_warm_up_runs_the_subnet_that_would_be_cut(tmp_path, inputs):
    """Otherwise the whole model's score would choose the best checkpoint, whose gates have learnt nothing."""
    seen = []

    class Look(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            with torch.no_grad():
                found = run.model.eval()(**inputs).logits
            weights = {n: t.clone() for n, t in run.model.state_dict().items()}
            seen.append((run.gates.are_held_open, found, expected_subnet(run.gates), weights))

    run = Run(tmp_path, steps=6, callback={"warmup": 0.5, "ramp": 0.5}, eval_strategy="steps", eval_steps=2)
    run.trainer.add_callback(Look())
    run.train()
    assert [held for held, *_ in seen] == [True, False, False]
    for _, found, subnet, weights in seen:
        run.model.load_state_dict(weights)
        assert torch.allclose(found, cut_logits(run, subnet, inputs), atol=1e-5, rtol=0)


def test_evaluation_runs_what_another_decision_would_cut(tmp_path, inputs):
    run = Run(tmp_path, granularities=("head", "ffn_block"))
    limits = Limits.of({}, {"latency_ms": 0.4}, run.price.cost_model, run.gates.shape)

    def decide(gates):
        return budgeted_subnet(gates, limits)

    with torch.no_grad(), attach(run.gates, run.model, decide=decide):
        found = run.model.eval()(**inputs).logits
    assert torch.allclose(found, cut_logits(run, decide(run.gates), inputs), atol=1e-5, rtol=0)
    assert not torch.allclose(found, cut_logits(run, expected_subnet(run.gates), inputs), atol=1e-3)


def test_training_that_fails_in_its_warm_up_leaves_no_gate_held_open(tmp_path):
    class Fails(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise ZeroDivisionError

    run = Run(tmp_path, callback={"warmup": 0.5, "ramp": 0.5})
    run.trainer.add_callback(Fails())
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert not run.gates.are_held_open


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    run = Run(tmp_path)
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    with pytest.raises(UsageError, match=r"One process would train on 2 GPUs \(DataParallel\)"):
        run.trainer.callback_handler.on_train_begin(run.trainer.args, run.trainer.state, run.trainer.control)


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 0.0}, {"sparsity": -1.0}, {"warmup": 0.5, "ramp": 0.2}, {"ramp": 1.5}]
)
def test_rates_and_ramps_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(UsageError, match="expected a positive rate"):
        Run(tmp_path, callback=settings)


def test_callback_without_gates_is_refused(tmp_path):
    with pytest.raises(UsageError, match="There are no gates to train"):
        Run(tmp_path, granularities=())


def test_unknown_budget_is_named(tmp_path):
    with pytest.raises(UsageError, match="Unknown budget 'latency'"):
        Run(tmp_path, callback={"budgets": {"latency": 3.0}})


def test_adapters_that_differ_between_layers_are_refused():
    config = LoraConfig(r=3, target_modules=["query"], layers_to_transform=[0, 2], task_type="SEQ_CLS")
    with pytest.raises(UnsupportedBackboneError, match=r"Layer 1 has adapters of other ranks \(\{\}\) than layer 0"):
        GateSet.of(get_peft_model(tiny_model("bert"), config), ("head",))


def test_adapters_that_are_no_plain_lora_are_refused():
    config = LoraConfig(r=3, target_modules=["query"], use_dora=True, task_type="SEQ_CLS")
    with pytest.raises(UnsupportedBackboneError, match="a variant of LoRA"):
        GateSet.of(get_peft_model(tiny_model("bert"), config), ("rank",))
