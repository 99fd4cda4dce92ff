"""The budgets of a run file that members are to hold, as limits on predicted costs."""

from metas_peft.conf import CostTerm, RunConfig
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import RunFileError
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.tuning.budgets import UNITS, Limits


def check_budgets(config: RunConfig, cost_term: CostTerm) -> None:
    """A budget that a member is to hold takes a limit, and a surrogate to predict with.

    Args:
        config: The run.
        cost_term: What steers its method.

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
    if cost_term is not CostTerm.SURROGATE:
        raise RunFileError(
            f"budgets.mode=meet takes a method that predicts costs on the target, but method={config.method} does not. "
            "Use method=MetaS-PEFT, or budgets.mode=report."
        )


def limits_of(config: RunConfig, cost_model: CostModel | None, shape: BackboneShape) -> Limits | None:
    """The budgets that a member is to hold, where the run file asks for one.

    Args:
        config: The run.
        cost_model: Calibrated cost model of the target; without one nothing can be held.
        shape: Shape of the backbone.

    Raises:
        BudgetInfeasibleError: No model that the run can cut would hold them.
    """
    if config.budgets.mode == "report" or cost_model is None:
        return None
    limits = Limits.of(_absolute(config), config.budgets.fractions(), cost_model, shape)
    limits.check(config.model.gating.granularity if config.front == "gates" else UNITS)
    return limits


def _absolute(config: RunConfig) -> dict[str, float]:
    return {m: v for m in METRICS if (v := getattr(config.budgets, m)) is not None}
