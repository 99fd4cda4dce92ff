"""Seeded slices of a data set: what is trained on, chosen on and evaluated on."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import DataOrigin, DatasetRequest, Examples, Task, TaskData
from metas_peft.tasks.hub import SplitColumns
from metas_peft.tasks.tables import Columns

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=Examples)

HOLDOUT_MOST = 1000
# Evaluation examples are drawn with a seed of their own: runs with different seeds must be comparable.
EVALUATION_SEED = 0


def assemble(
    task: Task, label_names: tuple[str, ...], train: Examples, validation: Examples, request: DatasetRequest,
    *, origin: DataOrigin, source: str, notes: tuple[str, ...] = (),
) -> TaskData:  # fmt: skip
    """Apply the limits of a request and hold out a part of the training set, at most 1000 examples.

    Args:
        task: Task whose examples these are.
        label_names: Name of each label index; empty where answers are written.
        train: The whole training split.
        validation: The whole evaluation split.
        request: Limits, part to hold out, and seed.
        origin: Whether the texts are real.
        source: Where they come from.
        notes: Sentences for the report.

    Raises:
        DatasetError: Fewer than two different training texts remain.
    """
    limited = draw(train, request.train_limit, request.seed)
    kept, held = _hold_out(limited, request.holdout_ratio, request.seed)
    _require_both(kept, held, source)
    evaluation = draw(validation, request.evaluation_limit, EVALUATION_SEED)
    metric, chance = _chance(task, train.references, evaluation)
    return TaskData(task.name, kept, held, evaluation, label_names, origin, source, metric, chance, notes)


def for_choosing(data: TaskData, task: Task) -> TaskData:
    """The same data with the held-out part of the training set in the evaluation examples' place.

    Args:
        data: A task's data.
        task: The task.
    """
    _, chance = _chance(task, [*data.train.references, *data.holdout.references], data.holdout)
    return dataclasses.replace(data, validation=data.holdout, chance_quality=chance)


def _chance(task: Task, known: Sequence[Any], examples: Examples) -> tuple[str, float]:
    """Headline metric and its value for the most frequent known answer to everything."""
    guesses = task.guess(known, len(examples))
    return next(iter(task.score(guesses, examples.references).items()))


def cut_evaluation(examples: E, source: str, ratio: float) -> tuple[E, E]:
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


def both_parts(
    splits: SplitColumns, examples: Callable[[Columns, str], E], ratio: float
) -> tuple[E, E, str]:  # fmt: skip
    """Training and evaluation examples of tables, and where they come from; of one table a part is held back.

    Args:
        splits: What was found.
        examples: Makes examples of columns, given where they come from.
        ratio: Part of a single table that is evaluated on.
    """
    train = examples(splits.train, splits.train_where)
    if splits.evaluation is not None:
        return train, examples(splits.evaluation, splits.evaluation_where), splits.where
    train, validation = cut_evaluation(train, splits.train_where, ratio)
    logger.info("%s is one table: %d of its rows are held back for evaluation.", splits.where, len(validation))
    return train, validation, f"{splits.where} ({len(validation)} rows held back)"


def _require_both(kept: Examples, held: Examples, source: str) -> None:
    if not kept.texts or not held.texts:
        texts = [text.casefold() for text in kept.texts + held.texts]
        raise DatasetError(
            f"{source} has {len(texts)} examples with {len(set(texts))} different texts to train on; at least two are "
            "needed, one to train on and one to choose on."
        )


def draw(examples: E, limit: int | None, seed: int) -> E:
    """At most so many examples, a seeded choice in their own order."""
    if limit is None or limit >= len(examples):
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).permutation(len(examples))[:limit]))


def _hold_out(examples: E, ratio: float, seed: int) -> tuple[E, E]:
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
