"""The network and the mixture: it starts as the roofline, learns to beat it, and cannot be turned upside down."""

import numpy as np
import pytest
import torch

from metas_peft.surrogate.few_shot import FewShot
from metas_peft.surrogate.metas_training import Schedule, new_network, percentage_loss, train_network
from metas_peft.surrogate.nonnegative import fit_nonnegative
from metas_peft.surrogate.prior import CLEAN
from metas_peft.surrogate.reading import Scales, read_points
from metas_peft.surrogate.simulated_episodes import Recipe, Universe
from metas_peft.surrogate.synthetic import make_up
from metas_peft.surrogate.terms import GATES


@pytest.fixture(scope="module")
def universes() -> list[Universe]:
    rng = np.random.default_rng(0)
    return [make_up(rng).universe for _ in range(60)]


@pytest.fixture(scope="module")
def recipe(universes: list[Universe]) -> Recipe:
    scales = Scales.learn(np.concatenate([u.terms for u in universes]))
    return Recipe(GATES, scales, CLEAN, devices=4, groups=8, queries=12, exact=True, made_up=0.7)


@pytest.fixture(scope="module")
def untrained(recipe: Recipe, universes: list[Universe]) -> FewShot:
    return FewShot(GATES, recipe.scales, (new_network(recipe, universes, 0), new_network(recipe, universes, 1)))


