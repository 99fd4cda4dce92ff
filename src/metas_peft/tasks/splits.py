"""Seeded slices of a data set: what is trained on, chosen on and evaluated on."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import DataOrigin, DatasetRequest, Task, TaskData, TextExamples

HOLDOUT_MOST = 1000
# Evaluation examples are drawn with a seed of their own: runs with different seeds must be comparable.
EVALUATION_SEED = 0


def assemble(
    task: Task, label_names: tuple[str, ...], train: TextExamples, validation: TextExamples, request: DatasetRequest,
    *, origin: DataOrigin, source: str,
) -> TaskData:  # fmt: skip
    """Apply the limits of a request and hold out a part of the training set, at most 1000 examples.

    Args:
        task: Task whose examples these are.
        label_names: Name of each label index.
        train: The whole training split.
        validation: The whole evaluation split.
        request: Limits, part to hold out, and seed.
        origin: Whether the texts are real.
        source: Where they come from.

    Raises:
        DatasetError: Fewer than two different training texts remain.
    """
    limited = _draw(train, request.train_limit, request.seed)
    kept, held = _hold_out(limited, request.holdout_ratio, request.seed)
    _require_both(kept, held, source)
    evaluation = _draw(validation, request.evaluation_limit, EVALUATION_SEED)
    majority = int(np.bincount(train.labels).argmax())
    metric, chance = next(iter(task.score([majority] * len(evaluation), evaluation.labels).items()))
    return TaskData(task.name, kept, held, evaluation, label_names, origin, source, metric, chance)


def for_choosing(data: TaskData, score: Callable[[Sequence[int], Sequence[int]], dict[str, float]]) -> TaskData:
    """The same data with the held-out part of the training set in the evaluation examples' place.

    Args:
        data: A task's data.
        score: Metrics of predicted label indices, headline first.
    """
    majority = int(np.bincount(data.train.labels + data.holdout.labels).argmax())
    chance = next(iter(score([majority] * len(data.holdout), data.holdout.labels).values()))
    return dataclasses.replace(data, validation=data.holdout, chance_quality=chance)


def cut_evaluation(examples: TextExamples, source: str, ratio: float) -> tuple[TextExamples, TextExamples]:
    """Training and evaluation part of a single file, the latter at most 1000 examples.

    Args:
        examples: All rows.
        source: The file, for messages.
        ratio: Part that is evaluated on.

    Raises:
        DatasetError: Fewer than two different texts.
    """
    kept, held = _hold_out(examples, ratio, EVALUATION_SEED)
    _require_both(kept, held, source)
    return kept, held


def _require_both(kept: TextExamples, held: TextExamples, source: str) -> None:
    if not kept.texts or not held.texts:
        texts = [text.casefold() for text in kept.texts + held.texts]
        raise DatasetError(
            f"{source} has {len(texts)} examples with {len(set(texts))} different texts to train on; at least two are "
            "needed, one to train on and one to choose on."
        )


def _draw(examples: TextExamples, limit: int | None, seed: int) -> TextExamples:
    if limit is None or limit >= len(examples):
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).permutation(len(examples))[:limit]))


def _hold_out(examples: TextExamples, ratio: float, seed: int) -> tuple[TextExamples, TextExamples]:
    """Kept and held-out examples, in their order; all copies of a text fall on the same side."""
    size = min(HOLDOUT_MOST, max(1, round(ratio * len(examples))))
    groups: dict[str, list[int]] = {}
    for index, text in enumerate(examples.texts):
        groups.setdefault(text.casefold(), []).append(index)
    copies = list(groups.values())
    held: set[int] = set()
    order = np.random.default_rng([seed, 1]).permutation(len(copies))
    for group in order:
        if len(held) + len(copies[group]) <= min(size, len(examples) - 1):
            held.update(copies[group])
    if not held and len(copies) > 1:  # every text has more copies than there is room for
        held.update(copies[order[0]])
    return (
        examples.take(i for i in range(len(examples)) if i not in held),
        examples.take(sorted(held)),
    )
