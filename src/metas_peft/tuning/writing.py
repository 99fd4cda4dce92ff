"""Prompts with answers to be written, by a causal language model: the second kind of task (`forms.Form`).

A training sequence is a prompt and its first accepted answer, closed by the tokeniser's end-of-text token. The loss
looks at answer tokens alone: one row per token of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from metas_peft.core.errors import UnsupportedBackboneError
from metas_peft.tasks.base import Examples
from metas_peft.tasks.replies import as_array, left_open
from metas_peft.tuning.data import Collator, EncodedTexts, batches_by_length
from metas_peft.tuning.forms import Form

UNJUDGED = -100  # label of a token that no loss looks at
HEAD_PART = 4  # a prompt that is too long keeps this part of the room for its beginning
PROMPTS_PER_PASS = 16


@dataclass(frozen=True)
class AnswerCollator:
    """Pads sequences and the labels of their tokens on the right.

    Attributes:
        pad_token_id: Id that fills up.
        length: Fixed length, or None for the longest of the batch.
        limit: Tokens of the longest text there can be, as in `Collator`.
    """

    pad_token_id: int
    length: int | None = None
    limit: int | None = None

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors `input_ids`, `attention_mask` and `labels` (B, T), `index` (B,)."""
        batch = Collator(self.pad_token_id, self.length, self.limit)([{**item, "labels": 0} for item in items])
        labels = torch.full_like(batch["input_ids"], UNJUDGED)
        for row, item in enumerate(items):
            labels[row, : len(item["labels"])] = torch.tensor(item["labels"])
        return batch | {"labels": labels}


