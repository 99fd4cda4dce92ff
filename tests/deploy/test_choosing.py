"""Who is chosen, and what is said where nobody can be."""

import numpy as np
import pytest

from metas_peft.deploy.choosing import LIKELY, SURE, Choice, Shortfall, choose, round_up

MIDDLE = np.array([[4.0, 40.0, 8.0], [3.0, 30.0, 7.0], [2.0, 20.0, 6.0], [1.0, 10.0, 5.0]])
UPPER = 1.1 * MIDDLE
QUALITY, SIZE = [0.90, 0.91, 0.85, 0.80], [0.8, 0.6, 0.4, 0.2]


def chosen(**budgets):
    return choose(QUALITY, SIZE, MIDDLE, UPPER, budgets)


def test_the_best_member_of_which_nobody_doubts_is_chosen():
    assert chosen(latency_ms=50.0) == Choice(1, SURE)  # better than the larger one
    assert chosen(latency_ms=32.0) == Choice(2, SURE)  # 30 would fit, 33 might be read
    assert chosen(latency_ms=50.0, energy_j=1.2) == Choice(3, SURE)
    assert chosen(peak_power_w=6.7) == Choice(2, SURE)
    assert chosen() == Choice(1, SURE)


def test_of_equal_quality_the_smaller_one_is_chosen():
    assert choose([0.9, 0.9], [0.8, 0.4], MIDDLE[:2], UPPER[:2], {}) == Choice(1, SURE)


def test_without_certainty_the_one_with_most_room_is_chosen():
    assert chosen(latency_ms=10.5) == Choice(3, LIKELY)
    assert chosen(latency_ms=10.5, energy_j=1.0) == Choice(3, LIKELY)


def test_one_budget_too_small_is_named_with_what_would_do():
    found = chosen(latency_ms=5.0, energy_j=2.5)
    assert isinstance(found, Shortfall)
    assert found.cheapest == {"latency_ms": 10.0, "energy_j": 1.0}
    assert found.relaxed == {"latency_ms": pytest.approx(11.0)}
    sentence = found.sentence({"latency_ms": 5.0, "energy_j": 2.5})
    assert "latency_ms=5 is below the least predicted 10" in sentence
    assert sentence.endswith("What would do: latency_ms=11.")
    assert isinstance(chosen(latency_ms=11.0, energy_j=2.5), Choice)


def test_budgets_impossible_together_are_said_to_be_so():
    middle = np.array([[1.0, 40.0, 8.0], [4.0, 10.0, 8.0]])
    budgets = {"energy_j": 2.0, "latency_ms": 20.0}
    found = choose([0.9, 0.9], [0.5, 0.5], middle, middle, budgets)
    assert isinstance(found, Shortfall)
    sentence = found.sentence(budgets)
    assert "energy_j=2 and latency_ms=20 together, though each alone could be held" in sentence
    assert sentence.endswith("What would do: energy_j=4 or latency_ms=40.")


def test_where_several_must_give_way_at_once_all_are_told():
    budgets = {"energy_j": 0.5, "latency_ms": 5.0, "peak_power_w": 9.0}
    found = choose(QUALITY, SIZE, MIDDLE, UPPER, budgets)
    assert isinstance(found, Shortfall)
    assert found.relaxed == {}
    assert found.sentence(budgets).endswith("What would do: energy_j=1.1 and latency_ms=11.")
    assert chosen(**{**found.enough}) == Choice(3, SURE)


@pytest.mark.parametrize(
    ("value", "up"), [(7.303, 7.31), (0.017534, 0.0176), (103.2, 104.0), (100.0, 100.0), (1.1, 1.1)]
)
def test_round_up_never_goes_down(value, up):
    assert round_up(value) == pytest.approx(up)
    assert round_up(value) >= value * (1 - 1e-12)
