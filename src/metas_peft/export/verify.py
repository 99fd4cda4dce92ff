"""Whether an artefact answers as the model that it was made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metas_peft.core.errors import ExportError

Batch = Mapping[str, torch.Tensor]
Runner = Callable[[Batch], np.ndarray]
# (batch, length) of the trial inputs: no multiple of anything, so that a size taken for a constant comes to light.
TRIALS = ((1, 8), (3, 13), (2, 5))
BOUNDS = {32: 1e-4, 16: 2e-2}  # fewer bits change the answers; by how much is told, not judged


@dataclass(frozen=True)
class Agreement:
    """How an artefact's answers compare with the model's, on random inputs.

    Attributes:
        gap: Largest difference between logits.
        scale: Largest logit of the model.
        same_choice: Fraction of positions at which both have the same largest logit.
    """

    gap: float
    scale: float
    same_choice: float


def trial_batches(model: Any, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random tokens of several sizes, padded on the right."""
    config = model.config.get_text_config()
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for batch, length in TRIALS:
        ids = torch.randint(3, config.vocab_size, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(1, batch):
            ids[row, length - row :], mask[row, length - row :] = pad, 0
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def runner(model: Any) -> Runner:
    """What gives a torch model's logits as numbers."""

    def run(batch: Batch) -> np.ndarray:
        with torch.no_grad():
            return model(**batch).logits.float().numpy()

    return run


def compare(model: Any, run: Runner, seed: int = 0) -> Agreement:
    """Run a model and something made of it on the same inputs.

    Args:
        model: Module with `config`, whose output has `logits`.
        run: Gives the artefact's logits for a batch.
        seed: Seed of the inputs.

    Raises:
        ExportError: The artefact gives logits of another shape.
    """
    gap, scale, same, total = 0.0, 0.0, 0, 0
    for batch in trial_batches(model, seed):
        expected = runner(model)(batch)
        found = np.asarray(run(batch), dtype=np.float32)
        if found.shape != expected.shape:
            raise ExportError(f"The artefact gives logits of shape {found.shape}, the model {expected.shape}.")
        # Answers at padding are nobody's business.
        real = batch["attention_mask"].bool().numpy() if found.ndim == 3 else np.ones(len(found), dtype=bool)
        # A maximum would pass over what is no number.
        gap = max(gap, float(np.abs(found - expected)[real].max())) if np.isfinite(found[real]).all() else np.inf
        scale = max(scale, float(np.abs(expected[real]).max()))
        same += int((found.argmax(-1) == expected.argmax(-1))[real].sum())
        total += int(real.sum())
    return Agreement(gap, scale, same / total)


def check(agreement: Agreement, what: str, bits: int = 32) -> Agreement:
    """Refuse an artefact that does not answer as its model does.

    Args:
        agreement: The comparison.
        what: What it is, for the message.
        bits: Width of its weights; below 16 only answers that are no numbers are refused, the rest is reported.

    Raises:
        ExportError: The logits differ by more than the number format explains.
    """
    bound = BOUNDS.get(bits, float("inf")) * max(1.0, agreement.scale)
    if not np.isfinite(agreement.gap) or agreement.gap > bound:
        raise ExportError(
            f"{what} answers differently from the model (logits differ by {agreement.gap:.3g}, at most {bound:.3g} was "
            "expected). It was not kept; please report the model's architecture."
        )
    return agreement
