"""Batches of episodes on devices that nobody has: drawn from the prior, or made up.

An episode is a device, a few calibration points and other passes of the same universe to predict. A *universe* is a set
of passes that somebody might choose among: the gate configurations of one backbone under one workload, or the
architectures of a study. Calibration points are chosen as in use: at random, or by design.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.surrogate.design import d_optimal
from metas_peft.surrogate.prior import Habits, draw_devices
from metas_peft.surrogate.reading import Reading, Scales, read_points
from metas_peft.surrogate.terms import Schema

CANDIDATES = 0.6  # of a universe may be chosen as calibration points
MOST_POINTS = 24


@dataclass(frozen=True)
class Universe:
    """Passes that belong together.

    Attributes:
        terms: Counted terms, shape (R, K).
        logs: Noise-free log energy (J), latency (ms), peak power (W) on a made-up device, shape (R, 3); None for passes
            alone, which devices of the prior run.
        centre: Weights of the roofline's terms that a spec sheet leads to expect, shape (2, base terms); None for equal
            parts. All universes of a training have one, or none has.
    """

    terms: np.ndarray
    logs: np.ndarray | None = None
    centre: np.ndarray | None = None


@dataclass(frozen=True)
class Episodes:
    """A batch of B episodes.

    Attributes:
        reading: Of the calibration points.
        terms: Of the passes to predict, shape (B, Q, K).
        logs: Their log costs, shape (B, Q, 3).
    """

    reading: Reading
    terms: torch.Tensor
    logs: torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """How episodes are drawn.

    Attributes:
        schema: Of the terms.
        scales: Of the log terms.
        habits: Of simulated devices.
        devices: Episodes that share one choice of passes.
        groups: Choices of passes per batch.
        queries: Passes to predict.
        five: Part of the batches with five points; the others have 1 to 24.
        metrics: 1 for metrics that are learnt, shape (3,).
        exact: Whether the passes to predict are free of noise.
        made_up: Part of the batches on made-up devices, where universes have them.
    """

    schema: Schema
    scales: Scales
    habits: Habits
    devices: int = 32
    groups: int = 4
    queries: int = 32
    five: float = 0.7
    metrics: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exact: bool = False
    made_up: float = 0.0


def draw_points(recipe: Recipe, universe: Universe, points: int, rng: np.random.Generator) -> np.ndarray:
    """Calibration rows: at random, evenly over FLOPs, or by leverage."""
    count = len(universe.terms)
    pool = rng.permutation(count)[: max(int(CANDIDATES * count), min(count - 1, points + 4))]
    way = rng.random()
    if way < 0.5 or points < 3:
        return pool[:points]
    base = universe.terms[pool] @ recipe.schema.base_matrix()
    if way < 0.8:
        order = pool[np.argsort(base[:, 1], kind="stable")]
        return order[np.rint(np.linspace(0, len(pool) - 1, points)).astype(int)]
    return pool[d_optimal(base / np.maximum(base.mean(0), 1e-30), points)]


def draw_episodes(
    recipe: Recipe, universes: Sequence[Universe], rng: np.random.Generator, *, points: int | None = None
) -> Episodes:
    """Draw a batch.

    Args:
        recipe: How.
        universes: Passes to choose among.
        rng: Source of randomness.
        points: Calibration points; drawn if absent.
    """
    if points is None:
        points = 5 if rng.random() < recipe.five else int(rng.integers(1, MOST_POINTS))
    is_made_up = rng.random() < recipe.made_up
    terms, logs, centres = [], [], []
    for _ in range(recipe.groups):
        universe = universes[int(rng.integers(len(universes)))]
        points_here = min(points, len(universe.terms) - 2)
        chosen = draw_points(recipe, universe, points_here, rng)
        if points_here < points:
            chosen = np.concatenate([chosen, rng.choice(chosen, points - points_here)])
        others = np.setdiff1d(np.arange(len(universe.terms)), chosen)
        rows = np.concatenate([chosen, rng.choice(others, recipe.queries, replace=len(others) < recipe.queries)])
        passes = universe.terms[rows]
        devices = draw_devices(recipe.schema, recipe.devices, rng, recipe.habits)
        clean = devices.run(passes / np.maximum(universe.terms.mean(0), 1e-30))
        own = devices.read(clean, rng)
        truth = np.stack([clean[..., 0] + clean[..., 1], clean[..., 0], clean[..., 2]], axis=-1)
        if is_made_up and universe.logs is not None:
            own, truth = own - truth + universe.logs[rows], np.broadcast_to(universe.logs[rows], truth.shape)
        if recipe.exact:
            own = np.concatenate([own[:, :points], truth[:, points:]], axis=1)
        terms.append(np.broadcast_to(passes, (recipe.devices, *passes.shape)))
        if universe.centre is not None:
            centres.append(np.broadcast_to(universe.centre, (recipe.devices, *universe.centre.shape)))
        logs.append(own * np.array(recipe.metrics))
    all_terms, all_logs = np.concatenate(terms), np.concatenate(logs)
    return Episodes(
        read_points(
            recipe.schema,
            recipe.scales,
            all_terms[:, :points],
            all_logs[:, :points],
            np.concatenate(centres) if centres else None,
        ),
        torch.from_numpy(all_terms[:, points:].astype(np.float32)),
        torch.from_numpy(all_logs[:, points:].astype(np.float32)),
    )
