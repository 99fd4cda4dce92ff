"""`metas` on a public track: networks trained on simulated devices alone.

The networks of a track see no measurement of any device, so that one training serves every held-out set; they are kept
in `outputs/surrogate/` and trained again when absent. Networks, roofline and squared roofline have the same parts
everywhere: chosen on the training devices, of which there are four, they were worse on all (docs/decisions).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rivals import Predict
from tracks import Track

from metas_peft.surrogate.few_shot import FewShot
from metas_peft.surrogate.metas_training import Schedule, new_network, train_network
from metas_peft.surrogate.reading import Scales
from metas_peft.surrogate.simulated_episodes import Recipe, Universe

KEPT = Path(__file__).resolve().parents[2] / "outputs" / "surrogate"
SEEDS = (1, 2)
# Tracks without a licence are shown for comparison: one short training each.
COMPARISONS = ("wilkins_llm", "mlenergy_llm")


def recipe_of(track: Track) -> Recipe:
    """How episodes of a track are drawn."""
    known = tuple(float(np.isfinite(track.logs[:, m]).any()) for m in range(3))
    # A track without energy is a track of latency: energy repeats it.
    return Recipe(track.schema, Scales.learn(track.terms), track.habits, metrics=(known[0], known[1], known[2]))


def universes_of(track: Track) -> list[Universe]:
    """The passes of each set, and all of them: what was counted, never what it cost."""
    largest = 2000
    whole = track.terms[:: max(1, len(track.terms) // largest)]
    return [Universe(track.terms[track.rows(s)][:largest]) for s in track.sets] + 3 * [Universe(whole)]


@functools.cache
def networks(name: str) -> tuple:
    """The trained networks of a track, from disk where they are."""
    from tracks import load

    track = load(name)
    recipe, universes = recipe_of(track), universes_of(track)
    found = []
    is_short = name in COMPARISONS
    schedule = Schedule(steps=2000) if is_short else Schedule()
    for seed in SEEDS[:1] if is_short else SEEDS:
        path = KEPT / f"{name}-{seed}.pt"
        network = new_network(recipe, universes, seed)
        if path.exists():
            network.load_state_dict(torch.load(path, weights_only=True))
        else:
            network = train_network(network, recipe, universes, schedule, seed=seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), path)
        found.append(network.eval())
    return tuple(found)


def complete(track: Track, rows: np.ndarray) -> np.ndarray:
    """Log costs with latency in place of what the track does not measure."""
    logs = track.logs[rows]
    return np.where(np.isfinite(logs), logs, logs[:, 1:2])


def _predict(few_shot: FewShot, track: Track, chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
    fitted = few_shot.fit(track.terms[chosen], complete(track, chosen))
    out = fitted.log_costs(torch.from_numpy(track.terms[tested])).numpy()
    return np.where(np.isfinite(track.logs).any(0), out, np.nan)


def metas(track: Track, training: Sequence[str]) -> Predict:
    """The predictor that ships, its network trained for the columns of this track."""
    few_shot = FewShot(track.schema, Scales.learn(track.terms), networks(track.name))
    return lambda chosen, tested: _predict(few_shot, track, chosen, tested)
