"""The budgets of a run file that members are to hold, as limits on predicted costs."""

from collections.abc import Iterable

from metas_peft.conf import CostTerm, Method, RunConfig, Shape
from metas_peft.conf.methods import AS_DESCRIBED
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import RunFileError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.tuning.budgets import UNITS, Limits

PREDICTING = (CostTerm.SURROGATE, CostTerm.TARGET)  # what tells a method the three costs of a choice on the target


def check_budgets(config: RunConfig, method: Method) -> None:
    """A budget that a member is to hold takes a limit, and a surrogate to predict with.

    Args:
        config: The run.
        method: Its method.

    Raises:
        RunFileError: One of them is missing.
    """
    budgets = config.budgets
    if budgets.mode == "report":
        return
    if not budgets.fractions() and not _absolute(config):
        raise RunFileError(
            "budgets.mode=meet, but there is no budget. Set budgets.latency_ms, energy_j, peak_power_w or relative."
        )
    if method.setting == AS_DESCRIBED:
        raise RunFileError(
            f"budgets.mode=meet takes a method that budgets can steer, but method={config.method} is trained as its "
            "source describes it, by weights. Use method=MetaS-PEFT, or budgets.mode=report."
        )
    if method.cost_term not in PREDICTING:
        raise RunFileError(
            f"budgets.mode=meet takes a method that predicts costs on the target, but method={config.method} does not. "
            "Use method=MetaS-PEFT, or budgets.mode=report."
        )


def limits_of(
    config: RunConfig, method: Method, cost_model: CostModel | None, shape: BackboneShape, *, is_checked: bool = True
) -> Limits | None:
    """The budgets that a member of a method is to hold, where the run file asks for one.

    Args:
        config: The run.
        method: Its method or a rival.
        cost_model: The method's calibrated cost model of the target; without one nothing can be held.
        shape: Shape of the backbone.
        is_checked: Whether budgets that no model can hold are refused.

    Raises:
        BudgetInfeasibleError: No model that the run can cut would hold them.
    """
    if config.budgets.mode == "report" or cost_model is None or method.setting == AS_DESCRIBED:
        return None
    limits = Limits.of(_absolute(config), config.budgets.fractions(), cost_model, shape)
    if is_checked:
        by_gates = config.front == "gates" and method.follows_front
        limits.check(config.model.gating.granularity if by_gates else UNITS)
    return limits


def unheld(config: RunConfig, rivals: Iterable[Method]) -> list[str]:
    """Which rivals get no member for the budgets, while the run's own method does, in a sentence.

    Args:
        config: The run.
        rivals: The methods beside its own.
    """
    smaller = [method for method in rivals if method.shape is not Shape.DENSE]
    names = [m.label for m in smaller if m.cost_term not in PREDICTING or m.setting == AS_DESCRIBED]
    if config.budgets.mode == "report" or not names:
        return []
    return [
        f"budgets.mode=meet adds no member to the fronts of {', '.join(names)}, which predict no costs on the target "
        "or are trained as described: they may have a point less than the others."
    ]


def _absolute(config: RunConfig) -> dict[str, float]:
    return {m: v for m in METRICS if (v := getattr(config.budgets, m)) is not None}
