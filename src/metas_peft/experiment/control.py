"""Part D: record the policy, distil it into a tree, and find out what the tree is worth."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft import pareto
from metas_peft.control import assess, c_header, codec
from metas_peft.control.distil import Distilled, Recorded, distil
from metas_peft.control.features import sequence_features, write_information
from metas_peft.control.policy import cheapest_agreeing
from metas_peft.control.tree import Controller, run_tag
from metas_peft.core.cost import Cost
from metas_peft.core.errors import ControllerTooLargeError
from metas_peft.core.files import write_json, write_text
from metas_peft.experiment.fronts import StoredMember
from metas_peft.experiment.workbench import Workbench
from metas_peft.tasks import Task
from metas_peft.tasks.base import Examples
from metas_peft.tasks.splits import draw
from metas_peft.tuning.data import EncodedTexts

HOLDOUT, TRAINING = "held-out", "training"
FEWEST = 100  # held-out texts; fewer say too little, and training texts take their place
INFORMATION = "self_information.f32"


@dataclass(frozen=True)
class Asked:
    """Texts and what was answered.

    Attributes:
        texts: Token ids of what is known before an answer is, N of them.
        given: What each member's answer comes to, (M, N): equal entries are the same answer.
        right: How good each member's answer is, (M, N): 1 where it is right, or a mark in [0, 1].
        dense_right: The same for the dense model, (N,).
        quality: Headline metric of each member, length M.
        kind: `held-out` or `training`; empty for evaluation texts.
    """

    texts: Sequence[list[int]]
    given: np.ndarray
    right: np.ndarray
    dense_right: np.ndarray
    quality: tuple[float, ...]
    kind: str = ""

    @classmethod
    def of(
        cls, judge: Task, texts: EncodedTexts, references: Sequence[Any], answers: np.ndarray,
        dense: np.ndarray, kind: str = "",
    ) -> "Asked":  # fmt: skip
        """Predictions as their task judges them.

        Args:
            judge: The task.
            texts: N texts.
            references: What is right, length N.
            answers: Predictions of each member, (M, N).
            dense: Predictions of the dense model, (N,).
            kind: `held-out` or `training`; empty for evaluation texts.
        """
        return cls(
            texts=texts.prompts,
            given=np.stack([judge.given(row) for row in answers]),
            right=np.stack([judge.marks(row, references) for row in answers]),
            dense_right=judge.marks(dense, references),
            quality=tuple(next(iter(judge.score(row, references).values())) for row in answers),
            kind=kind,
        )


def texts_to_record(bench: Workbench, count: int, seed: int) -> tuple[Examples, str]:
    """Examples on which members are watched, and what kind they are.

    Members know the training texts: there the small ones are as good as the large ones, and nothing can be learnt about
    whom to send where. So held-out texts are taken, unless there are too few or the run is evaluated on them.

    Args:
        bench: The run's texts.
        count: Texts at most.
        seed: Chooses among them.
    """
    held = bench.task.holdout
    if len(held) < FEWEST or bench.config.evaluation.split == "holdout":
        return draw(bench.task.train, count, seed), TRAINING
    return draw(held, count, seed), HOLDOUT


def build_controller(
    members: Sequence[StoredMember], costs: Sequence[Cost[float]], dense_cost: Cost[float], *, recorded: Asked,
    evaluated: Asked, information: np.ndarray, max_length: int, depth: int, seed: int, run_id: str,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Fit, store and assess the controller; returns the `controller` part of the results.

    Quality is the share of right answers (or their mean mark) throughout, whatever the task's headline metric is: it is
    what single inputs can be told apart by.

    Args:
        members: The front, largest first.
        costs: Measured cost of each member.
        dense_cost: Measured cost of the dense model.
        recorded: Inputs that the controller is learnt from.
        evaluated: Inputs on which it is scored.
        information: Nats per vocabulary entry of a unigram model of the training set, (V,).
        max_length: Tokens at which the position is 1.
        depth: Depth of the tree.
        seed: Deals the recorded inputs into parts.
        run_id: Run the controller belongs to.
        folder: Where `controller.json`, `controller.h` and `self_information.f32` go.
    """
    prices, dense_price = np.array([_row(c) for c in costs]), np.array(_row(dense_cost))
    seen = Recorded(*sequence_features(recorded.texts, information, max_length), recorded.right, recorded.dense_right)
    made = distil(seen, prices, dense_price, depth=depth, seed=seed)
    names = tuple(member.name for member in members)
    controller = Controller(made.tree, tuple(m.subnet for m in members), run_tag(run_id), names, max_length)
    entropy, position = sequence_features(evaluated.texts, information, max_length)
    order = [int(i) for i in np.argsort(prices[:, 1], kind="stable")]
    yardstick = pareto.Yardstick(float(evaluated.dense_right.mean()), dense_price, 0.0)
    result = assess.assess(
        evaluated.right,
        prices,
        assess.Choices(
            policy=made.policy.choose(entropy, position),
            tree=assess.decide_all(made.tree, entropy, position),
            static=np.full(len(entropy), made.static),
            hindsight=cheapest_agreeing(evaluated.given, order),
        ),
        volume=functools.partial(pareto.volume, yardstick=yardstick),
        names=names,
    )
    longest = max(evaluated.texts, key=len)
    timing = assess.time_decision(controller, longest, information.tolist(), max_length)
    notes = [_verdict(made, names, recorded), result.note]
    try:
        size: int | None = len(codec.pack(controller))
    except ControllerTooLargeError as error:
        size = None
        notes.append(str(error))
    header = c_header.render(controller)
    write_information(folder / INFORMATION, information)
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
        "routing": {
            "pays": made.pays,
            "gain": made.gain,
            "gain_standard_error": made.gain_error,
            "static_member": names[made.static],
        },
        "usage": dict(zip(names, result.tree.usage, strict=True)),
        "quality": result.tree.quality,
        "policy_quality": result.policy.quality,
        "static_quality": result.static.quality,
        "hindsight_quality": result.hindsight.quality,
        "volumes": dict(result.volumes),
        "recorded_inputs": len(recorded.texts),
        "recorded_texts": recorded.kind,
        "recorded_quality": {name: quality for name, quality in zip(names, recorded.quality, strict=True)},
        "note": " ".join(note for note in notes if note),
    }


def _row(cost: Cost[float]) -> list[float]:
    return [value for _, value in cost.items()]


def _verdict(made: Distilled, names: Sequence[str], recorded: Asked) -> str:
    """Whether routing pays, in a sentence."""
    alone = names[made.static]
    texts = f"{len(recorded.texts)} {recorded.kind} texts"
    if made.gain is None or made.gain_error is None:
        return f"From {texts} it cannot be told whether routing pays: every input goes to member {alone}."
    told = (
        f"On {texts}, each judged by a tree that was not fitted to it, routing changed the volume of the best single "
        f"member by {made.gain:+.4f} (standard error {made.gain_error:.4f})"
    )
    return f"{told}." if made.pays else f"{told}. That does not pay: every input goes to member {alone}."
