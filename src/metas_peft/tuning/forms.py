"""What a task asks of a model: how its examples become tensors, which rows of logits the loss looks at, how to answer.

Everything else about training (the terms of the loss, the teacher, orders, paths, members) is the same for both kinds
of task and knows a task by its `Form` alone.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from metas_peft.tasks.base import Examples
from metas_peft.tuning.data import Batches, Collator, EncodedTexts, predict


class Form(ABC):
    """One kind of task, from examples to answers.

    A *row* is one distribution that the loss compares with one target: a text's classes, or one answer token's
    vocabulary.

    Attributes:
        teacher_width: Largest logits of a row that a teacher's memory keeps; None for all of them.
        texts_per_pass: Texts in a pass without gradients.
        reply_tokens: Tokens that a model may add to a text.
        notes: What a reader of the run's costs must know; sentences for the report.
    """

    teacher_width: int | None
    texts_per_pass: int
    reply_tokens: int
    notes: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, tokenizer: Any, examples: Examples, max_length: int) -> EncodedTexts:
        """Examples as token ids.

        Args:
            tokenizer: A `transformers` tokeniser.
            examples: What the task loaded.
            max_length: Longest sequence of a training pass in tokens.
        """

    @abstractmethod
    def collator(self, pad_token_id: int, length: int | None, limit: int | None = None) -> Batches:
        """What pads training batches, to a fixed length or that of the longest, rounded up to at most a limit."""

    @abstractmethod
    def rows(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """A pass: the logits that the loss looks at, (S, K), float32, in the order of the texts."""

    @abstractmethod
    def targets(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is right in each row, (S,)."""

    @abstractmethod
    def row_counts(self, data: EncodedTexts) -> list[int]:
        """Rows of each text."""

    @abstractmethod
    def answer(self, model: Any, data: EncodedTexts, pad_token_id: int) -> np.ndarray:
        """Predictions of a model for every text, (N,), as the task judges them."""


class ClassForm(Form):
    """One class per text, told by a classification head: one row per text."""

    teacher_width = None
    texts_per_pass = 64
    reply_tokens = 0

    def encode(self, tokenizer: Any, examples: Examples, max_length: int) -> EncodedTexts:
        """Texts with the number of their class; longer ones are cut."""
        ids = tokenizer(list(examples.texts), truncation=True, max_length=max_length)["input_ids"]
        return EncodedTexts(ids, examples.references)

    def collator(self, pad_token_id: int, length: int | None, limit: int | None = None) -> Collator:
        """Padding on the right."""
        return Collator(pad_token_id, length, limit)

    def rows(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The head's logits."""
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()

    def targets(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The classes."""
        return batch["labels"]

    def row_counts(self, data: EncodedTexts) -> list[int]:
        """One each."""
        return [1] * len(data)

    def answer(self, model: Any, data: EncodedTexts, pad_token_id: int) -> np.ndarray:
        """The most likely class of every text."""
        return predict(model, data, Collator(pad_token_id, limit=data.longest), self.texts_per_pass).argmax(-1).numpy()


CLASSES = ClassForm()
