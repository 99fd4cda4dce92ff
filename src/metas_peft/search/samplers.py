"""Samplers and pruners by name, and a sampler whose draws depend on the trial's number and the study alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from metas_peft.conf import RunConfig
from metas_peft.core.errors import UsageError

_SAMPLERS: dict[str, Callable[[int], samplers.BaseSampler]] = {
    "tpe": lambda seed: samplers.TPESampler(seed=seed),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    "gp": lambda seed: samplers.GPSampler(seed=seed),
    "nsga-ii": lambda seed: samplers.NSGAIISampler(seed=seed),
}
_PRUNERS: dict[str, Callable[[], pruners.BasePruner]] = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "successive-halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
}


class PerTrialSampler(samplers.BaseSampler):
    """A sampler made anew for each trial, seeded by the study's seed and the trial's number.

    Optuna's samplers carry a random state from trial to trial. Workers that start with one seed would all draw the
    same first trials, and so would a study that is taken up again. Here a draw depends on the seed, the number and
    what the study knows, whoever asks; one worker that stops and goes on draws what it would have drawn.

    Args:
        make: Seed -> sampler.
        seed: Of the study.
    """

    def __init__(self, make: Callable[[int], samplers.BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take a fresh sampler for the trial."""
        self._inner = self._make(int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the fresh sampler."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the fresh sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the fresh sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """As the fresh sampler."""
        self._inner.after_trial(study, trial, state, values)


def make_sampler(config: RunConfig) -> samplers.BaseSampler:
    """The run file's sampler."""
    return PerTrialSampler(_SAMPLERS[config.optuna.sampler], config.training.seed)


def make_pruner(config: RunConfig, n_objectives: int) -> pruners.BasePruner:
    """The run file's pruner.

    Raises:
        UsageError: It would never be asked.
    """
    name = config.optuna.pruner
    if name != "none" and n_objectives > 1:
        raise UsageError(f"optuna.pruner={name}: Optuna prunes searches for one figure only; take pruner=none.")
    if name != "none" and config.optuna.repeats == 1:
        raise UsageError(
            f"optuna.pruner={name} may end a trial between its repeats, but optuna.repeats is 1; "
            "raise it or take pruner=none."
        )
    return _PRUNERS[name]()