class WritingForm(Form):
    """Answers written by a language model.

    A teacher keeps the 64 largest logits of an answer token and the weight of all others together: a vocabulary of
    32,000 for every token of a training set does not fit in memory, and running the dense model beside the one in
    training would need a second copy of everything that is trained. The divergence of what is kept is exact on those
    tokens and a lower bound of the whole one.

    Args:
        tokenizer: A `transformers` tokeniser with an end-of-text token.
        max_new_tokens: Tokens of a reply at most; 0 where nothing is written.
        weighs: Whether the likelihood of references is asked for.

    Raises:
        UnsupportedBackboneError: The tokeniser has no token that ends a text.
    """

    teacher_width = 64
    texts_per_pass = PROMPTS_PER_PASS
    notes = (
        "Energy, latency and peak power are those of one pass over evaluation.seq_len tokens (a prefill); writing a "
        "reply takes one more pass per token, which is not in them.",
    )

    def __init__(self, tokenizer: Any, max_new_tokens: int, weighs: bool) -> None:
        if tokenizer.eos_token_id is None:
            raise UnsupportedBackboneError(
                "The tokeniser has no end-of-text token, by which a written answer ends. Set tokenizer.eos_token to "
                "one it knows."
            )
        self._tokenizer = tokenizer
        self._end = int(tokenizer.eos_token_id)
        self._closing = {self._end, tokenizer.sep_token_id}
        self.reply_tokens, self._weighs = max_new_tokens, weighs

    # ---- examples

    def encode(self, tokenizer: Any, examples: Examples, max_length: int) -> EncodedTexts:
        """Prompts with their first accepted answers.

        Where both are too long together, the answer loses its end beyond half of the room, then the prompt its middle:
        an instruction comes first and the question last.
        """
        prompts = [self._open(ids) for ids in tokenizer(list(examples.texts))["input_ids"]]
        firsts = [accepted[0] for accepted in examples.references]
        joined = tokenizer([f"{p} {a}" for p, a in zip(examples.texts, firsts, strict=True)])["input_ids"]
        alone = tokenizer(firsts, add_special_tokens=False)["input_ids"]
        ids: list[list[int]] = []
        labels: list[list[int]] = []
        for prompt, both, answer in zip(prompts, map(self._open, joined), alone, strict=True):
            # The tokens of an answer in its place, where the tokeniser does not merge it with the prompt's end.
            answer = both[len(prompt) :] if both[: len(prompt)] == prompt else answer
            answer = [*answer, self._end][: max(max_length - len(prompt), max_length // 2)]
            prompt = without_middle(prompt, max_length - len(answer))
            ids.append(prompt + answer)
            labels.append([UNJUDGED] * len(prompt) + answer)
        return EncodedTexts(ids, labels, [without_middle(prompt, max_length) for prompt in prompts])

    def _open(self, ids: list[int]) -> list[int]:
        return left_open(ids, self._closing)

    def collator(self, pad_token_id: int, length: int | None, limit: int | None = None) -> AnswerCollator:
        """Padding on the right."""
        return AnswerCollator(pad_token_id, length, limit)

    # ---- training

    def rows(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits of the tokens before each answer token; the head runs on no more of the sequence than it must."""
        judged = batch["labels"][:, 1:] != UNJUDGED
        behind = judged.shape[1] - int(judged.any(0).nonzero()[0])  # positions from the first judged one on
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False,
            logits_to_keep=behind + 1,
        ).logits  # fmt: skip
        return logits[:, -(behind + 1) : -1][judged[:, -behind:]].float()

    def targets(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The answer tokens."""
        labels = batch["labels"][:, 1:]
        return labels[labels != UNJUDGED]

    def row_counts(self, data: EncodedTexts) -> list[int]:
        """Answer tokens of each sequence."""
        return [sum(label != UNJUDGED for label in labels[1:]) for labels in data.labels]

    # ---- evaluation

    def answer(self, model: Any, data: EncodedTexts, pad_token_id: int) -> np.ndarray:
        """Replies to every prompt: written greedily, and the nats per token of the first reference, as asked for."""
        nats = self._nats(model, data, pad_token_id) if self._weighs else None
        texts = self._write(model, data, pad_token_id) if self.reply_tokens else [""] * len(data)
        return as_array(texts, nats)

    @torch.no_grad()
    def _nats(self, model: Any, data: EncodedTexts, pad_token_id: int) -> list[float]:
        """Mean negative log-likelihood per answer token of each text."""
        model.eval()
        device = next(model.parameters()).device
        counts = self.row_counts(data)
        found = [0.0] * len(data)
        for batch in batches_by_length(data, AnswerCollator(pad_token_id, limit=data.longest), self.texts_per_pass):
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            losses = F.cross_entropy(self.rows(model, batch), self.targets(batch), reduction="none")
            places = batch["index"].tolist()
            for place, part in zip(places, losses.split([counts[place] for place in places]), strict=True):
                found[place] = float(part.mean())
        return found

    @torch.no_grad()
    def _write(self, model: Any, data: EncodedTexts, pad_token_id: int) -> list[str]:
        """Greedy replies, batches padded on the left; a reply ends before its end-of-text token."""
        model.eval()
        device = next(model.parameters()).device
        settings = GenerationConfig(
            max_new_tokens=self.reply_tokens, do_sample=False, num_beams=1, use_cache=True,
            eos_token_id=self._end, pad_token_id=pad_token_id,
        )  # fmt: skip
        order = np.argsort([len(ids) for ids in data.prompts], kind="stable")
        texts = [""] * len(data)
        for start in range(0, len(order), self.texts_per_pass):
            places = [int(i) for i in order[start : start + self.texts_per_pass]]
            inputs = padded_on_the_left([data.prompts[i] for i in places], pad_token_id)
            inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            written = model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :].tolist()
            for place, ids in zip(places, written, strict=True):
                ids = ids[: ids.index(self._end)] if self._end in ids else ids
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                texts[place] = text.replace("\0", "").strip()  # arrays of texts lose a zero at the end
        return texts


def without_middle(ids: list[int], length: int) -> list[int]:
    """At most so many token ids: the first quarter of the room from the beginning, the rest from the end."""
    if len(ids) <= length:
        return ids
    head = length // HEAD_PART
    return ids[:head] + ids[len(ids) - (length - head) :]


def padded_on_the_left(sequences: Sequence[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Tensors `input_ids` and `attention_mask` (B, T) of prompts that all end at the last place."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    return {"input_ids": ids, "attention_mask": mask}
