"""Losses: the task's own, and distillation from the dense model on top of it."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from metas_peft.tuning.data import Batches, EncodedTexts, batches_by_length
from metas_peft.tuning.forms import CLASSES, Form

logger = logging.getLogger(__name__)

CACHE_LIMIT_GB = 2.0  # last hidden states of the teacher beyond this are not kept
BYTES_PER_LOGIT = 8  # with the number of its token


@dataclass(frozen=True)
class Distillation:
    """Weights of the three terms.

    Attributes:
        temperature: Softens both distributions of the Kullback-Leibler term.
        cross_entropy: Weight of the labels.
        kl: Weight of the divergence from the teacher, per text or per answer token.
        hidden: Weight of the teacher's last hidden states.
    """

    temperature: float = 2.0
    cross_entropy: float = 0.5
    kl: float = 0.5
    hidden: float = 1.0


class TaskObjective:
    """Cross-entropy with what is right, as in plain fine-tuning.

    Attributes:
        form: What the task asks of the model; one class per text unless told otherwise.
    """

    form: Form = CLASSES

    def __init__(self, form: Form = CLASSES) -> None:
        self.form = form

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy of the batch's rows."""
        return F.cross_entropy(self.form.rows(model, batch), self.form.targets(batch))

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
        logits: (rows, K), float32: of all classes, or of the largest tokens and of the others together.
        tokens: Tokens that the columns but the last stand for, (rows, K - 1); None where there are all.
    """

    def __init__(
        self, logits: torch.Tensor, tokens: torch.Tensor | None, rows: torch.Tensor, hidden: torch.Tensor | None,
        starts: torch.Tensor,
    ) -> None:  # fmt: skip
        self.logits, self.tokens = logits, tokens
        self._rows = rows
        self._hidden = hidden
        self._starts = starts

    @classmethod
    @torch.no_grad()
    def record(
        cls, model: Any, data: EncodedTexts, collator: Batches, *, hidden: bool, bf16: bool, progress: bool = True,
        form: Form = CLASSES, temperature: float = 1.0,
    ) -> "Teacher":  # fmt: skip
        """Run the dense model over the training texts.

        Args:
            model: `transformers` model with its trained adapters.
            data: Training texts.
            collator: Makes batches.
            hidden: Whether to keep the last hidden states (bfloat16) too.
            bf16: Whether to autocast.
            progress: Whether to show a progress bar.
            form: What the task asks of the model.
            temperature: At which the logits will be used; where only the largest are kept, they serve no other.
        """
        lengths = torch.tensor([len(ids) for ids in data.ids])
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        rows = torch.tensor([0, *form.row_counts(data)]).cumsum(0)
        width = model.config.get_text_config().hidden_size
        size_gb = int(starts[-1]) * width * 2 / 1e9
        if hidden and size_gb > CACHE_LIMIT_GB:
            logger.warning(
                "The teacher's hidden states would take %.1f GB (limit %.1f): they are left out of the distillation.",
                size_gb, CACHE_LIMIT_GB,
            )  # fmt: skip
            hidden = False
        kept = torch.empty(int(starts[-1]), width, dtype=torch.bfloat16) if hidden else None
        memory = _Memory(int(rows[-1]), form.teacher_width, temperature)
        model.eval()
        device = next(model.parameters()).device
        bar = tqdm(total=len(data), desc="teacher", delay=2.0, leave=False, disable=not progress, dynamic_ncols=True)
        with bar, last_hidden_states(model) as states, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for batch in batches_by_length(data, collator, form.texts_per_pass):
                batch = {k: v.to(device) for k, v in batch.items()}
                memory.keep(_places(rows, batch["index"]), form.rows(model, batch))
                state = states.pop()
                if kept is not None:
                    for row, index in enumerate(batch["index"].tolist()):
                        n = int(lengths[index])
                        kept[starts[index] : starts[index] + n] = state[row, :n].to("cpu", torch.bfloat16)
                bar.update(len(batch["index"]))
        assert memory.logits is not None
        return cls(memory.logits, memory.tokens, rows, kept, starts)

    def divergence(self, rows: torch.Tensor, batch: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
        """Kullback-Leibler divergence of softened rows from the teacher's, mean over the rows.

        Args:
            rows: Logits of the batch's rows, (S, K), float32.
            batch: The batch.
            temperature: Softens both.
        """
        places = _places(self._rows, batch["index"])
        target = self.logits[places].to(rows.device)
        if self.tokens is not None:
            rows = condensed(rows, self.tokens[places].to(rows.device, torch.long), temperature)
        return F.kl_div(F.log_softmax(rows / temperature, -1), F.log_softmax(target / temperature, -1), log_target=True,
                        reduction="batchmean")  # fmt: skip

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """The teacher's last hidden states at the batch's real tokens, (tokens, D) in row order, or None."""
        if self._hidden is None:
            return None
        pieces = [self._hidden[self._starts[i] : self._starts[i + 1]] for i in batch["index"].tolist()]
        return torch.cat(pieces).to(batch["input_ids"].device).float()


class _Memory:
    """Rows of logits as they come in, cut to the largest where not all are to be kept.

    Args:
        rows: Rows in all.
        width: Largest logits of a row to keep; None for all.
        temperature: See `condensed`.
    """

    def __init__(self, rows: int, width: int | None, temperature: float) -> None:
        most = max(1, int(CACHE_LIMIT_GB * 1e9 / BYTES_PER_LOGIT / max(rows, 1)))
        self._count, self._temperature = rows, temperature
        self._width = width if width is None else min(width, most)
        self.logits: torch.Tensor | None = None
        self.tokens: torch.Tensor | None = None

    def keep(self, places: torch.Tensor, rows: torch.Tensor) -> None:
        """Put rows (S, K) in their places (S,)."""
        tokens = None
        if self._width is not None and self._width < rows.shape[-1]:
            tokens = rows.topk(self._width, dim=-1).indices
            rows = condensed(rows, tokens, self._temperature)
        self.logits = self._put(self.logits, places, rows.float())
        if tokens is not None:
            self.tokens = self._put(self.tokens, places, tokens.to(torch.int32))

    def _put(self, whole: torch.Tensor | None, places: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        whole = torch.empty(self._count, part.shape[-1], dtype=part.dtype) if whole is None else whole
        whole[places] = part.cpu()
        return whole


def condensed(rows: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits of some tokens of each row, and behind them one logit that weighs as much as all other tokens together.

    Args:
        rows: (S, K).
        tokens: Numbers of fewer than K of them, (S, k).
        temperature: At which the last column weighs so.

    Returns:
        (S, k + 1).
    """
    others = rows.scatter(-1, tokens, -torch.inf)
    rest = temperature * (others / temperature).logsumexp(-1, keepdim=True)
    return torch.cat([rows.gather(-1, tokens), rest], dim=-1)


