"""What every method starts from: one dense model, its teacher's answers, one order of heads and neurons.

All methods of a run share the warm start, so a comparison between them is one of what they remove, not of how
well their first epoch went.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metas_peft.backbones import Layout, compact, reorder, save_adapter
from metas_peft.backbones.adapters import lora_maps
from metas_peft.core.cost import Cost
from metas_peft.core.errors import SubnetError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.gates import masked, network_of, rank_mask
from metas_peft.tuning.budgets import Limits
from metas_peft.tuning.data import Batches, EncodedTexts
from metas_peft.tuning.forms import CLASSES, Form
from metas_peft.tuning.loop import LoopSettings, Objective, fit
from metas_peft.tuning.objectives import Distillation, DistilledObjective, TaskObjective, Teacher
from metas_peft.tuning.order import descending, importances
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)

# Later stages start from a trained model: at the full rate the smallest members lost several points.
LATER_RATE = 0.5
ORDER_BATCHES, ORDER_BATCH_SIZE = 64, 16
CHECK_TEXTS = 8  # texts on which masked and compact logits are compared
MOST_GAP = 1e-4  # what float32 rounding may make of the difference, by the largest logit


@dataclass(frozen=True)
class GateSettings:
    """How hard-concrete gates are trained.

    Attributes:
        granularities: What is gated.
        temperature: Concrete temperature.
        sparsity: Weight of the sum of P(z > 0).
        learning_rate: Rate of the log-odds.
        steps: Optimiser steps.
        warmup: Fraction of the steps in which the gates stay open.
        ramp: Fraction of the steps after which the price has its full weight, at least `warmup`.
    """

    granularities: tuple[str, ...]
    temperature: float
    sparsity: float
    learning_rate: float
    steps: int
    warmup: float = 0.1
    ramp: float = 0.3


@dataclass(frozen=True)
class Schedule:
    """How long each stage after the dense one lasts.

    Attributes:
        path: Small batches over which the nested path is found.
        joint: Optimiser steps in which the members are trained together, two passes a step.
    """

    path: int
    joint: int


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights and the order of heads and neurons they belong to; see `TuningContext.checkpoint`."""

    weights: dict[str, torch.Tensor]
    heads: torch.Tensor
    neurons: torch.Tensor


@dataclass(frozen=True)
class Member:
    """One operating point of a method, cut out.

    Attributes:
        name: Label such as `50 %`.
        subnet: What is kept.
        model: Compact model.
        gap: Largest absolute difference between masked and compact logits on a few training texts.
    """

    name: str
    subnet: Subnet
    model: Any
    gap: float


