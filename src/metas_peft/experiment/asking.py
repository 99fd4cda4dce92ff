"""Stages that ask the members: for the evaluation texts, and for those that a controller is learnt from."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.control.features import self_information
from metas_peft.core.errors import CheckpointError
from metas_peft.experiment.control import Asked, build_controller, texts_to_record
from metas_peft.experiment.fronts import DENSE, StoredMember, answers
from metas_peft.experiment.outcome import MethodFront, Outcome
from metas_peft.experiment.state import RunState


def evaluate(state: RunState, dense: StoredMember, fronts: Mapping[str, MethodFront]) -> dict[str, np.ndarray]:
    """Answers of every member to the evaluation texts, by method; `dense` for the dense model."""
    bench, path = state.bench, state.dir / "stages" / "evaluate" / "answers.npz"

    def compute(folder: Path) -> dict[str, Any]:
        found = {DENSE: answers([dense], bench.validation, bench, title="evaluate", progress=state.progress)}
        for name, front in fronts.items():
            found[name] = answers(front.members, bench.validation, bench, title=f"evaluate {name}",
                                  progress=state.progress)  # fmt: skip
        np.savez_compressed(folder / "answers.npz", allow_pickle=False, **found)
        return {}

    state.stages.run("evaluate", compute)
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in (DENSE, *fronts)}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is absent or damaged ({error}). Delete the run's folder and start over."
        ) from error


def control(state: RunState, outcome: Outcome) -> dict[str, Any] | None:
    """Part D, where there is a choice to make and every cost is known."""
    members = outcome.main.members
    costs = [outcome.target.cost(m.subnet.key) for m in members]
    dense_cost = outcome.target.cost(outcome.dense.subnet.key)
    if len(members) < 2 or dense_cost is None or any(cost is None for cost in costs):
        return None
    bench, config = state.bench, state.config.controller

    def compute(folder: Path) -> dict[str, Any]:
        chosen, kind = texts_to_record(bench, config.inputs, state.seed)
        texts, asked = bench.encode(chosen), [outcome.dense, *members]
        dense, *replies = answers(asked, texts, bench, title="controller", progress=state.progress)
        vocabulary = bench.network.config.get_text_config().vocab_size
        found, judge = outcome.answers, bench.judge
        return build_controller(
            members, [c for c in costs if c is not None], dense_cost,
            recorded=Asked.of(judge, texts, chosen.references, np.stack(replies), dense, kind),
            evaluated=Asked.of(
                judge, bench.validation, bench.task.validation.references, found[state.method.name], found[DENSE][0]
            ),
            information=self_information(bench.train.prompts, vocabulary),
            max_length=state.config.dataset.max_length, depth=config.depth, seed=state.seed,
            run_id=state.config.run_id, folder=state.dir,
        )  # fmt: skip

    _, facts = state.stages.run("controller", compute)
    return facts