def _places(starts: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Places of the rows of some texts, one text after the other."""
    return torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in index.tolist()])


class DistilledObjective:
    """What is right, the teacher's logits and its last hidden states (weights in `Distillation`).

    Args:
        network: The `transformers` model inside the PEFT model.
        teacher: Recorded answers.
        weights: Weights of the terms.
        form: What the task asks of the model.
    """

    def __init__(self, network: Any, teacher: Teacher, weights: Distillation, form: Form = CLASSES) -> None:
        self.network = network
        self.teacher = teacher
        self.weights = weights
        self._form = form

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Weighted sum of the three terms."""
        w, t = self.weights, self.weights.temperature
        with last_hidden_states(self.network) as states:
            rows = self._form.rows(model, batch)
        loss = w.cross_entropy * F.cross_entropy(rows, self._form.targets(batch))
        # Hinton et al. 2015: the temperature squared keeps the term's gradient on the scale of the labels'.
        loss = loss + w.kl * t * t * self.teacher.divergence(rows, batch, t)
        hidden = self.teacher.hidden(batch)
        if w.hidden and hidden is not None:
            own = states[-1][batch["attention_mask"].bool()].float()
            loss = loss + w.hidden * (own - hidden).pow(2).mean() / hidden.pow(2).mean()
        return loss

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""
