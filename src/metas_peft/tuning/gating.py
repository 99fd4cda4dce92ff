"""Gates in any `transformers.Trainer`: a callback that trains, reports, saves and restores them."""

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import transformers
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from metas_peft.core.cost import METRICS
from metas_peft.core.errors import CheckpointError, UsageError
from metas_peft.gates import GRANULARITIES, GateSet, GateValues, load_gates, network_of, save_gates
from metas_peft.tuning.pricing import GatePrice

logger = logging.getLogger(__name__)

STILL = 0.01  # expected gates that moved less than this have not moved
_START, _PRICE, _MOMENTS = "start.", "price.", ("step", "exp_avg", "exp_avg_sq")


class GateOptimizer:
    """AdamW for parameters outside the model, in step with a Trainer's optimiser.

    In distributed training every process has the parameters whole; their gradients are averaged before each step, so
    that they stay the same everywhere.

    Args:
        parameters: Parameters by name.
        rate: Peak learning rate; there is no weight decay.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], rate: float) -> None:
        self._parameters = dict(parameters)
        self.rate = rate
        self._adam = torch.optim.AdamW(list(self._parameters.values()), lr=rate, weight_decay=0.0)

    def step(self, args: transformers.TrainingArguments, optimizer: Any) -> None:
        """One step at the rate's share that the Trainer's schedule has reached, and fresh gradients.

        Args:
            args: The Trainer's arguments.
            optimizer: The Trainer's optimiser.
        """
        average_gradients(list(self._parameters.values()), args.device)
        group = optimizer.param_groups[0]
        peak = group.get("initial_lr", args.learning_rate)  # the user's own optimiser may not have the arguments' rate
        self._adam.param_groups[0]["lr"] = self.rate * (group["lr"] / peak if peak else 1.0)
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, torch.Tensor]:
        """Moments by name, for a file; none before the first step."""
        return {
            f"{moment}.{name}": self._adam.state[p][moment].clone()
            for name, p in self._parameters.items() if p in self._adam.state for moment in _MOMENTS
        }  # fmt: skip

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `state`; other entries are left alone."""
        for name, parameter in self._parameters.items():
            if f"step.{name}" in state:
                self._adam.state[parameter] = {moment: state[f"{moment}.{name}"].clone() for moment in _MOMENTS}


