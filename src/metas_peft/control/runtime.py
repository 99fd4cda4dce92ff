"""What a device needs to decide: read a controller, compute its features, walk the tree.

Standard library only.

    controller = from_bytes(Path("controller.bin").read_bytes())
    entropy = token_entropy(token_ids, self_information)
    member = controller.decide(entropy, len(token_ids) / max_length)
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from metas_peft.control.codec import unpack
from metas_peft.control.tree import Controller
from metas_peft.core.errors import CheckpointError


def from_json(text: str) -> Controller:
    """A controller from the text of `controller.json`.

    Raises:
        CheckpointError: Not JSON, of another schema version, or inconsistent.
    """
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"controller.json is not JSON ({error}); write the controller again.") from error
    if not isinstance(data, dict):
        raise CheckpointError("controller.json does not hold an object; write the controller again.")
    return Controller.from_dict(data)  # pyright: ignore[reportUnknownArgumentType] -- JSON objects have text keys


def from_bytes(data: bytes) -> Controller:
    """A controller from its packed form.

    Raises:
        CheckpointError: Truncated, altered, or of another version.
    """
    return unpack(data)


def decide(controller: Controller, token_entropy_nats: float, position: float) -> int:
    """Index of the member to run, see `ControllerTree.decide`."""
    return controller.tree.decide(token_entropy_nats, position)


def token_entropy(token_ids: Sequence[int], self_information: Sequence[float]) -> float:
    """Mean self-information of a sequence under a unigram model (encoders, prefill).

    Args:
        token_ids: Tokens of one sequence, not padded.
        self_information: Nats per vocabulary entry, a list (indexing an array element by element is slow).

    Returns:
        Nats; 0.0 for an empty sequence.
    """
    return sum([self_information[i] for i in token_ids]) / len(token_ids) if token_ids else 0.0


def distribution_entropy(probabilities: Iterable[float]) -> float:
    """Shannon entropy of a next-token distribution in nats (causal decoding)."""
    return -sum(p * math.log(p) for p in probabilities if p > 0.0)
