"""The `optuna` block in Optuna's terms: distributions by the place of their key, directions by objective."""

from collections.abc import Collection
from typing import Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from metas_peft.conf import RunConfig
from metas_peft.conf.keys import searched
from metas_peft.conf.notices import without_effect
from metas_peft.conf.schema import SearchRange
from metas_peft.core.errors import UsageError

Direction = Literal["minimize", "maximize"]
MAXIMISED = ("quality", "accuracy", "hypervolume")


def distributions(config: RunConfig) -> dict[str, BaseDistribution]:
    """Dotted path of each searched key -> what a trial draws it from.

    Raises:
        UnknownKeyError: A name that no key has, or several have.
        UsageError: Nothing to search, a key named twice, or one that would change nothing in the trials.
    """
    found: dict[str, BaseDistribution] = {}
    for name, span in config.optuna.search_space.items():
        path = searched(name).path
        if path in found:
            raise UsageError(f"optuna.search_space names {path} twice, once as {name!r}. Keep one of the two.")
        found[path] = _distribution(span)
    if not found:
        raise UsageError(
            "optuna.search_space is empty; a search needs keys with ranges, such as "
            "learning_rate: {type: loguniform, low: 1e-5, high: 5e-4}."
        )
    for path, because in without_effect(config, found).items():
        raise UsageError(f"A search over {path} would change nothing: {because}. Take it out or change the run.")
    _refuse_fixed(config, found)
    return found


def _refuse_fixed(config: RunConfig, paths: Collection[str]) -> None:
    """Keys that work in a run, but not in trials: all trials have the same value of them."""
    if "training.seed" in paths:
        raise UsageError(
            "optuna.search_space names training.seed, but seeds are repeated, not searched: every trial has those that "
            "begin with the run file's. Take it out and set optuna.repeats to the number of seeds per trial."
        )
    if "surrogate.n_hardware_tags" in paths:
        raise UsageError(
            "A search over surrogate.n_hardware_tags would change nothing: it is the size of the pool, checked against "
            "surrogate.meta_training_devices. Take it out."
        )
    stored = config.surrogate.checkpoint_path or "surrogate.checkpoint_path" in paths
    if "surrogate.records" in paths and stored:
        raise UsageError(
            "A search over surrogate.records would change nothing: all trials read the surrogate that "
            "surrogate.checkpoint_path names, however many records it has learnt from. Take one of the two out."
        )


def _distribution(span: SearchRange) -> BaseDistribution:
    if span.type == "categorical":
        return CategoricalDistribution(span.choices)
    assert span.low is not None
    assert span.high is not None
    if span.type == "int":
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=int(span.step or 1))
    is_log = span.log or span.type == "loguniform"
    return FloatDistribution(float(span.low), float(span.high), log=is_log, step=span.step)


def objectives(config: RunConfig) -> tuple[tuple[str, ...], tuple[Direction, ...]]:
    """Figures that are searched for, and Optuna's direction of each.

    Raises:
        UsageError: A figure is named twice, a direction is given and wrong, or one for several figures.
    """
    names = config.optuna.objectives
    if len(set(names)) != len(names):
        raise UsageError(f"optuna.objectives names {', '.join(names)}; name each figure once.")
    chosen = names or (config.evaluation.primary_metric,)
    directions: tuple[Direction, ...] = tuple(_direction(name) for name in chosen)
    asked = config.optuna.direction
    if asked is not None and len(names) > 1:
        raise UsageError(
            f"optuna.direction={asked} is for one figure, but optuna.objectives names {', '.join(names)}; each has a "
            "direction of its own. Leave optuna.direction out, or set it to null."
        )
    if asked not in (None, directions[0]):
        key = "optuna.objectives" if names else "evaluation.primary_metric"
        raise UsageError(
            f"optuna.direction={asked} would search for the worst {chosen[0]}. Leave it out, or name another {key}."
        )
    return chosen, directions


def _direction(name: str) -> Direction:
    return "maximize" if name in MAXIMISED else "minimize"
