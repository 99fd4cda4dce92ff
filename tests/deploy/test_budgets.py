"""Budgets as people write them, and what is refused."""

import pytest

from metas_peft.core.errors import UsageError
from metas_peft.deploy.budgets import in_words, parse_budgets


def test_budgets_are_read_in_any_order_and_told_in_one():
    assert parse_budgets(["peak_power_w=3", "latency_ms=80, energy_j=5e-2"]) == {
        "energy_j": 0.05, "latency_ms": 80.0, "peak_power_w": 3.0,
    }  # fmt: skip
    assert list(parse_budgets(["latency_ms=80", "energy_j=1"])) == ["energy_j", "latency_ms"]
    assert parse_budgets([]) == {}
    assert in_words({"energy_j": 0.05, "latency_ms": 80.0}) == "energy_j <= 0.05 and latency_ms <= 80"


def test_power_of_run_files_is_the_peak():
    assert parse_budgets(["power_w=11"]) == {"peak_power_w": 11.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--budget is empty"),
        (" , ", "--budget is empty"),
        ("latency=80", "did you mean 'latency_ms'"),
        ("flops_g=3", "there is no budget 'flops_g'"),
        ("latency_ms", "a name and a number"),
        ("latency_ms=soon", "'soon' is no number"),
        ("latency_ms=-80", "positive number of ms"),
        ("energy_j=0", "positive number of J"),
        ("energy_j=inf", "positive number of J"),
        ("energy_j=nan", "positive number of J"),
        ("latency_ms=1 latency_ms=2", "latency_ms twice"),
        ("power_w=1 peak_power_w=2", "peak_power_w twice"),
    ],
)
def test_wrong_budgets_are_wrong_usage(text, message):
    with pytest.raises(UsageError, match=message):
        parse_budgets([text])
