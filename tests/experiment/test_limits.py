"""Which methods of a run are to hold its budgets, and against what these are checked."""

import pytest

from metas_peft.conf import METHODS
from metas_peft.conf.compose import load
from metas_peft.conf.runfile import RunFile
from metas_peft.core.errors import BudgetInfeasibleError
from metas_peft.core.subnet import Subnet
from metas_peft.costs import MINILM, Counts
from metas_peft.experiment.limits import limits_of, unheld
from metas_peft.testing.tuning import tiny_cost_model

COST = tiny_cost_model(MINILM)
WITHOUT_HEADS = float(COST(Counts.of(Subnet.prefix([0] * 6, [12] * 6), MINILM)).latency_ms)


def config_of(*overrides, limit=WITHOUT_HEADS):
    return load(RunFile("tiny", {}), ["budgets.mode=meet", f"budgets.latency_ms={limit}", *overrides])


HEADS = ("front=gates", "model.gating.granularity=[head]")


def test_budgets_are_checked_against_what_the_run_can_close():
    assert limits_of(config_of(*HEADS), METHODS["MetaS-PEFT"], COST, MINILM) is not None
    tight = config_of(*HEADS, limit=0.99 * WITHOUT_HEADS)
    with pytest.raises(BudgetInfeasibleError, match="by gates on head is predicted to hold"):
        limits_of(tight, METHODS["MetaS-PEFT"], COST, MINILM)
    # A path goes down to one unit, whatever is gated.
    assert limits_of(tight, METHODS["MetaS-PEFT-apart"], COST, MINILM) is not None
    nested = config_of("model.gating.granularity=[head]", "front=nested", limit=0.99 * WITHOUT_HEADS)
    assert limits_of(nested, METHODS["MetaS-PEFT"], COST, MINILM) is not None


def test_method_that_is_trained_as_described_holds_no_budgets():
    assert limits_of(config_of(), METHODS["MetaS-PEFT-as-described"], COST, MINILM) is None
    assert limits_of(config_of("budgets.mode=report"), METHODS["MetaS-PEFT"], COST, MINILM) is None
    assert limits_of(config_of(), METHODS["DiGASE"], None, MINILM) is None


def test_rivals_without_a_member_for_the_budgets_are_named():
    names = ("EChorda", "DiGASE", "MetaS-PEFT-apart", "EChorda-as-described", "drop-top", "static-lora")
    (note,) = unheld(config_of(), [METHODS[name] for name in names])
    told = [METHODS[name].label for name in ("DiGASE", "EChorda-as-described", "drop-top")]
    assert f"to the fronts of {', '.join(told)}, which" in note
    assert unheld(config_of(), [METHODS["EChorda"]]) == []
    assert unheld(config_of("budgets.mode=report"), [METHODS["DiGASE"]]) == []
