"""Meta-learned rivals: the source's network, tuned on the training devices, and a HELP-style learner.

`reference` is the project's own (tag, mixup, episodes that hide a device), on standardised log terms, three seeds
averaged. Its settings are chosen by leave-one-out inside the training devices, never on the held-out one.

HELP (Lee et al., 2021) conditions a network on a device's latencies of a few reference architectures and adapts it by a
few gradient steps, meta-trained over devices (MAML, first order here). Here the reference points are the five
calibration points themselves, their features and costs averaged into the embedding of the device.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from protocol import absolute_errors, draws
from rivals import Predict, _features
from torch import nn
from tracks import Track

from metas_peft.surrogate.episodes import MetaTraining
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.meta import meta_train
from metas_peft.surrogate.network import Standardiser
from metas_peft.surrogate.reference import ReferenceKind

SETTINGS = (
    MetaTraining(steps=800, learning_rate=5e-3, inner_steps=12),
    MetaTraining(steps=800, learning_rate=2e-3, inner_steps=12),
    MetaTraining(steps=1500, learning_rate=2e-3, inner_steps=30),
    MetaTraining(steps=800, learning_rate=5e-3, inner_steps=3),
)
TUNING_SEEDS = 8
SEEDS = 3


def _table(track: Track, rows: np.ndarray) -> Table:
    """Rows of a track as the network takes them."""
    # Zeros as settings: all rows of a device belong together.
    return Table(
        track.sets, track.row_set[rows], np.zeros(len(rows), dtype=int), track.terms[rows], np.exp(track.logs[rows])
    )


def _predict(track: Track, kind: ReferenceKind, chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
    fitted = kind.fit(_table(track, chosen), None)
    with torch.no_grad():
        out = fitted(torch.from_numpy(track.terms[tested])).log().numpy()
    return np.where(np.isfinite(track.logs).any(0), out, np.nan)


@functools.cache
def _trained(track: "_Key", training: tuple[str, ...]) -> dict[str | None, ReferenceKind]:
    """The best setting by leave-one-out within the training devices, trained on all of them."""
    whole = track.track
    rows = np.concatenate([whole.rows(name) for name in training])
    table = _table(whole, rows)
    standardiser = Standardiser.learn(torch.from_numpy(whole.terms), ())
    found = []
    for settings in SETTINGS:
        hidden = list(training) if len(training) > 2 else []
        *unseen, final = meta_train(
            table, [*hidden, None], seed=0, n_seeds=SEEDS, training=settings, standardiser=standardiser
        )
        errors = [
            np.nanmean(
                [
                    absolute_errors(_predict(whole, kind, d.chosen, d.tested), whole.logs[d.tested]).mean(0)
                    for d in draws(whole, name, "random", seeds=TUNING_SEEDS)
                ]
            )
            for name, kind in zip(hidden, unseen, strict=True)
        ]
        found.append((float(np.mean(errors)) if errors else 0.0, len(found), final))
    return {None: min(found)[2]}


class _Key:
    """A track that can be a key of a cache."""

    def __init__(self, track: Track) -> None:
        self.track = track

    def __hash__(self) -> int:
        return hash(self.track.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.track.name == self.track.name


def reference(track: Track, training: Sequence[str]) -> Predict:
    """The source's network."""
    if len(training) < 3:
        # Meta-training hides one device and needs two more; with fewer, settings cannot be tuned either.
        raise SystemExit(f"{track.name}: {len(training)} training devices are too few for the source's network.")
    kind = _trained(_Key(track), tuple(training))[None]
    return lambda chosen, tested: _predict(track, kind, chosen, tested)


class _Helper(nn.Module):
    """(features, embedding of the calibration points) to centred log costs."""

    def __init__(self, features: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features + 3, width), nn.ReLU(), nn.Linear(width, 32))
        self.body = nn.Sequential(
            nn.Linear(features + 32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def forward(self, points: torch.Tensor, costs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        device = self.embed(torch.cat([points, costs], -1)).mean(0)
        return self.body(torch.cat([x, device.expand(len(x), -1)], -1))


INNER_RATE, INNER_STEPS, OUTER_STEPS, QUERY = 0.02, 5, 1500, 48
LARGEST_GRADIENT = 1.0


def _clipped(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of a norm of at most `LARGEST_GRADIENT`."""
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    return [g * (LARGEST_GRADIENT / norm.clamp_min(LARGEST_GRADIENT)) for g in gradients]


def _adapted(network: _Helper, points: torch.Tensor, costs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights after a few gradient steps on the calibration points (first order)."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    for _ in range(INNER_STEPS):
        said = torch.func.functional_call(network, weights, (points, costs, points))
        gradients = _clipped(torch.autograd.grad(((said - costs) ** 2).mean(), list(weights.values())))
        weights = {
            name: (w - INNER_RATE * g).detach().requires_grad_()
            for (name, w), g in zip(weights.items(), gradients, strict=True)
        }
    return weights


def help_style(track: Track, training: Sequence[str]) -> Predict:
    """A network conditioned on the calibration points and adapted to them, meta-trained over devices."""
    x = torch.from_numpy(_features(track).astype(np.float32))
    logs = torch.from_numpy(np.nan_to_num(track.logs).astype(np.float32))
    known = torch.from_numpy(np.isfinite(track.logs).any(0).astype(np.float32))
    torch.manual_seed(0)
    network, rng = _Helper(x.shape[1]), np.random.default_rng(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    sets = [track.rows(name) for name in training]
    for _ in range(OUTER_STEPS):
        rows = sets[int(rng.integers(len(sets)))]
        shuffled = rng.permutation(rows)
        chosen, tested = shuffled[:5], shuffled[5 : 5 + QUERY]
        level = logs[chosen].mean(0)
        weights = _adapted(network, x[chosen], (logs[chosen] - level) * known)
        said = torch.func.functional_call(network, weights, (x[chosen], (logs[chosen] - level) * known, x[tested]))
        loss = nn.functional.smooth_l1_loss(said * known, (logs[tested] - level) * known, beta=0.2)
        gradients = _clipped(torch.autograd.grad(loss, list(weights.values())))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()

    def predict(chosen: np.ndarray, tested: np.ndarray) -> np.ndarray:
        level = logs[chosen].mean(0)
        costs = (logs[chosen] - level) * known
        weights = _adapted(network, x[chosen], costs)
        with torch.no_grad():
            out = torch.func.functional_call(network, weights, (x[chosen], costs, x[tested])) + level
        return np.where(known.numpy() > 0, out.numpy().astype(float), np.nan)

    return predict
