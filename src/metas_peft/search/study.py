"""A study: what is searched, where it lives, and the checks that a study taken up again is still the same one."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from metas_peft.conf import RunConfig, to_dict, values
from metas_peft.core.errors import UsageError
from metas_peft.search.samplers import make_pruner, make_sampler
from metas_peft.search.space import Direction, distributions, objectives
from metas_peft.search.storage import hidden, open_storage

logger = logging.getLogger(__name__)

TRIALS = "trials"
SURPLUS = "surplus"
_DIGEST = "metas settings"
# What may change between two calls of one study: how much is searched, by whom, and what is kept of it.
_FREE = ("n_trials", "storage", "keep", "heartbeat_s")


@dataclass(frozen=True)
class Search:
    """An open study.

    Attributes:
        config: The run that is searched around; a trial's run is derived from it.
        folder: Where trials and summary are.
        study: Optuna's study.
        storage: Its storage.
        space: Dotted path of each searched key -> what it is drawn from.
        objectives: Figures that are searched for.
        directions: Optuna's direction of each.
    """

    config: RunConfig
    folder: Path
    study: optuna.Study
    storage: Any
    space: Mapping[str, BaseDistribution]
    objectives: tuple[str, ...]
    directions: tuple[Direction, ...]

    @property
    def n_trials(self) -> int:
        """How many trials the study is to have."""
        return self.config.optuna.n_trials

    def trials(self) -> list[FrozenTrial]:
        """The study's trials by number, as the storage has them now; surplus ones left out."""
        return [t for t in self.study.get_trials(deepcopy=False) if not t.user_attrs.get(SURPLUS)]

    def is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether workers that asked at the same moment have already filled the study without this trial."""
        before = sum(t.number < trial.number for t in self.trials())
        return before >= self.n_trials

    def best(self) -> list[FrozenTrial]:
        """The best finished trial; of several objectives those that no other one matches or beats."""
        if not any(t.state is TrialState.COMPLETE for t in self.trials()):
            return []
        return self.study.best_trials if len(self.objectives) > 1 else [self.study.best_trial]

    def trial_folder(self, number: int) -> Path:
        """Where a trial's runs are."""
        return self.folder / TRIALS / f"trial-{number:04d}"

    def trial_config(self, number: int, params: Mapping[str, Any], repeat: int) -> RunConfig:
        """The run of a trial.

        It is judged on the examples that choices are made on, without rivals unless they were asked for, and shares
        the meta-trained surrogate (unless a key of `surrogate` is searched) and the samples of a cost model on the
        target with the other trials.
        """
        config, shared = self.config, {}
        # A stored surrogate does not say all that shaped it: the first trial's would be everybody's.
        is_same_for_all = not any(path.startswith("surrogate.") for path in self.space)
        if config.surrogate.checkpoint_path is None and is_same_for_all:
            shared["surrogate.checkpoint_path"] = str(self.folder / "surrogate.safetensors")
        if config.hardware_profiling.measurement_cache_dir is None:
            shared["hardware_profiling.measurement_cache_dir"] = str(self.folder / "measurements")
        if "evaluation.baselines" not in config.given:
            shared["evaluation.baselines"] = []
        folder = self.trial_folder(number)
        changed = values.replace(
            config,
            {
                **shared,
                **params,
                "training.seed": config.training.seed + repeat,
                "evaluation.split": "holdout",
                "retarget": [],
                "optuna.storage": None,  # a trial's folder is shown to others, a password is not
                "run_id": self.run_folder(number, repeat).name,
                "output_dir": str(folder if config.optuna.repeats > 1 else folder.parent),
            },
        )
        # What the user set, and what the trial sets; the rest is our own business, and no note is made of it.
        told = {path for path in config.given if path.partition(".")[0] not in ("optuna", "retarget")}
        return dataclasses.replace(changed, given=frozenset(told | params.keys()))

    def run_folder(self, number: int, repeat: int) -> Path:
        """Folder of one run of a trial."""
        folder = self.trial_folder(number)
        return folder / f"repeat-{repeat + 1}" if self.config.optuna.repeats > 1 else folder


def open_search(config: RunConfig) -> Search:
    """Open or take up the study of a run file.

    Args:
        config: The run and its `optuna` block.

    Raises:
        UsageError: The block searches nothing, or the study of this name was begun with other settings.
        OutputError: The storage cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = distributions(_as_searched(config))
    names, directions = objectives(config)
    sampler, pruner = make_sampler(config), make_pruner(config, len(names))
    folder = Path(config.output_dir) / f"{config.run_id}.sweep"
    storage = open_storage(config.optuna.storage, folder)
    study = optuna.create_study(
        storage=storage, sampler=sampler, pruner=pruner, study_name=config.run_id, directions=list(directions),
        load_if_exists=True,
    )  # fmt: skip
    if "hypervolume" in names and config.optuna.reference_quality is None:
        logger.warning(
            "Each trial's hyper-volume is measured from its own dense model, so that a badly trained one can win. Set "
            "optuna.reference_quality to the quality of a plain run's dense model."
        )
    settings = _settings(config, space, names, directions)
    known = study.user_attrs.get(_DIGEST)
    if known is None:
        study.set_user_attr(_DIGEST, settings)
    elif known != settings:
        place = hidden(config.optuna.storage) if config.optuna.storage else str(folder)
        changed = sorted(k for k in known.keys() | settings.keys() if known.get(k) != settings.get(k))
        raise UsageError(
            f"The study {config.run_id} in {place} was begun with other settings ({', '.join(changed)} changed). "
            "Choose another run_id, or delete it to start over."
        )
    return Search(config, folder, study, storage, space, names, directions)


def _as_searched(config: RunConfig) -> RunConfig:
    """The run as its trials see it, by which a key has an effect or has none."""
    if "evaluation.baselines" in config.given:
        return config
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, baselines=()))


def _settings(
    config: RunConfig, space: Mapping[str, BaseDistribution], names: tuple[str, ...], directions: tuple[Direction, ...]
) -> dict[str, str]:
    """Section -> digest of what may not change while a study lives."""
    data = to_dict(config)
    for name in ("output_dir", "run_id", "threads", "report_to"):
        del data[name]
    if data["dataset"]["config"] is None:  # studies begun before there was this key go on
        del data["dataset"]["config"]
    search = {k: v for k, v in data.pop("optuna").items() if k not in (*_FREE, "search_space")}
    data["optuna"] = search
    data["search_space"] = {path: distribution_to_json(d) for path, d in space.items()}
    data["objectives"] = [*names, *directions]
    return {k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest()[:12] for k, v in data.items()}
