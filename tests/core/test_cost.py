"""Costs and origins: one order of metrics, the weakest origin."""

from metas_peft.core.cost import METRICS, Cost, Origin


def test_metrics_are_in_one_order_everywhere():
    assert METRICS == ("energy_j", "latency_ms", "peak_power_w")
    assert [name for name, _ in Cost(1, 2, 3).items()] == list(METRICS)
    assert Cost.of({"peak_power_w": 3, "energy_j": 1, "latency_ms": 2}) == Cost(1, 2, 3)
    assert Cost(4.0, 9.0, 2.0).zip(Cost(2.0, 3.0, 4.0), lambda a, b: a / b) == Cost(2.0, 3.0, 0.5)


def test_weakest_origin_is_the_least_trustworthy():
    assert Origin.weakest([Origin.MEASURED, Origin.MODELLED]) is Origin.MODELLED
    assert Origin.weakest([Origin.SIMULATED, Origin.IMPORTED]) is Origin.SIMULATED
    assert Origin.weakest([Origin.MEASURED]) is Origin.MEASURED
