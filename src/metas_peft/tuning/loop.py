"""One training loop for every method: `transformers.Trainer`, told what to minimise by an `Objective`."""

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers
from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from metas_peft.core.errors import TrainingDivergedError
from metas_peft.tuning.data import Collator, EncodedTexts

logger = logging.getLogger(__name__)


class Objective(Protocol):
    """What a stage of training minimises, and what it does between steps."""

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of one batch, a scalar."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """Called after each optimiser step, counted from 1."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained.

    Attributes:
        steps: Optimiser steps; None for `epochs` over the data.
        epochs: Epochs, used when `steps` is None.
        batch_size: Sequences per forward pass.
        accumulation: Forward passes per optimiser step.
        learning_rate: Peak learning rate of the adapters and the head.
        weight_decay: Decoupled weight decay.
        scheduler: `linear`, `cosine` or `constant`.
        warmup: Steps if at least 1, else the fraction of all steps.
        bf16: Whether to autocast to bfloat16.
        seed: Seed of the order of the data.
        gradient_checkpointing: Recompute activations in the backward pass.
    """

    steps: int | None
    epochs: float
    batch_size: int
    accumulation: int
    learning_rate: float
    weight_decay: float
    scheduler: str
    warmup: float
    bf16: bool
    seed: int
    gradient_checkpointing: bool = False


class _Trainer(transformers.Trainer):
    """A Trainer whose loss comes from an `Objective` and which trains extra parameters at their own rate."""

    def __init__(self, objective: Objective, gates: Sequence[torch.nn.Parameter], gate_rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self._objective = objective
        self._gates = list(gates)
        self._gate_rate = gate_rate

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Ask the objective; a loss that is not finite ends the run.

        Raises:
            TrainingDivergedError: NaN or infinity.
        """
        loss = self._objective.loss(model, dict(inputs))
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} "
                f"(learning rate {self.args.learning_rate:g}). Lower training.learning_rate or use model.precision=float32."
            )
        return (loss, None) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW over the model's trainable parameters, and the gates in a group of their own without decay."""
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if self._gates:
            optimizer.add_param_group({"params": self._gates, "lr": self._gate_rate, "weight_decay": 0.0})
        return optimizer


class _Progress(transformers.TrainerCallback):
    """A progress bar on standard error after two seconds, and the objective's turn between steps."""

    def __init__(self, objective: Objective, title: str, show: bool) -> None:
        self._objective = objective
        self._title = title
        self._show = show
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc=self._title, file=sys.stderr, delay=2.0, disable=not self._show,
                         leave=False, dynamic_ncols=True)  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._objective.after_step(state.global_step, state.max_steps)
        self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()


def fit(
    model: Any,
    data: EncodedTexts,
    collator: Collator,
    objective: Objective,
    settings: LoopSettings,
    *,
    title: str,
    gates: Sequence[torch.nn.Parameter] = (),
    gate_rate: float = 0.0,
    progress: bool = True,
) -> float:
    """Train a model in place.

    Args:
        model: PEFT model; its trainable parameters are trained.
        data: Training texts.
        collator: Makes batches.
        objective: What is minimised.
        settings: How.
        title: What the progress bar says.
        gates: Extra parameters (gate log-odds) with their own rate.
        gate_rate: Learning rate of `gates`.
        progress: Whether to show a bar.

    Returns:
        Seconds taken.

    Raises:
        TrainingDivergedError: The loss became NaN or infinite.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metas-peft-") as scratch:
        args = transformers.TrainingArguments(
            output_dir=scratch,
            max_steps=settings.steps if settings.steps is not None else -1,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=settings.warmup,
            bf16=settings.bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=settings.seed,
            data_seed=settings.seed,
            train_sampling_strategy="group_by_length",
            gradient_checkpointing=settings.gradient_checkpointing,
            optim="adamw_torch",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = _Trainer(
            objective, gates, gate_rate,
            model=model, args=args, train_dataset=data, data_collator=collator,
            callbacks=[_Progress(objective, title, progress)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    model.eval()
    return time.monotonic() - started