class GateCallback(transformers.TrainerCallback):
    """Trains gates beside whatever a Trainer trains.

    Add it to the Trainer and train with the gates attached:

        gates = GateSet.of(model, ["layer", "head", "rank"])
        trainer = transformers.Trainer(model=model, ...)
        trainer.add_callback(GateCallback(gates, trainer, learning_rate=0.1, price=price))
        with attach(gates, model):
            trainer.train()
        subnet = expected_subnet(gates)

    The Trainer's loss stays as it is. Its gradient reaches the gates through the attached model, and before each step
    this callback adds the gradient of `ramp * price + sparsity * sum P(z > 0)`, which depends on the gates alone. Each
    log of a loss is followed by one of the gates. Each checkpoint gets a `gates.safetensors`, from which
    `resume_from_checkpoint` goes on exactly.

    Args:
        gates: The gates; `attach` them to the model for the time of training.
        trainer: The Trainer, for its log.
        learning_rate: Peak rate of the log-odds; follows the Trainer's schedule.
        price: What the gates cost: `Price` with weights, or `BudgetPrice` with budgets to hold; None for a loss that
            prices the gates itself.
        sparsity: Weight of the sum of P(z > 0).
        budgets: Metric (`energy_j`, `latency_ms`, `peak_power_w`) -> limit, reported beside the predicted cost; those
            of the price by default.
        warmup: Fraction of the steps in which the gates stay open.
        ramp: Fraction of the steps after which the price has its full weight.
        checkpoint: Folder that training resumes from, where it is not `output_dir/checkpoint-STEP`.

    Raises:
        UsageError: An unknown budget, no gates, or a rate, warm-up or ramp out of range.
        BudgetInfeasibleError: Budgets of the price that nothing these gates can leave is predicted to hold.
    """

    def __init__(
        self,
        gates: GateSet,
        trainer: transformers.Trainer,
        *,
        learning_rate: float,
        price: GatePrice | None = None,
        sparsity: float = 0.0,
        budgets: Mapping[str, float] | None = None,
        warmup: float = 0.1,
        ramp: float = 0.3,
        checkpoint: str | Path | None = None,
    ) -> None:
        if not gates.granularities:
            raise UsageError(f"There are no gates to train. Name granularities: {', '.join(GRANULARITIES)}.")
        if not (learning_rate > 0 and sparsity >= 0 and 0 <= warmup <= ramp <= 1):
            raise UsageError(
                f"Seen learning_rate={learning_rate:g}, sparsity={sparsity:g}, warmup={warmup:g}, ramp={ramp:g}; "
                "expected a positive rate, no negative sparsity, and 0 <= warmup <= ramp <= 1 (fractions of the steps)."
            )
        self._gates, self._trainer, self._price = gates, trainer, price
        self._sparsity, self._warmup, self._full = sparsity, warmup, ramp
        priced: Mapping[str, float] = {} if price is None else price.budgets
        self._budgets = dict(priced if budgets is None else budgets)
        self._checkpoint = checkpoint
        self._optimizer = GateOptimizer(dict(gates.log_alpha.items()), learning_rate)
        self._start = gates.expectations()
        self._ramp, self._is_logging, self._has_warned = 0.0, False, False
        for metric in self._budgets:
            if metric not in METRICS:
                raise UsageError(f"Unknown budget {metric!r}; known are {', '.join(METRICS)}.")
        if price is not None:
            price.check(gates.granularities)

    # ---- training

    def on_train_begin(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Take up the gates of the checkpoint, if training resumes, and bring all processes to the same gates."""
        _check(args, kwargs.get("model"))
        self._check_mean(args)
        if state.global_step:
            self._resume(args, state)
        _share(self._gates, args.device)
        self._set_ramp(state)

    def on_pre_optimizer_step(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Add the gradient of what the expected gates cost.

        Raises:
            UsageError: The task's loss has no gradient for any gate.
        """
        if self._gates.are_held_open:
            return
        if all(a.grad is None for a in self._gates.log_alpha.values()):
            raise UsageError(
                f"No gradient reached the gates in step {state.global_step + 1}. Attach them to the model that is "
                "trained: `with attach(gates, model): trainer.train()`."
            )
        cost = self._sparsity * self._gates.penalty()
        if self._price is not None:
            cost = cost + self._ramp * self._price(self._gates.soft_counts())
        cost.backward()

    def on_optimizer_step(
        self, args: transformers.TrainingArguments, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Step the gates; budgets look at what they then keep."""
        self._optimizer.step(args, optimizer)
        if self._price is not None and self._price.budgets and not self._gates.are_held_open:
            with torch.no_grad():
                self._price.after_step(self._gates.soft_counts())

    def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        """End the warm-up, raise the price's weight."""
        self._set_ramp(state)
        if state.global_step == max(1, state.max_steps // 2) and not self._gates.are_held_open:
            self._warn_if_still()

    def on_train_end(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Let the gates go; where the Trainer has put back the best checkpoint's weights, its gates belong to them.

        What is told of the gates is told of those that stay.
        """
        self._gates.are_held_open = False
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_gates(self._gates, Path(state.best_model_checkpoint))
            if max(moved(self._gates, self._start).values()) < STILL:
                logger.warning(
                    "The best checkpoint (%s) is from before the gates had learnt anything, so that what they keep is "
                    "arbitrary. Evaluate from a later step on (eval_delay).", state.best_model_checkpoint,
                )  # fmt: skip
                return
        self._warn_if_still()

    def _set_ramp(self, state: transformers.TrainerState) -> None:
        done = state.global_step / max(1, state.max_steps)
        self._gates.are_held_open = done < self._warmup
        self._ramp = ramp(done, self._warmup, self._full)

    # ---- what is told

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """What the expected gates keep, predicted costs of that, budgets, and how far the gates have moved."""
        counts, shape, e = self._gates.soft_counts(), self._gates.shape, self._gates.expectations()
        found = {
            "kept_layers": e.layer * (e.attention + e.ffn - e.attention * e.ffn),
            "kept_heads": counts.heads,
            "kept_ffn_blocks": counts.neurons / shape.block_size,
            "kept_ranks": counts.ranks,
        }
        told = {name: float(values.sum()) for name, values in found.items()}
        told["open"] = float(self._gates.penalty()) / self._gates.count
        told["moved"] = max(moved(self._gates, self._start).values())
        if self._price is not None:
            told |= {metric: float(cost) for metric, cost in self._price.cost_model(counts).items()}
            told["price"], told["price_weight"] = float(self._price(counts)), self._ramp
        told |= {f"budget_{metric}": limit for metric, limit in self._budgets.items()}
        return {f"gates/{name}": value for name, value in told.items()}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Follow each log of a loss by one of the gates, through the Trainer, so that every integration sees it."""
        if self._is_logging or "loss" not in (logs or {}):
            return
        self._is_logging = True
        try:
            self._trainer.log(self.report())
        finally:
            self._is_logging = False

    def _warn_if_still(self) -> None:
        still = unmoved(self._gates, self._start)
        if still and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Gates do not move: %s since the start. Raise their learning rate (%g), train longer, lower the "
                "temperature (%g), or do not gate what holds them (a layer's gate starves those of its heads).",
                still, self._optimizer.rate, self._gates.temperature,
            )  # fmt: skip

    def _check_mean(self, args: transformers.TrainingArguments) -> None:
        """A loss that the Trainer adds up where it should average outweighs the price."""
        parts = args.gradient_accumulation_steps * args.world_size
        classifies = any(
            c.__name__.endswith("ForSequenceClassification") for c in type(network_of(self._trainer.model)).__mro__
        )
        averages = args.world_size == 1 and getattr(self._trainer, "loss_is_scaled_for_ga", None) is False
        if parts > 1 and classifies and self._trainer.model_accepts_loss_kwargs and not averages:
            logger.warning(
                "A classifier's loss is a mean, but this Trainer adds up those of %d batches as if they were sums: the "
                "price weighs that much less. Set trainer.model_accepts_loss_kwargs = False.", parts,
            )  # fmt: skip

    # ---- checkpoints

    def on_save(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Put the gates beside the checkpoint that was just written."""
        if args.should_save:  # of every node, where nodes share no disk
            start = {f"{_START}{name}": getattr(self._start, name) for name in self._gates.granularities}
            learnt = {} if self._price is None else self._price.state()
            more = {**self._optimizer.state(), **start, **{f"{_PRICE}{name}": t for name, t in learnt.items()}}
            save_gates(self._gates, _folder(args, state), step=state.global_step, more=more)

    def _resume(self, args: transformers.TrainingArguments, state: transformers.TrainerState) -> None:
        folder = Path(self._checkpoint or args.resume_from_checkpoint or _folder(args, state))
        _check_same_run(folder, state)
        more = load_gates(self._gates, folder, step=state.global_step)
        if self._price is not None:
            self._price.load({n.removeprefix(_PRICE): t for n, t in more.items() if n.startswith(_PRICE)})
        self._optimizer.load(more)
        self._start = replace(self._start, **{name: more[f"{_START}{name}"] for name in self._gates.granularities})


def ramp(done: float, warmup: float, full: float) -> float:
    """Weight of the price: 0 up to the end of the warm-up, then rising to 1. All are fractions of the steps."""
    return min(1.0, max(0.0, (done - warmup) / (full - warmup))) if full > warmup else float(done >= warmup)


def moved(gates: GateSet, start: GateValues) -> dict[str, float]:
    """Largest change of an expected gate since the start, per granularity."""
    now = gates.expectations()
    return {name: float((getattr(now, name) - getattr(start, name)).abs().max()) for name in gates.granularities}


def unmoved(gates: GateSet, start: GateValues) -> str:
    """Which granularities have not moved, in words; empty if all have."""
    still = {name: gap for name, gap in moved(gates, start).items() if gap < STILL}
    return ", ".join(f"no expected gate of a {name} has changed by more than {gap:.1e}" for name, gap in still.items())


def _check_same_run(folder: Path, state: transformers.TrainerState) -> None:
    """Gates of another run may have the right shape and step; its log tells them apart."""
    noted = folder / TRAINER_STATE_NAME
    if not noted.exists():
        return
    theirs = transformers.TrainerState.load_from_json(str(noted)).log_history
    if json.dumps(theirs) != json.dumps(state.log_history):  # as text, in which a loss that is no number equals itself
        raise CheckpointError(
            f"{folder} is a checkpoint of another run than the one that training resumes from. Name that checkpoint in "
            "GateCallback(checkpoint=...) too."
        )


def average_gradients(parameters: list[torch.nn.Parameter], device: torch.device) -> None:
    """Average gradients over all processes, if there are several; gates get the same on each."""
    if _world() == 1 or all(p.grad is None for p in parameters):
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]).to(device)
    torch.distributed.all_reduce(flat)
    pieces = (flat / _world()).cpu().split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter).to(parameter.device)


@torch.no_grad()
def _share(gates: GateSet, device: torch.device) -> None:
    """Give all processes the first one's gates and the generator of their samples."""
    if _world() == 1:
        return
    for tensor in gates.log_alpha.values():
        sent = tensor.detach().to(device)
        torch.distributed.broadcast(sent, 0)
        tensor.copy_(sent)
    state = gates.generator.get_state().to(device)
    torch.distributed.broadcast(state, 0)
    gates.generator.set_state(state.cpu())


def _world() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _folder(args: transformers.TrainingArguments, state: transformers.TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _check(args: transformers.TrainingArguments, model: Any) -> None:
    """Refuse what would train the gates wrongly."""
    if args.n_gpu > 1:
        raise UsageError(
            f"One process would train on {args.n_gpu} GPUs (DataParallel), whose copies draw gates of their own. Start "
            "one process per GPU with accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one."
        )
    places = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(places) > 1:
        raise UsageError(
            f"The model lies on {len(places)} devices (device_map), and gates go to one. Use device_map={{'': 0}}, or "
            "FSDP with a process per GPU."
        )
    if args.fp16:
        raise UsageError(
            "fp16 scales the loss, and with it the gradients of the gates, by a factor that changes. Use bf16=True."
        )
    asked = getattr(args, "activation_checkpointing_kwargs", None) or getattr(
        args, "gradient_checkpointing_kwargs", None
    )
    if (asked and asked.get("use_reentrant", True)) or _checkpoints_reentrantly(model):
        raise UsageError(
            "Re-entrant checkpointing computes gates a second time with no way back to their log-odds. Use "
            "gradient_checkpointing_kwargs={'use_reentrant': False}, the default."
        )


def _checkpoints_reentrantly(model: Any) -> bool:
    """Whether the model was told so itself, whatever the Trainer's arguments say; torch's default is to."""
    if model is None:
        return False
    functions = (getattr(module, "_gradient_checkpointing_func", None) for module in model.modules())
    return any(isinstance(f, functools.partial) and f.keywords.get("use_reentrant", True) for f in functions)