class TuningContext:
    """A backbone under tuning.

    Args:
        adapted: PEFT model, or the plain `transformers` model for full fine-tuning.
        shape: Its shape.
        data: Training texts.
        collator: Makes batches.
        settings: Loop settings of the dense stage; later stages change the number of steps only.
        schedule: Steps of the later stages.
        distillation: Weights of the distillation.
        gates: Gate settings.
        workload: What is priced and measured.
        weights: lambda, mu, nu.
        cost_model: Calibrated cost model of the target; None for methods that use none.
        fit_on_target: Measures subnets on the target (the device counts them) and fits a cost model to them; for
            rivals that need it.
        target_samples: How many measurements such a rival takes.
        operating_points: Fractions of the dense FLOPs at which members are wanted, descending.
        seed: Seed of everything random here.
        progress: Whether progress bars are shown.
        limits: Budgets that one member is to hold, by prediction; None for none.
        limits_on: The same for a method with a cost model of the target of its own; None for none.
        form: What the task asks of the model.
    """

    def __init__(
        self, *, adapted: Any, shape: BackboneShape, data: EncodedTexts, collator: Batches, settings: LoopSettings,
        schedule: Schedule, distillation: Distillation, gates: GateSettings, workload: Workload, weights: Cost[float],
        cost_model: CostModel | None, fit_on_target: Callable[[Sequence[Subnet]], CostModel], target_samples: int,
        operating_points: Sequence[float], seed: int, progress: bool = True, limits: Limits | None = None,
        limits_on: Callable[[CostModel], Limits | None] | None = None, form: Form = CLASSES,
    ) -> None:  # fmt: skip
        self.adapted = adapted
        self.network = network_of(adapted)
        self.shape, self.data, self.collator, self.settings = shape, data, collator, settings
        self.schedule, self.distillation, self.gates = schedule, distillation, gates
        self.workload, self.weights, self.cost_model = workload, weights, cost_model
        self.fit_on_target, self.target_samples = fit_on_target, target_samples
        self.limits, self.limits_on = limits, limits_on
        self.form = form
        self.operating_points = sorted(operating_points, reverse=True)
        self.seed, self.progress = seed, progress
        self.teacher: Teacher | None = None
        self._head_order = torch.arange(shape.n_kv_heads).repeat(shape.n_layers, 1)
        self._neuron_order = torch.arange(shape.ffn_size).repeat(shape.n_layers, 1)
        self._start: Checkpoint | None = None

    @property
    def head_order(self) -> torch.Tensor:
        """KV group of the published backbone at each place of the ordered model, (L, G)."""
        return self._head_order.clone()

    # ---- the dense stage

    def train_dense(self) -> float:
        """Fine-tune the whole model on the labels; returns the seconds taken."""
        return self.fit(TaskObjective(self.form), None, "dense")

    def prepare(self) -> None:
        """Record the teacher, order heads and neurons by importance, and remember this as the start."""
        # Where the Trainer would bring the model: a resumed run comes here without a stage of training before.
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if next(self.adapted.parameters()).device.type != wanted:
            self.adapted.to(wanted)
        self.teacher = Teacher.record(
            self.network, self.data, self.collator,
            hidden=self.distillation.hidden > 0, bf16=self.settings.bf16, progress=self.progress,
            form=self.form, temperature=self.distillation.temperature,
        )  # fmt: skip
        found = importances(
            self.network, self.shape, self.data, self.collator,
            batches=ORDER_BATCHES, batch_size=ORDER_BATCH_SIZE, seed=self.seed, form=self.form,
        )  # fmt: skip
        heads, neurons = agreed(found)
        self.reorder(descending(heads), descending(neurons))
        self._start = self.checkpoint()

    # ---- what methods use

    def reset(self) -> None:
        """Back to the dense model in order of importance, whatever a method did since."""
        if self._start is None:
            self.prepare()
        assert self._start is not None
        self.restore(self._start)

    def checkpoint(self) -> Checkpoint:
        """What is trained, as it stands now."""
        weights = {n: p.detach().clone() for n, p in self.adapted.named_parameters() if p.requires_grad}
        return Checkpoint(weights, self._head_order.clone(), self._neuron_order.clone())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Back to a checkpoint."""
        self.reorder(_relative(self._head_order, checkpoint.heads), _relative(self._neuron_order, checkpoint.neurons))
        with torch.no_grad():
            for name, parameter in self.adapted.named_parameters():
                if name in checkpoint.weights:
                    parameter.copy_(checkpoint.weights[name])

    @contextlib.contextmanager
    def on_labels_alone(self) -> Iterator[None]:
        """No distillation inside the block; the teacher is recorded for all that comes after it."""
        if self.teacher is None:
            self.prepare()
        usual = self.distillation
        self.distillation = Distillation(cross_entropy=1.0, kl=0.0, hidden=0.0)
        try:
            yield
        finally:
            self.distillation = usual

    def reorder(self, heads: torch.Tensor, neurons: torch.Tensor) -> None:
        """Permute KV groups (L, G) and neurons (L, ffn_size) from their present order."""
        reorder(self.network, self.shape, heads, neurons)
        self._head_order = torch.gather(self._head_order, -1, heads)
        self._neuron_order = torch.gather(self._neuron_order, -1, neurons)

    @torch.no_grad()
    def order_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Bring the ranks of every adapter into descending order of a value; the function stays the same.

        Args:
            values: One per rank, (L, M, R).

        Returns:
            The values in their new order; a site of lower rank than others has its own ranks first.
        """
        layout = Layout(self.network)
        order = descending(values.masked_fill(~rank_mask(self.shape).to(values.device), -torch.inf))
        for i, layer in enumerate(layout.layers):
            for m, site in enumerate(self.shape.sites):
                a, b, _ = lora_maps(layout.projection(layer, site.name))
                ranks = order[i, m][order[i, m] < site.rank].to(a.weight.device)
                a.weight.copy_(a.weight[ranks])
                b.weight.copy_(b.weight[:, ranks])
        return torch.gather(values, -1, order)

    def distilled(self) -> DistilledObjective:
        """The distillation loss against this run's teacher."""
        if self.teacher is None:
            self.prepare()
        assert self.teacher is not None
        return DistilledObjective(self.network, self.teacher, self.distillation, self.form)

    def fit(
        self,
        objective: Objective,
        steps: int | None,
        title: str,
        *,
        offset: int = 0,
        **gates: Any,
    ) -> float:
        """Train with this run's settings.

        Args:
            objective: What is minimised.
            steps: Optimiser steps of a later stage, which runs at `LATER_RATE` of the learning rate; None for the
                dense stage.
            title: What the progress bar says.
            offset: Separates the data order of one stage from another's.
            gates: Extra parameters and their rate, as `loop.fit` takes them.
        """
        settings = replace(self.settings, seed=self.settings.seed + offset)
        if steps is not None:
            # A warm-up given in steps is meant for the dense stage; it could take all of a later one.
            warmup = settings.warmup if settings.warmup < 1 else min(settings.warmup, max(1, steps // 10))
            settings = replace(settings, steps=steps, learning_rate=LATER_RATE * settings.learning_rate, warmup=warmup)
        return fit(self.adapted, self.data, self.collator, objective, settings, title=title,
                   progress=self.progress, **gates)  # fmt: skip

    def cut(self, name: str, subnet: Subnet) -> Member:
        """Compact one member and compare it with the masked model.

        Raises:
            SubnetError: The two disagree by more than `MOST_GAP` of the largest logit (at least 1).
        """
        self.network.eval()
        model = compact(self.network, self.shape, subnet)
        batch = self.check_batch()
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        with torch.no_grad():
            with masked(self.network, self.shape, subnet):
                expected = self.network(**inputs).logits
            gap = float((model(**inputs).logits - expected).abs().max())
        self.check_gap(name, subnet, gap, expected)
        return Member(name, subnet, model, gap)

    def check_batch(self) -> dict[str, torch.Tensor]:
        """A few training texts, on the model's device, on which a compact model is compared with its origin."""
        batch = self.collator([self.data[i] for i in range(min(CHECK_TEXTS, len(self.data)))])
        device = next(self.network.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}

    @staticmethod
    def check_gap(name: str, subnet: Subnet, gap: float, expected: torch.Tensor) -> None:
        """Refuse a compact model whose logits differ from the expected ones by more than rounding.

        Raises:
            SubnetError: By more than `MOST_GAP` of the largest logit (at least 1).
        """
        allowed = MOST_GAP * max(1.0, float(expected.abs().max()))
        if not gap <= allowed:
            raise SubnetError(
                f"The compact model of {name} ({subnet.key}) differs from the masked one by {gap:.2g} in its logits, "
                f"where at most {allowed:.2g} is rounding. This is an error of metas-peft for this backbone; nothing "
                "of it was written. Please report the model's class and version of transformers."
            )

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as trained now, in PEFT's format and for the published order of the backbone."""
        save_adapter(self.adapted, self.shape, self._head_order, self._neuron_order, folder)


def _relative(present: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Permutation that turns the present order into the wanted one, row by row."""
    position = torch.argsort(present, dim=-1)
    return torch.gather(position, -1, wanted)
