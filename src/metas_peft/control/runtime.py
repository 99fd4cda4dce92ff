"""What a device needs to decide: read a controller, compute its features, walk the tree.

Standard library only.

    controller = from_json(Path("controller.json").read_text())
    information = read_information(Path("self_information.f32"))
    entropy = token_entropy(token_ids, information)
    member = controller.decide(entropy, len(token_ids) / controller.max_length)

A decoder's step is steered by the entropy of what the step before it said: `logits_entropy`, and the token's index over
the maximum length.
"""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
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


def logits_entropy(logits: Sequence[float]) -> float:
    """Shannon entropy in nats of the distribution that logits stand for (causal decoding)."""
    top = max(logits)
    shifted = [value - top for value in logits]
    weights = [math.exp(value) for value in shifted]
    total = sum(weights)
    entropy = math.log(total) - sum([w * v for w, v in zip(weights, shifted, strict=True) if w > 0.0]) / total
    return 0.0 if entropy <= 0.0 else entropy  # rounding may go below; what is no number stays that


def read_information(path: Path) -> list[float]:
    """Nats per vocabulary entry from `self_information.f32`.

    Raises:
        CheckpointError: The file is absent, or no list of 32-bit floats.
    """
    try:
        table = array("f", path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as 32-bit floats ({error}). Take it from the folder of the run again."
        ) from error
    if sys.byteorder == "big":
        table.byteswap()
    if not table or not all(map(math.isfinite, table)):
        raise CheckpointError(f"{path} is empty or holds what is no number. Take it from the folder of the run again.")
    return table.tolist()
