"""Simulated and made-up devices: physical whatever is drawn, and nobody's in particular."""

import numpy as np
import pytest
import torch

from metas_peft.surrogate.additive import basis
from metas_peft.surrogate.prior import CLEAN, Habits, draw_devices
from metas_peft.surrogate.reading import Scales
from metas_peft.surrogate.simulated_episodes import Recipe, Universe, draw_episodes
from metas_peft.surrogate.synthetic import make_up
from metas_peft.surrogate.terms import GATES, Group, Role, Schema, Term

RICH = Schema(
    terms=(
        Term("constant", "constant"), Term("dense", "compute", np.log(0.9)),
        Term("sparse", "compute", np.log(0.1), 0.6), Term("body", "weights", np.log(0.75)),
        Term("table", "weights", np.log(0.25)), Term("kernels", "kernels"), Term("width", "width"),
    ),
    groups=(
        Group("constant", Role.CONSTANT, -0.3, 1.5), Group("compute", Role.COMPUTE, 0.5, 1.5),
        Group("weights", Role.MEMORY, -0.8, 1.5), Group("kernels", Role.OVERHEAD, -1.0, 1.5),
        Group("width", Role.NOBODY, 0.0, 0.0),
    ),
    base=(("constant",), ("dense", "sparse"), ("body", "table"), ("kernels",)),
    squared=(2,), cliff=2, width="width",
)  # fmt: skip


@pytest.mark.parametrize("schema", [GATES, RICH])
def test_simulated_device_costs_more_when_any_count_rises(schema: Schema) -> None:
    rng = np.random.default_rng(0)
    devices = draw_devices(schema, 400, rng, Habits(tilt=0.0))
    paid = np.flatnonzero(schema.is_paid())
    low = rng.uniform(0.2, 2.0, (60, len(schema.terms)))
    high = low.copy()
    raised = rng.choice(paid, len(low))
    high[np.arange(len(low)), raised] *= rng.uniform(1.05, 3.0, len(low))
    clean = devices.run(np.concatenate([low, high]))
    latency = clean[..., 0]
    assert (latency[:, 60:] >= latency[:, :60] - 1e-9).all()


def test_simulated_costs_are_relative_to_their_own_median_and_seeded() -> None:
    unit = np.random.default_rng(1).uniform(0.3, 2.0, (31, len(GATES.terms)))
    first, again = (draw_devices(GATES, 50, np.random.default_rng(5)).run(unit) for _ in range(2))
    assert (first == again).all()
    assert np.median(first[..., 0], axis=1) == pytest.approx(np.zeros(50), abs=1e-9)


def test_readings_scatter_as_their_devices_say() -> None:
    rng = np.random.default_rng(2)
    devices = draw_devices(GATES, 200, rng, CLEAN)
    clean = devices.run(rng.uniform(0.3, 2.0, (200, len(GATES.terms))))
    read = devices.read(clean, rng)
    spread = (read[..., 1] - clean[..., 0]).std(1)
    assert np.median(spread / devices.noise.latency) == pytest.approx(1.0, abs=0.15)


def test_basis_is_never_negative_and_leaves_out_what_nobody_pays_for() -> None:
    unit = torch.rand(40, len(RICH.terms), dtype=torch.float64) * 3
    scale = torch.rand(len(RICH.terms), dtype=torch.float64) + 0.5
    phi = basis(RICH, unit, scale)
    assert phi.shape == (40, RICH.basis_size)
    assert (phi >= 0).all()
    assert (phi[:, RICH.column("width")] == 0).all()
    # The square is of the roofline's term itself: what its columns sum to, by what they sum to at the points' mean.
    total = (unit[:, 3] * scale[3] + unit[:, 4] * scale[4]) / (scale[3] + scale[4])
    assert phi[:, -1].numpy() == pytest.approx(total.numpy() ** 2)


def test_made_up_devices_are_finite_physical_and_different() -> None:
    rng = np.random.default_rng(3)
    made_up = [make_up(rng) for _ in range(30)]
    logs = np.concatenate([m.universe.logs for m in made_up])
    assert np.isfinite(logs).all()
    mean_w = np.exp(logs[:, 0] - logs[:, 1]) * 1000
    assert (np.exp(logs[:, 2]) >= mean_w * (1 - 1e-9)).all()
    caps = np.concatenate([np.full(len(m.columns), m.spec.power_cap_w) for m in made_up])
    assert (np.exp(logs[:, 2]) <= caps * (1 + 1e-9)).all()
    peaks = [m.spec.peak_gflops for m in made_up]
    assert max(peaks) / min(peaks) > 1e3
    assert len({m.columns.shape for m in made_up}) > 1


def test_schema_survives_json() -> None:
    for schema in (GATES, RICH):
        assert Schema.from_dict(schema.as_dict()) == schema


def test_episodes_have_noise_at_the_points_only_when_targets_are_exact() -> None:
    rng = np.random.default_rng(4)
    universes = [make_up(rng).universe for _ in range(6)]
    scales = Scales.learn(np.concatenate([u.terms for u in universes]))
    recipe = Recipe(GATES, scales, CLEAN, devices=2, groups=6, queries=9, exact=True, made_up=1.0)
    batch = draw_episodes(recipe, universes, rng, points=5)
    assert batch.terms.shape == (12, 9, 5)
    assert batch.reading.tokens.shape[:2] == (12, 5)
    truths = {tuple(np.float32(row)) for u in universes for row in u.logs}
    told = [tuple(row) for row in batch.logs.reshape(-1, 3).numpy()]
    assert sum(row in truths for row in told) == len(told)


def test_episodes_take_devices_of_the_prior_where_nothing_is_made_up() -> None:
    rng = np.random.default_rng(5)
    passes = Universe(rng.uniform(1e3, 1e6, (30, len(RICH.terms))))
    recipe = Recipe(RICH, Scales.learn(passes.terms), Habits(), devices=3, groups=2, queries=8)
    batch = draw_episodes(recipe, [passes], rng)
    assert batch.logs.shape == (6, 8, 3)
    assert torch.isfinite(batch.logs).all()
