"""Part D: record the policy, distil it into a tree, and find out what the tree is worth."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.control import assess, c_header, codec
from metas_peft.control.features import sequence_features
from metas_peft.control.fit import fit
from metas_peft.control.policy import cheapest_agreeing
from metas_peft.control.tree import Controller, run_tag
from metas_peft.core.errors import ControllerTooLargeError
from metas_peft.core.files import write_json, write_text
from metas_peft.core.records import Cost
from metas_peft.experiment.fronts import StoredMember
from metas_peft.tuning.data import EncodedTexts


@dataclass(frozen=True)
class Asked:
    """Texts and what every member answered.

    Attributes:
        texts: N texts.
        answers: Classes, (M, N).
    """

    texts: EncodedTexts
    answers: np.ndarray


def build_controller(
    members: Sequence[StoredMember], costs: Sequence[Cost[float]], *, recorded: Asked, evaluated: Asked,
    information: np.ndarray, max_length: int, depth: int, seed: int, run_id: str, yardstick: pareto.Yardstick,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Fit, store and assess the controller; returns the `controller` part of the results.

    Args:
        members: The front, largest first.
        costs: Measured cost of each member.
        recorded: Inputs whose policy choices are learnt (training texts).
        evaluated: Inputs on which the controller is scored.
        information: Nats per vocabulary entry of a unigram model of the training set, (V,).
        max_length: Tokens at which the position is 1.
        depth: Depth of the tree.
        seed: Seed of the tree.
        run_id: Run the controller belongs to.
        yardstick: Against which volumes are measured.
        folder: Where `controller.json` and `controller.h` go.
    """
    order = [int(i) for i in np.argsort([c.latency_ms for c in costs], kind="stable")]
    choice = cheapest_agreeing(recorded.answers, order)
    tree = fit(*sequence_features(recorded.texts.ids, information, max_length), choice, depth=depth, seed=seed)
    names = tuple(member.name for member in members)
    controller = Controller(tree, tuple(m.subnet for m in members), run_tag(run_id), names)
    entropy, position = sequence_features(evaluated.texts.ids, information, max_length)
    result = assess.assess(
        correct=evaluated.answers == np.array(evaluated.texts.labels)[None],
        costs=np.array([[c.energy_j, c.latency_ms, c.peak_power_w] for c in costs]),
        policy_choice=cheapest_agreeing(evaluated.answers, order),
        tree_choice=assess.decide_all(tree, entropy, position),
        volume=functools.partial(pareto.volume, yardstick=yardstick),
    )
    longest = max(evaluated.texts.ids, key=len)
    timing = assess.time_decision(controller, longest, information.tolist(), max_length)
    note = result.note
    try:
        size: int | None = len(codec.pack(controller))
    except ControllerTooLargeError as error:
        size, note = None, f"{note} {error}".strip()
    header = c_header.render(controller)
    write_json(folder / "controller.json", controller.as_dict())
    write_text(folder / "controller.h", header)
    return {
        "bytes": size,
        "c_header_bytes": len(header.encode()),
        "decision_us": timing.decision_us,
        "tree_us": timing.tree_us,
        "decision_tokens": timing.tokens,
        "hypervolume_kept": result.hypervolume_kept,
        "agreement": result.agreement,
        "degenerate": result.degenerate,
        "usage": dict(zip(names, result.tree.usage, strict=True)),
        "quality": result.tree.quality,
        "policy_quality": result.policy.quality,
        "recorded_inputs": len(recorded.texts),
        "note": note,
    }
