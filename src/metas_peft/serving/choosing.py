"""Who answers: the same member always, or the one that the controller chooses from the input."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from metas_peft.control.features import next_token_entropy
from metas_peft.control.runtime import token_entropy
from metas_peft.control.tree import Controller
from metas_peft.core.errors import CheckpointError
from metas_peft.serving.folder import INFORMATION
from metas_peft.serving.front import ServedFront, ServedMember

US_PER_S = 1e6


@dataclass(frozen=True)
class Decision:
    """Which member serves, and why.

    Attributes:
        member: The member.
        entropy_nats: First feature; None where nothing was decided.
        position: Second feature; None where nothing was decided.
        decision_us: Wall time of features and tree, microseconds; None where nothing was decided.
    """

    member: ServedMember
    entropy_nats: float | None = None
    position: float | None = None
    decision_us: float | None = None


class Chooser(Protocol):
    """What names a member for a text, and for each token after it."""

    @property
    def members(self) -> list[ServedMember]:
        """All that may be chosen."""
        ...

    def for_text(self, token_ids: Sequence[int]) -> Decision:
        """The member for a text of these tokens, not padded."""
        ...

    def for_next(self, logits: torch.Tensor, index: int) -> Decision:
        """The member for the token that was just drawn from logits (V,), the text's `index`-th."""
        ...


class Always:
    """The same member, whatever the input."""

    def __init__(self, member: ServedMember) -> None:
        self.members, self._decision = [member], Decision(member)

    def for_text(self, token_ids: Sequence[int]) -> Decision:
        """The member."""
        return self._decision

    def for_next(self, logits: torch.Tensor, index: int) -> Decision:
        """The member."""
        return self._decision


class ByController:
    """The controller's choice, from mean self-information or entropy, and place.

    Args:
        front: Whose members are chosen.
        controller: Chooses.
        information: Nats per vocabulary entry, which the first feature of a text is the mean of.

    Raises:
        CheckpointError: The controller chooses members that the front has not, or its features cannot be computed.
    """

    def __init__(self, front: ServedFront, controller: Controller, information: Sequence[float]) -> None:
        if not controller.max_length:
            raise CheckpointError(
                "The controller does not say at how many tokens its position is 1 (max_length). Write it again, or "
                "name a member."
            )
        vocabulary = front.config.get_text_config().vocab_size
        if len(information) < vocabulary:
            raise CheckpointError(
                f"The controller's features need the self-information of {vocabulary} tokens, seen {len(information)}. "
                f"Take {INFORMATION} from the folder of the run."
            )
        known = {member.key: member for member in front}
        missing = [s.key for s in controller.members if s.key not in known]
        if missing:
            raise CheckpointError(
                f"The controller chooses among members that this front has not ({', '.join(missing[:3])}). Use the "
                "controller of the same run."
            )
        self._known = [known[subnet.key] for subnet in controller.members]
        self._controller, self._information, self._max_length = controller, information, controller.max_length

    @property
    def members(self) -> list[ServedMember]:
        """Those at the leaves of its tree."""
        return [self._known[i] for i in self._controller.tree.members_used]

    def for_text(self, token_ids: Sequence[int]) -> Decision:
        """From the mean self-information of the tokens and their number."""
        started = time.perf_counter()
        return self._decide(started, token_entropy(token_ids, self._information), len(token_ids))

    def for_next(self, logits: torch.Tensor, index: int) -> Decision:
        """From the entropy of the distribution that the token was drawn from and its place."""
        started = time.perf_counter()
        return self._decide(started, float(next_token_entropy(logits.numpy())), index)

    def _decide(self, started: float, entropy: float, place: int) -> Decision:
        position = place / self._max_length
        index = self._controller.decide(entropy, position)
        spent = (time.perf_counter() - started) * US_PER_S
        return Decision(self._known[index], entropy, position, spent)
