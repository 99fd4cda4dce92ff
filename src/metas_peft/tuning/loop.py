"""One training loop for every method: `transformers.Trainer`, told what to minimise by an `Objective`.

Several processes of a launcher train together: each has its own batches, gradients are averaged.
"""

import contextlib
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.training_args import ParallelMode

from metas_peft.core.errors import TrainingDivergedError, UsageError
from metas_peft.tuning.data import Batches, EncodedTexts
from metas_peft.tuning.gating import GateOptimizer

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
class Reports:
    """Trackers that follow the training, by the Trainer's own integrations.

    Attributes:
        to: Names that the Trainer knows: `tensorboard`, `mlflow`, `wandb`.
        run: Name under which a tracker files the stages.
        folder: Where a tracker that writes files writes them; one folder below per stage.
        every: Optimiser steps between two reports.
    """

    to: tuple[str, ...] = ()
    run: str = ""
    folder: str = ""
    every: int = 10


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
        reports: Where losses and learning rates are reported; to nobody by default.
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
    reports: Reports = Reports()


class BucketSampler(torch.utils.data.Sampler[int]):
    """Random order in which the texts of a batch have about the same length, and batches come in random order.

    (`transformers`' own grouping runs from long to short within each 50 batches, so a short training ends on short
    texts alone.)

    Args:
        lengths: Tokens of each text.
        batch_size: Texts per batch.
        seed: Seed of the order; every pass over the data has its own.
    """

    BATCHES_PER_POOL = 32

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._passes = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, self._passes])
        self._passes += 1
        order = rng.permutation(len(self._lengths))
        size, pool = self._batch_size, self._batch_size * self.BATCHES_PER_POOL
        whole = len(order) // size * size
        batches = []
        for start in range(0, whole, pool):
            chunk = order[start : min(start + pool, whole)]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        for index in rng.permutation(len(batches)):
            yield from batches[index].tolist()
        yield from order[whole:].tolist()  # the incomplete batch comes last, so that the others stay aligned


class _Trainer(transformers.Trainer):
    """A Trainer whose loss comes from an `Objective`."""

    def __init__(self, objective: Objective, **kwargs: Any):
        self._lengths = [len(ids) for ids in kwargs["train_dataset"].ids]
        super().__init__(**kwargs)
        self._objective = objective
        # The objective returns a mean. Of a model whose forward takes further keywords the Trainer would assume a sum
        # already divided by all accumulated items, and would add up the batches of a step instead of averaging them.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Ask the objective; a loss that is not finite ends the run.

        Raises:
            TrainingDivergedError: NaN or infinity.
        """
        loss = self._objective.loss(model, dict(inputs))
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} "
                f"(learning rate {self.args.learning_rate:g}). "
                "Lower training.learning_rate or use model.precision=float32."
            )
        return (loss, None) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return BucketSampler(self._lengths, self.args.train_batch_size, self.args.seed)


class _LossOf(torch.nn.Module):
    """A model and its objective as one module, for several processes.

    What synchronises gradients follows the graph of one pass through the module that it wraps. An objective may make
    two, look at hidden states on the way, and leave out whole layers.
    """

    def __init__(self, model: Any, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        """The loss of a batch."""
        return self._objective.loss(self.model, batch)


class _Asking:
    """The objective of a `_LossOf`."""

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of one batch, a scalar."""
        return model(**batch)

    def after_step(self, step: int, steps: int) -> None:
        """The inner objective's turn comes with the progress bar."""


class _OwnRate(transformers.TrainerCallback):
    """Steps parameters outside the model right after the Trainer has stepped its own."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], rate: float) -> None:
        self._optimizer = GateOptimizer({str(i): p for i, p in enumerate(parameters)}, rate)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self._optimizer.step(args, optimizer)


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


def _check_finite(model: Any, gates: Sequence[torch.nn.Parameter], settings: LoopSettings) -> None:
    """The last step's update is followed by no loss that would tell."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not all(bool(torch.isfinite(p).all()) for p in (*trained, *gates)):
        raise TrainingDivergedError(
            f"Weights became NaN or infinite in the last step (learning rate {settings.learning_rate:g}). "
            "Lower training.learning_rate or use model.precision=float32."
        )


def _refuse_many_devices(args: transformers.TrainingArguments) -> None:
    """The Trainer would split every batch over copies of the model, of which each is a view of its own."""
    if args.n_gpu > 1:
        raise UsageError(
            f"One process trains on one GPU, but {args.n_gpu} are visible. Set CUDA_VISIBLE_DEVICES to one of them, or "
            "start a process for each with accelerate launch (docs/scaling.md)."
        )


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """The Trainer seeds the global generators (dropout draws from one): afterwards they go on as if it had not."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - theirs, not ours
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="metas-peft-")


@contextlib.contextmanager
def _tensorboard_in(reports: Reports, title: str) -> Iterator[None]:
    """The folder of TensorBoard's events, which the Trainer takes from the environment alone."""
    name = "TENSORBOARD_LOGGING_DIR"
    before = os.environ.get(name)
    if "tensorboard" not in reports.to or before is not None:
        yield
        return
    os.environ[name] = os.path.join(reports.folder, title)
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def _wandb_run_of(reports: Reports) -> Iterator[None]:
    """A run of its own for each stage: the Trainer begins one where there is none, and does not end it."""
    if "wandb" not in reports.to:
        yield
        return
    import wandb

    is_users = wandb.run is not None
    try:
        yield
    finally:
        if not is_users and wandb.run is not None:
            wandb.finish()


def fit(
    model: Any,
    data: EncodedTexts,
    collator: Batches,
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
        TrainingDivergedError: The loss or a weight became NaN or infinite.
        UsageError: Several GPUs are visible to this process.
    """
    started = time.monotonic()
    reports = settings.reports
    with _own_randomness(), _tensorboard_in(reports, title), _wandb_run_of(reports), _scratch() as scratch:
        args = transformers.TrainingArguments(
            output_dir=scratch,
            max_steps=settings.steps if settings.steps is not None else -1,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            # The one called `constant` knows no warm-up.
            lr_scheduler_type="constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler,
            warmup_steps=settings.warmup,
            bf16=settings.bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=settings.seed,
            data_seed=settings.seed,
            optim="adamw_torch",
            save_strategy="no",
            logging_strategy="steps" if reports.to else "no",
            logging_steps=reports.every,
            run_name=f"{reports.run} {title}".strip(),
            report_to=list(reports.to),
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        _refuse_many_devices(args)
        # One process of a launcher is wrapped too, where it has a GPU.
        is_shared = args.parallel_mode is ParallelMode.DISTRIBUTED
        trainer = _Trainer(
            _Asking() if is_shared else objective,
            model=_LossOf(model, objective) if is_shared else model,
            args=args,
            train_dataset=data,
            data_collator=collator,
            callbacks=[*([_OwnRate(gates, gate_rate)] if gates else []), _Progress(objective, title, progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    _check_finite(model, gates, settings)
    model.eval()
    return time.monotonic() - started
