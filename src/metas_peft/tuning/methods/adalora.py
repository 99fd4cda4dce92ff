"""AdaLoRA from PEFT: ranks move between projections while training; the backbone itself stays whole.

Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning". It starts from the backbone as
published, with the head that the dense stage has trained, and trains as long as that stage does, with half as many
ranks again at first: a tenth of the steps before the first one goes, three tenths after the last one has gone.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch.optim.optimizer import register_optimizer_step_post_hook

from metas_peft.backbones import Layout, compact, shape_of
from metas_peft.backbones.adapters import task_type
from metas_peft.core.errors import UnsupportedBackboneError
from metas_peft.core.launched import processes
from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import Member, TuningContext
from metas_peft.tuning.loop import fit
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.objectives import TaskObjective

INIT = 1.5  # of the ranks that are left in the end
BEFORE, AFTER = 0.1, 0.3  # of the steps
EVERY = 10  # steps between two allocations


class _Regularised(TaskObjective):
    """The task's loss, and PEFT's pull of the adapters towards orthogonal directions."""

    def __init__(self, form: Any, weight: float) -> None:
        super().__init__(form)
        self._weight = weight

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L_task + weight * mean Frobenius distance of A A' and B' B from the identity."""
        parts = []
        for name, p in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = p @ p.T if "lora_A" in name else p.T @ p
                parts.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return super().loss(model, batch) + self._weight * torch.stack(parts).mean()


class AdaLora(Method):
    """Rank allocation alone: the only member is as large as the dense model, its adapter is what is made smaller."""

    def tune(self, context: TuningContext) -> TunedFront:
        """Train, merge, cut nothing.

        Raises:
            UnsupportedBackboneError: The run trains no adapters.
        """
        if not isinstance(context.adapted, PeftModel):
            raise UnsupportedBackboneError("AdaLoRA needs a run that trains adapters; this one trains all weights.")
        context.reset()
        settings, shape = context.settings, context.shape
        batches = math.ceil(len(context.data) / settings.batch_size)
        per_epoch = math.ceil(math.ceil(batches / processes()) / settings.accumulation)
        steps = settings.steps or math.ceil(per_epoch * settings.epochs)
        ranks = max(site.rank for site in shape.sites)
        usual: Any = context.adapted.peft_config["default"]
        backbone = copy.deepcopy(context.adapted).unload()
        layout = Layout(backbone)
        config = AdaLoraConfig(
            task_type=task_type(backbone), init_r=math.ceil(INIT * ranks), target_r=ranks,
            tinit=round(BEFORE * steps), tfinal=round(AFTER * steps), deltaT=EVERY, total_step=steps,
            lora_alpha=usual.lora_alpha, lora_dropout=usual.lora_dropout,
            target_modules=[f"{layout.stack_path}.{i}.{layout.path_of(layer, site.name)}"
                            for i, layer in enumerate(layout.layers) for site in shape.sites],
            modules_to_save=layout.head_modules(),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            model = get_peft_model(backbone, config)
        objective = _Regularised(context.form, config.orth_reg_weight)
        with _allocating(model):
            fit(model, context.data, context.collator, objective, settings, title="AdaLoRA", progress=context.progress)
        left = sum(sum(kept) for kept in (config.rank_pattern or {}).values())
        first = shape.n_layers * len(shape.sites) * config.init_r
        batch = context.check_batch()
        model.eval()
        with torch.no_grad():
            # Not the PEFT model itself: where the Trainer has autocast it, it goes on to.
            expected = context.form.rows(model.get_base_model(), batch)
            merged = model.merge_and_unload()
            whole = compact(merged, shape_of(merged), Subnet.dense(shape_of(merged)))
            gap = float((context.form.rows(whole, batch) - expected).abs().max())
        context.check_gap("dense", Subnet.dense(shape), gap, expected)
        member = Member("dense", Subnet.dense(shape), whole, gap)
        return TunedFront([member], notes=[f"{left} of {first} ranks are left."])


@contextmanager
def _allocating(model: Any) -> Iterator[None]:
    """Let PEFT move ranks after every optimiser step, while the gradients are still there."""
    done = 0

    def step(*_: Any) -> None:
        nonlocal done
        done += 1
        model.base_model.update_and_allocate(done)

    handle = register_optimizer_step_post_hook(step)
    try:
        yield
    finally:
        handle.remove()


METHODS.add("AdaLoRA", AdaLora)
