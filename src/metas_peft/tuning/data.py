"""Texts as token ids, and batches padded only as far as they need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from metas_peft.core.errors import DatasetError

MULTIPLE = 8


class EncodedTexts(Dataset):  # type: ignore[type-arg]
    """Tokenised, labelled texts; each item also carries its index, by which teacher outputs are found.

    Args:
        ids: Token ids of each text, as a training pass reads them.
        labels: What is right, one entry per text: a class number, or a label for each token.
        prompts: Token ids of what is known before an answer is; the texts themselves by default.
    """

    def __init__(
        self, ids: Sequence[list[int]], labels: Sequence[Any], prompts: Sequence[list[int]] | None = None
    ) -> None:
        self.ids = list(ids)
        self.labels = list(labels)
        self.prompts = self.ids if prompts is None else list(prompts)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max((len(ids) for ids in self.ids), default=0)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": self.labels[index], "index": index}


class Batches(Protocol):
    """Makes a batch of items of `EncodedTexts`."""

    @property
    def pad_token_id(self) -> int:
        """Id that fills up."""
        ...

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors `input_ids` and `attention_mask` (B, T), `labels`, and `index` (B,)."""
        ...


@dataclass(frozen=True)
class Collator:
    """Pads a list of items of `EncodedTexts` to tensors on the right.

    Attributes:
        pad_token_id: Id that fills up.
        length: Fixed length, or None for the longest of the batch.
        limit: Tokens of the longest text there can be. Where it is known, the length is rounded up to a multiple of 8,
            not beyond it: kernels are made per shape, and few shapes are soon all made.
    """

    pad_token_id: int
    length: int | None = None
    limit: int | None = None

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors `input_ids`, `attention_mask` (B, T), `labels` and `index` (B,)."""
        longest = max(len(item["input_ids"]) for item in items)
        rounded = longest if self.limit is None else min(-(-longest // MULTIPLE) * MULTIPLE, self.limit)
        width = self.length or max(longest, rounded)
        ids = torch.full((len(items), width), self.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(items):
            n = len(item["input_ids"])
            ids[row, :n] = torch.tensor(item["input_ids"])
            mask[row, :n] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([item["labels"] for item in items]),
            "index": torch.tensor([item["index"] for item in items]),
        }


def random_batches(
    data: EncodedTexts, collator: Batches, batch_size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in random order without end; each pass over the data has an order of its own.

    Raises:
        DatasetError: There are no texts.
    """
    if not len(data):
        raise DatasetError("There are no texts to make batches of.")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(data)).tolist()
        for start in range(0, len(order), batch_size):
            yield collator([data[i] for i in order[start : start + batch_size]])


def batches_by_length(data: EncodedTexts, collator: Batches, batch_size: int) -> Any:
    """All items once, short ones first: for evaluation, where order does not matter."""
    order = np.argsort([len(ids) for ids in data.ids], kind="stable")
    for start in range(0, len(order), batch_size):
        yield collator([data[int(i)] for i in order[start : start + batch_size]])


@torch.no_grad()
def predict(model: Any, data: EncodedTexts, collator: Batches, batch_size: int = 64) -> torch.Tensor:
    """Logits of every item in its own order, shape (N, C), float32."""
    model.eval()
    device = next(model.parameters()).device
    rows: list[torch.Tensor] = []
    where: list[torch.Tensor] = []
    for batch in batches_by_length(data, collator, batch_size):
        where.append(batch["index"])
        inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask")}
        rows.append(model(**inputs).logits.float().cpu())
    logits = torch.cat(rows)
    return logits[torch.argsort(torch.cat(where))]
