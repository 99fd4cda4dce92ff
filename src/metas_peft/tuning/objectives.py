"""Losses: the task's own, and distillation from the dense model on top of it."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from metas_peft.tuning.data import Collator, EncodedTexts, batches_by_length

logger = logging.getLogger(__name__)

CACHE_LIMIT_GB = 2.0  # last hidden states of the teacher beyond this are not kept


@dataclass(frozen=True)
class Distillation:
    """Weights of the three terms.

    Attributes:
        temperature: Softens both distributions of the Kullback-Leibler term.
        cross_entropy: Weight of the labels.
        kl: Weight of the teacher's logits.
        hidden: Weight of the teacher's last hidden states.
    """

    temperature: float = 2.0
    cross_entropy: float = 0.5
    kl: float = 0.5
    hidden: float = 1.0


class TaskObjective:
    """Cross-entropy with the labels, as in plain fine-tuning."""

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of the batch."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits.float(), batch["labels"])

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""


@contextlib.contextmanager
def last_hidden_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the last hidden states (B, T, D) of every pass of a `transformers` model inside the block."""
    seen: list[torch.Tensor] = []
    handle = model.base_model.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    try:
        yield seen
    finally:
        handle.remove()


class Teacher:
    """The dense model's answers to every training text, computed once.

    Attributes:
        logits: (N, C), float32.
    """

    def __init__(self, logits: torch.Tensor, hidden: torch.Tensor | None, starts: torch.Tensor) -> None:
        self.logits = logits
        self._hidden = hidden
        self._starts = starts

    @classmethod
    @torch.no_grad()
    def record(
        cls, model: Any, data: EncodedTexts, collator: Collator, *, hidden: bool, bf16: bool, progress: bool = True
    ) -> "Teacher":
        """Run the dense model over the training texts.

        Args:
            model: `transformers` model with its trained adapters.
            data: Training texts.
            collator: Makes batches.
            hidden: Whether to keep the last hidden states (bfloat16) too.
            bf16: Whether to autocast.
            progress: Whether to show a progress bar.
        """
        lengths = torch.tensor([len(ids) for ids in data.ids])
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        width = model.config.get_text_config().hidden_size
        size_gb = int(starts[-1]) * width * 2 / 1e9
        if hidden and size_gb > CACHE_LIMIT_GB:
            logger.warning(
                "The teacher's hidden states would take %.1f GB (limit %.1f): they are left out of the distillation.",
                size_gb, CACHE_LIMIT_GB,
            )  # fmt: skip
            hidden = False
        kept = torch.empty(int(starts[-1]), width, dtype=torch.bfloat16) if hidden else None
        logits = torch.empty(len(data), model.config.num_labels)
        model.eval()
        device = next(model.parameters()).device
        bar = tqdm(total=len(data), desc="teacher", delay=2.0, leave=False, disable=not progress, dynamic_ncols=True)
        with bar, last_hidden_states(model) as states, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for batch in batches_by_length(data, collator, 64):
                batch = {k: v.to(device) for k, v in batch.items()}
                out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                logits[batch["index"].cpu()] = out.float().cpu()
                state = states.pop()
                if kept is not None:
                    for row, index in enumerate(batch["index"].tolist()):
                        n = int(lengths[index])
                        kept[starts[index] : starts[index] + n] = state[row, :n].to("cpu", torch.bfloat16)
                bar.update(len(out))
        return cls(logits, kept, starts)

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """The teacher's last hidden states at the batch's real tokens, (tokens, D) in row order, or None."""
        if self._hidden is None:
            return None
        pieces = [self._hidden[self._starts[i] : self._starts[i + 1]] for i in batch["index"].tolist()]
        return torch.cat(pieces).to(batch["input_ids"].device).float()


class DistilledObjective:
    """Labels, the teacher's logits and its last hidden states (weights in `Distillation`).

    Args:
        network: The `transformers` model inside the PEFT model.
        teacher: Recorded answers.
        weights: Weights of the terms.
    """

    def __init__(self, network: Any, teacher: Teacher, weights: Distillation) -> None:
        self.network = network
        self.teacher = teacher
        self.weights = weights

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Weighted sum of the three terms."""
        w, t = self.weights, self.weights.temperature
        with last_hidden_states(self.network) as states:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        target = self.teacher.logits[batch["index"].cpu()].to(logits.device)
        loss = w.cross_entropy * F.cross_entropy(logits, batch["labels"])
        soft = F.kl_div(F.log_softmax(logits / t, -1), F.log_softmax(target / t, -1), log_target=True,
                        reduction="batchmean")  # fmt: skip
        # Hinton et al. 2015: the temperature squared keeps the term's gradient on the scale of the labels'.
        loss = loss + w.kl * t * t * soft
        hidden = self.teacher.hidden(batch)
        if w.hidden and hidden is not None:
            own = states[-1][batch["attention_mask"].bool()].float()
            loss = loss + w.hidden * (own - hidden).pow(2).mean() / hidden.pow(2).mean()
        return loss

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""
