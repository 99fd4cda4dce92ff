"""A model that chooses a member of its front per input, or per token.

    model = AdaptiveModel.open("outputs/demo")
    answer = model("a fine film")                   # answer.label, .probability, .member
    answers = model.predict(texts, batch_size=32)   # grouped by member inside, given back in their order
    for token in model.stream("Once upon a time"):  # causal language models
        print(token.text, end="")

The controller decides before a pass, from the input alone: for a classifier and for a prompt from the mean
self-information of the tokens and their number, for each further token from the entropy of the distribution that it was
drawn from and its place.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.control.tree import Controller
from metas_peft.core.errors import UnknownNameError, UnsupportedBackboneError, UsageError
from metas_peft.serving.choosing import Always, ByController, Chooser, Decision
from metas_peft.serving.decoding import Switching
from metas_peft.serving.folder import member_folders, read_controller, read_features, read_results, read_tokenizer
from metas_peft.serving.front import ServedFront, ServedMember
from metas_peft.tasks.replies import left_open

PAD = 0  # stands where the mask says that nothing is read, if a tokeniser has no token for it


@dataclass(frozen=True)
class Answer:
    """A classifier's answer.

    Attributes:
        label: Name of the likeliest class.
        probability: Its probability.
        member: Name of the member that answered.
        decision_us: Time of the decision, microseconds; None where a member was named.
        logits: One per class, (C,), float32.
    """

    label: str
    probability: float
    member: str
    decision_us: float | None
    logits: torch.Tensor


@dataclass(frozen=True)
class Token:
    """A generated token.

    Attributes:
        token_id: Its id.
        text: What it adds to the text; empty until a character is whole.
        member: Name of the member whose pass it was drawn from.
        decision_us: Time of that member's choice, microseconds; None where a member was named.
        fill_flops: What that pass spent, per token, on keys and values for other members.
    """

    token_id: int
    text: str
    member: str
    decision_us: float | None
    fill_flops: int


class AdaptiveModel:
    """A served front with the controller that chooses in it.

    Args:
        front: The front.
        tokenizer: `transformers` tokeniser of its backbone.
        controller: Chooses; None where every call names a member (or there is only one).
        information: Nats per vocabulary entry, which the controller's first feature is the mean of.
        max_length: Tokens at which a text is cut; by default the controller's, else what the model can read.

    Raises:
        CheckpointError: The controller chooses members that the front has not, or its features cannot be computed.
    """

    def __init__(
        self,
        front: ServedFront,
        tokenizer: Any,
        controller: Controller | None = None,
        information: Sequence[float] = (),
        *,
        max_length: int | None = None,
    ) -> None:
        self.front, self.tokenizer, self.controller = front, tokenizer, controller
        self._by_controller = None if controller is None else ByController(front, controller, information)
        if controller is not None:
            max_length = max_length or controller.max_length
        self.max_length = max_length or front.longest
        self._switching: dict[tuple[str, ...], Switching] = {}
        # Members take turns in one set of modules, so that threads have to.
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu", pinned: bool = False) -> "AdaptiveModel":
        """Load the front and the controller of a finished run.

        Args:
            folder: Such as `outputs/demo`.
            device: Where the weights go.
            pinned: Whether every call will name a member; then nothing is asked of the controller.

        Raises:
            CheckpointError: No finished run, no front, a damaged member, no tokeniser, or a controller that is
                missing, damaged or of another run.
        """
        folder = Path(folder)
        results = read_results(folder)
        controller, information = None, []
        # First what is quickly read, so that mistakes are told before weights are loaded.
        if not pinned and len(results["front"]) > 1:
            controller = read_controller(folder, str(results.get("run_id", "")))
            information = read_features(folder)
        tokenizer = read_tokenizer(next(iter(member_folders(folder, results).values())))
        return cls(ServedFront.open(folder, device=device), tokenizer, controller, information)

    # ---- choosing

    def decide(self, token_ids: Sequence[int]) -> Decision:
        """The member for a text.

        Args:
            token_ids: Its tokens, not padded.

        Raises:
            UnknownNameError: There is no controller, and more than one member.
        """
        return self._chooser(None).for_text(token_ids)

    def _chooser(self, member: str | None) -> Chooser:
        if member is not None:
            return Always(self.front[member])
        if self._by_controller is not None:
            return self._by_controller
        if len(self.front) > 1:
            raise UnknownNameError(
                "There is no controller to choose a member; name one of "
                f"{', '.join(member.name for member in self.front)}."
            )
        return Always(self.front.largest)

    # ---- classifying

    def __call__(self, text: str, *, member: str | None = None) -> Answer:
        """Answer one text.

        Args:
            text: The text.
            member: Name or key of the member to ask; the controller chooses if absent.
        """
        return self.predict([text], member=member)[0]

    def predict(self, texts: str | Sequence[str], *, member: str | None = None, batch_size: int = 32) -> list[Answer]:
        """Answer texts, each by the member that is chosen for it; those of one member go in batches.

        Args:
            texts: The texts; a single one may stand by itself.
            member: Name or key of the member to ask; the controller chooses if absent.
            batch_size: Most texts per pass.

        Returns:
            One answer per text, in their order.

        Raises:
            UnknownNameError: There is no such member.
            UsageError: A text has no tokens, or one that the model does not know.
            UnsupportedBackboneError: The model generates text instead.
        """
        if self.front.generates:
            raise UnsupportedBackboneError("This model generates text and gives no classes. Use `stream`.")
        if not texts:
            return []
        texts = [texts] if isinstance(texts, str) else list(texts)
        with self._turn:
            encoded = self.tokenizer(texts, truncation=self.max_length is not None, max_length=self.max_length)
        ids = encoded["input_ids"]
        for tokens in ids:
            self._require_readable(tokens)
        chooser = self._chooser(member)
        decisions = [chooser.for_text(tokens) for tokens in ids]
        groups: dict[str, list[int]] = {}
        for index in sorted(range(len(ids)), key=lambda i: len(ids[i])):  # like lengths together: less padding
            groups.setdefault(decisions[index].member.key, []).append(index)
        answers: dict[int, Answer] = {}
        for indices in groups.values():
            for start in range(0, len(indices), batch_size):
                chosen = indices[start : start + batch_size]
                logits = self._logits(decisions[chosen[0]].member, [ids[i] for i in chosen])
                answers |= {i: self._answer(row, decisions[i]) for i, row in zip(chosen, logits, strict=True)}
        return [answers[i] for i in range(len(ids))]

    def _logits(self, member: ServedMember, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        device = self.front.device
        pad = PAD if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        width = max(len(tokens) for tokens in ids)
        padded = torch.tensor([[*tokens, *[pad] * (width - len(tokens))] for tokens in ids], device=device)
        lengths = torch.tensor([len(tokens) for tokens in ids], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        with self._turn:
            self.front.activate(member.name)
            return self.front(input_ids=padded, attention_mask=mask).logits.float().cpu()

    def _require_readable(self, ids: Sequence[int]) -> None:
        """Refuse what has no tokens, or tokens that the model has no embedding of."""
        if not ids:
            raise UsageError("A text has no tokens, so that there is nothing to answer. Give one with words.")
        vocabulary = self.front.config.get_text_config().vocab_size
        unknown = [token for token in ids if not 0 <= token < vocabulary]
        if unknown:
            raise UsageError(
                f"The model knows the tokens 0 to {vocabulary - 1}, seen {unknown[0]}. Use its backbone's tokeniser."
            )

    def _answer(self, logits: torch.Tensor, decision: Decision) -> Answer:
        probability, index = logits.softmax(-1).max(-1)
        label = self.front.labels[int(index)]
        return Answer(label, float(probability), decision.member.name, decision.decision_us, logits)

    # ---- generating

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 64,
        member: str | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[Token]:
        """Generate a text token by token; the controller chooses a member for the prompt and for each token.

        Args:
            prompt: Text, or its token ids.
            max_new_tokens: Most tokens to generate; it also ends with the model's end token or its longest text.
            member: Name or key of the member to ask throughout; the controller chooses if absent.
            temperature: 0 takes the likeliest token; above, tokens are drawn.
            seed: Seed of the draws.

        Raises:
            UnknownNameError: There is no such member.
            UsageError: The prompt has no tokens, one that the model does not know, or leaves no place for another.
            UnsupportedBackboneError: The model does not generate text, or its members cannot take turns.
            SubnetError: No member that the controller chooses contains the others.
        """
        chooser = self._chooser(member)
        with self._turn:
            switching = self._taking_turns(chooser.members)
            ids = self._opened(prompt) if isinstance(prompt, str) else [int(t) for t in prompt]
        self._require_readable(ids)
        longest = self.front.config.get_text_config().max_position_embeddings
        if len(ids) >= longest:
            raise UsageError(
                f"The prompt has {len(ids)} tokens and the model reads {longest}, so that no place is left to write "
                "in. Give a shorter one."
            )
        return self._generate(ids, switching, chooser, max_new_tokens, temperature, seed)

    def _opened(self, prompt: str) -> list[int]:
        """A prompt's tokens as a model is trained on them: without those that close a text."""
        closing = {*self.front.end_tokens, self.tokenizer.eos_token_id, self.tokenizer.sep_token_id}
        return left_open(self.tokenizer(prompt)["input_ids"], closing)

    def _taking_turns(self, members: list[ServedMember]) -> Switching:
        """The members that may be chosen, on one cache; made once."""
        key = tuple(m.key for m in members)
        if key not in self._switching:
            self._switching[key] = Switching(self.front, members)
        return self._switching[key]

    def _generate(
        self, ids: list[int], switching: Switching, chooser: Chooser, limit: int, temperature: float, seed: int
    ) -> Iterator[Token]:
        config = self.front.config.get_text_config()
        device = self.front.device
        ends = self.front.end_tokens
        generator = torch.Generator().manual_seed(seed)
        cache, tokens, begun, shown = switching.cache(), list(ids), len(ids), ""
        decision = chooser.for_text(ids)
        waiting = ids
        for _ in range(min(limit, config.max_position_embeddings - begun)):
            logits = switching.step(torch.tensor([waiting], device=device), cache, decision.member).cpu()
            token = _draw(logits, temperature, generator)
            tokens.append(token)
            whole = self.tokenizer.decode(tokens[begun:], skip_special_tokens=True)
            piece = "" if whole.endswith("\ufffd") else whole[len(shown) :]
            shown += piece
            served = decision.member
            yield Token(token, piece, served.name, decision.decision_us, switching.fill_flops(served))
            if token in ends:
                return
            waiting = [token]
            decision = chooser.for_next(logits, len(tokens) - 1)


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
