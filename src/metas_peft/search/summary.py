"""What a study found: trials, the best of them, and how much each key mattered."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from metas_peft.conf import to_dict, values, yaml12
from metas_peft.core.files import write_text
from metas_peft.search.study import Search
from metas_peft.search.worker import ERROR

logger = logging.getLogger(__name__)

SUMMARY, BEST = "search.json", "best.yaml"
IMPORTANCE_METHOD = "fANOVA"
FEWEST_FOR_IMPORTANCE = 4


def summarise(search: Search) -> dict[str, Any]:
    """The study as JSON: counts, best trials, importance of keys per objective, every trial."""
    trials = search.trials()
    states = {state.name.lower(): sum(t.state is state for t in trials) for state in TrialState}
    return {
        "study": search.study.study_name,
        "method": search.config.method,
        "objectives": dict(zip(search.objectives, search.directions, strict=True)),
        "judged_on": "holdout",
        "sampler": search.config.optuna.sampler,
        "pruner": search.config.optuna.pruner,
        "repeats": search.config.optuna.repeats,
        "n_trials": search.n_trials,
        "states": states,
        "best": [_row(search, t) for t in search.best()],
        "importance": {name: _importance(search, i) for i, name in enumerate(search.objectives)},
        "importance_method": IMPORTANCE_METHOD,
        "trials": [_row(search, t) for t in trials],
    }


def _row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": dict(zip(search.objectives, trial.values, strict=True)) if trial.values else None,
        "params": dict(trial.params),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
    }
    return row | ({"error": trial.user_attrs[ERROR]} if ERROR in trial.user_attrs else {})


def _importance(search: Search, index: int) -> dict[str, float] | None:
    """Share of each key in the variation of one objective, largest first; None where the trials cannot tell."""
    finished = [t for t in search.trials() if t.state is TrialState.COMPLETE]
    found = [t.values[index] for t in finished]
    if len(found) < FEWEST_FOR_IMPORTANCE or min(found) == max(found):
        return None
    shares = optuna.importance.get_param_importances(
        search.study,
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=search.config.training.seed),
        target=lambda t: t.values[index],
    )
    return {path: float(share) for path, share in shares.items() if math.isfinite(share)}


def write_best(search: Search) -> Path | None:
    """The best trial as a run file that is evaluated on the evaluation examples; None where no trial finished.

    Of several objectives, the trial that is best in the first one.
    """
    best = search.best()
    if not best:
        return None
    sign = -1 if search.directions[0] == "minimize" else 1
    trial = max(best, key=lambda t: sign * t.values[0])
    config = values.replace(search.config, {**trial.params, "run_id": f"{search.config.run_id}-best"})
    told = {path for path in config.given if path.partition(".")[0] != "optuna"}
    path = search.folder / BEST
    text = yaml12.write(_only(to_dict(config), told))
    head = f"# Trial {trial.number} of the study {search.study.study_name}.\n"
    if len(search.objectives) > 1:
        head += (
            f"# Of the {len(best)} trials that no other one beats, the best in {search.objectives[0]}, the first "
            f"objective; {SUMMARY} beside this file lists them all.\n"
        )
    write_text(path, head + text)
    return path


def _only(data: Mapping[str, Any], paths: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The part of nested values whose dotted paths are given."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{prefix}{name}"
        if path in paths:
            found[name] = value
        elif isinstance(value, Mapping) and (inner := _only(value, paths, f"{path}.")):
            found[name] = inner
    return found
