"""The comparison of routers with chance under benchmarks/serving: which pair it takes, and that the record adds up."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "serving" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chance = script("chance")
COSTS = np.array([4.0, 2.0, 1.0])


def at(cost, chooser, scored):
    chooser, scored = np.array(chooser)[:, None], np.array(scored)[:, None]
    return float(chance.chance_at(np.array([cost]), chooser, scored, COSTS)[0])


def test_the_fair_pair_is_chosen_by_one_quality_and_scored_by_the_other() -> None:
    held_out, shown = [0.9, 0.6, 0.5], [0.8, 0.79, 0.4]
    # At cost 2 held-out texts prefer 2/3 of the cheapest with 1/3 of the dearest (0.633) to the middle one (0.6).
    assert at(2.0, held_out, shown) == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.8)
    assert at(2.0, shown, shown) == pytest.approx(0.79)


def test_money_that_buys_nothing_is_not_spent() -> None:
    assert at(3.0, [0.5, 0.7, 0.6], [0.1, 0.2, 0.3]) == pytest.approx(0.2)
    assert at(9.0, [0.9, 0.7, 0.6], [0.1, 0.2, 0.3]) == pytest.approx(0.1)


def test_hindsight_is_never_the_weaker_rival() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        held_out, shown, cost = rng.random(3), rng.random(3), rng.uniform(1, 4)
        assert at(cost, shown, shown) >= at(cost, held_out, shown) - 1e-12


def test_digits_are_read_back() -> None:
    bits = np.random.default_rng(0).random(29) < 0.5
    assert chance.from_hex(chance.to_hex(bits), 29).tolist() == bits.astype(float).tolist()
    choice = np.array([0, 11, 3, 35])
    assert chance.to_digits(choice) == "0b3z"
    assert chance.from_digits("0b3z").tolist() == choice.tolist()


@pytest.mark.parametrize(
    ("interval", "said"), [((0.1, 2), "yes"), ((-2, -0.1), "no"), ((-1, 1), "undecided"), ((0.0, 1), "undecided")]
)
def test_verdict_is_what_the_interval_says(interval, said) -> None:
    assert chance.verdict(interval) == said


def test_a_router_that_knows_gains_and_a_coin_does_not() -> None:
    rng = np.random.default_rng(1)
    size = 600
    members = np.stack([rng.random(size) < p for p in (0.9, 0.8, 0.7)]).astype(float)
    knows = np.where(members[2] == 1, 2, 0)
    coin = rng.integers(0, 2, size) * 2
    for choice, said in ((knows, "yes"), (coin, "undecided")):
        row = chance.judged(
            members[choice, np.arange(size)], COSTS[choice], members, members.mean(1), COSTS, compared=5
        )
        for beside in row["against"].values():
            low, high = beside["interval_95_points"]
            least, most = beside["interval_95_points_of_all_routers"]
            assert beside["pays"] == said
            assert least < low < beside["gain_points"] < high < most


def test_a_cascade_pays_for_both_passes() -> None:
    members = [
        {"latency_ms": 4.0, "held_out_quality": 1.0, "validation_right": "f0"},
        {"latency_ms": 1.0, "held_out_quality": 0.25, "validation_right": "80"},
    ]
    routers = {"cascade": {"choice": "0111", "first": 1}, "tree": {"choice": "0111", "first": None}}
    rows = chance.table(members, routers, {"held_out": 4, "validation": 4})
    assert rows["cascade"]["mean_latency_ms"] == pytest.approx((5 + 1 + 1 + 1) / 4)
    assert rows["tree"]["mean_latency_ms"] == pytest.approx((4 + 1 + 1 + 1) / 4)
    assert rows["cascade"]["quality"] == pytest.approx(0.25)


def test_the_published_table_follows_from_the_published_answers() -> None:
    published = json.loads((ROOT / "docs" / "benchmarks" / "adaptive.json").read_text(encoding="utf-8"))
    rows = chance.table(published["members"], published["routers"], published["inputs"])
    assert len(rows) == 12
    for member in published["members"]:
        held_out = chance.from_hex(member["held_out_right"], published["inputs"]["held_out"])
        assert held_out.mean() == pytest.approx(member["held_out_quality"])
    for name, row in published["compared"].items():
        for rival in chance.RIVALS:
            new, old = rows[name]["against"][rival], row["against"][rival]
            assert new["gain_points"] == pytest.approx(old["gain_points"], abs=1e-9)
            assert new["interval_95_points"] == pytest.approx(old["interval_95_points"], abs=1e-6)
            assert new["pays"] == old["pays"]