def additive_points(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Passes of a device that is additive, shape (n, 5), and their log costs (n, 3)."""
    rng = np.random.default_rng(seed)
    terms = np.concatenate([np.ones((n, 1)), np.exp(rng.normal(0, 1, (n, 4))) * [1e9, 1e7, 1e6, 50]], axis=1)
    latency = terms @ [0.5, 1e-9, 3e-8, 1e-7, 0.02]
    energy = terms @ [1e-3, 4e-12, 2e-11, 1e-10, 2e-5]
    return terms, np.log(np.stack([energy, latency, np.full(n, 4.0)], axis=1))


def test_untrained_predictor_is_close_to_the_roofline_of_the_points(untrained: FewShot) -> None:
    terms, logs = additive_points(40)
    fitted = untrained.fit(terms[:8], logs[:8])
    off = np.exp(fitted.log_costs(torch.from_numpy(terms[8:])).numpy() - logs[8:])
    assert np.abs(off[:, :2] - 1).mean() < 0.12


def test_plain_opinion_is_the_roofline(untrained: FewShot) -> None:
    terms, logs = additive_points(40)
    alone = FewShot(GATES, untrained.scales, untrained.networks, shares=(0.0, 1.0, 0.0)).fit(terms[:6], logs[:6])
    said = alone.log_costs(torch.from_numpy(terms)).numpy()
    for metric in (0, 1):
        weights = fit_nonnegative(terms, np.exp(logs[:, metric]), 0.0)
        own = fit_nonnegative(terms[:6], np.exp(logs[:6, metric]), 0.002)
        assert said[:, metric] == pytest.approx(np.log(terms @ own), abs=1e-6)
        assert weights.min() >= 0


def test_units_of_costs_and_order_of_points_do_not_matter(untrained: FewShot) -> None:
    terms, logs = additive_points(20)
    query = torch.from_numpy(terms[5:])
    here = untrained.fit(terms[:5], logs[:5]).log_costs(query)
    moved = untrained.fit(terms[:5], logs[:5] + np.array([3.0, -2.0, 1.0])).log_costs(query)
    assert moved[:, :2].numpy() == pytest.approx(here[:, :2].numpy() + np.array([3.0, -2.0]), abs=1e-4)
    order = np.array([3, 1, 4, 0, 2])
    turned = untrained.fit(terms[order], logs[order]).log_costs(query)
    assert turned.numpy() == pytest.approx(here.numpy(), abs=1e-4)


def test_any_number_of_points_is_read(untrained: FewShot) -> None:
    terms, logs = additive_points(30)
    for k in (1, 2, 3, 10, 20):
        said = untrained.fit(terms[:k], logs[:k]).log_costs(torch.from_numpy(terms))
        assert torch.isfinite(said).all()


def test_reading_is_alike_in_a_batch_and_alone(untrained: FewShot) -> None:
    sets = [additive_points(5, seed) for seed in range(4)]
    terms, logs = np.stack([t for t, _ in sets]), np.stack([y for _, y in sets])
    together = read_points(GATES, untrained.scales, terms, logs)
    for number in range(4):
        alone = read_points(GATES, untrained.scales, terms[number][None], logs[number][None])
        assert torch.equal(alone.tokens[0], together.tokens[number])
        assert torch.allclose(alone.fitted[0], together.fitted[number], atol=1e-6)


def test_training_lowers_the_error_and_is_decided_by_its_seed(recipe: Recipe, universes: list[Universe]) -> None:
    start = new_network(recipe, universes, 3)
    trained, again = (train_network(start, recipe, universes, Schedule(steps=30), seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
    rng = np.random.default_rng(77)
    errors = {}
    checks = [make_up(rng).universe for _ in range(25)]
    for name, network in {"start": start.eval(), "trained": trained}.items():
        few_shot = FewShot(GATES, recipe.scales, (network,), shares=(1.0, 0.0, 0.0))
        rows = []
        for universe in checks:
            assert universe.logs is not None
            fitted = few_shot.fit(universe.terms[::8], universe.logs[::8])
            rows.append(np.abs(fitted.log_costs(torch.from_numpy(universe.terms)).numpy() - universe.logs).mean())
        errors[name] = np.median(rows)
    assert errors["trained"] < errors["start"]


def test_intervals_grow_with_the_distance_from_the_points(untrained: FewShot) -> None:
    terms, logs = additive_points(5)
    fitted = untrained.fit(terms, logs)
    middle = torch.from_numpy(terms.mean(0))
    near, far = (fitted.log_half_width(middle * torch.tensor([1.0, f, f, f, f])) for f in (1.0, 20.0))
    assert (near > 0).all()
    assert (far > near).all()


def test_percentage_loss_is_the_percentage_error_near_zero_and_grows_linearly_far_out() -> None:
    error = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0], dtype=torch.float64)
    assert percentage_loss(error).numpy() == pytest.approx(np.abs(np.expm1(error.numpy())), rel=1e-9)
    far = percentage_loss(torch.tensor([3.0, 4.0, 5.0]))
    assert float(far[2] - far[1]) == pytest.approx(float(far[1] - far[0]), rel=1e-6)


def test_peak_power_is_not_believed_far_beyond_that_of_the_points(untrained: FewShot) -> None:
    """Over a thousandfold range of work a line in logarithms would leave what any device can draw."""
    terms, logs = additive_points(12)
    logs[:, 2] = np.log(4.0) + 0.9 * (logs[:, 0] - logs[:, 0].mean())
    fitted = untrained.fit(terms[:5], logs[:5])
    far = torch.from_numpy(terms * np.array([1.0, 1e6, 1e6, 1e6, 1e3]))
    watts = fitted.log_costs(far)[:, 2].exp().numpy()
    assert watts.max() <= 2 * np.exp(logs[:5, 2].max()) * (1 + 1e-9)
    assert watts.min() >= 0.5 * np.exp(logs[:5, 2].min()) * (1 - 1e-9)


def test_opinion_with_squares_follows_a_device_that_rises_faster_than_a_line(untrained: FewShot) -> None:
    terms, _ = additive_points(40)
    cost = 1e-3 + 1e-12 * terms[:, 1] * (1 + terms[:, 1] / terms[:, 1].mean())
    logs = np.log(np.stack([cost, 1000 * cost, np.full(len(cost), 4.0)], axis=1))
    networks = untrained.networks

    def error(shares: tuple[float, float, float]) -> float:
        fitted = FewShot(GATES, untrained.scales, networks, shares=shares).fit(terms[:6], logs[:6])
        return float(np.abs(np.expm1(fitted.log_costs(torch.from_numpy(terms)).numpy() - logs))[:, :2].mean())

    assert error((0.0, 0.0, 1.0)) < 0.5 * error((0.0, 1.0, 0.0))
