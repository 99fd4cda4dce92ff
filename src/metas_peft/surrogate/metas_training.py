"""Training of the set transformer: percentage error on simulated devices, which are all it ever learns from."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metas_peft.surrogate.additive import basis, distance
from metas_peft.surrogate.set_transformer import SetTransformer, Size, log_scale
from metas_peft.surrogate.simulated_episodes import Episodes, Recipe, Universe, draw_episodes

logger = logging.getLogger(__name__)

WEIGHTS = (1.0, 1.0, 0.7)  # of energy, latency and peak power in the loss
SPREAD_WEIGHT = 0.02  # of the likelihood of the errors' size, which the errors themselves do not feel
EASY = 0.01  # error of the roofline below which an episode gains no more weight
LINEAR_BEYOND = 1.5  # log error from which a too high prediction counts linearly


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: Steps of AdamW.
        learning_rate: At its highest; a short warm-up, then a cosine.
        replay: Part of the steps that use an earlier batch again.
        keep: Batches kept for that.
    """

    steps: int = 6000
    learning_rate: float = 1.5e-3
    replay: float = 0.6
    keep: int = 1500


def percentage_loss(error: torch.Tensor) -> torch.Tensor:
    """The absolute percentage error of log errors, linear far out; elementwise."""
    high = torch.expm1(error.clamp(max=LINEAR_BEYOND)) + (error - LINEAR_BEYOND).clamp_min(0) * 4.5
    return torch.where(error > 0, high, 1 - torch.exp(error.clamp(max=0)))


def loss_of(network: SetTransformer, batch: Episodes, recipe: Recipe) -> torch.Tensor:
    """Loss of a batch."""
    mixture, spread = network(batch.reading, recipe.schema)
    error = (mixture.log_costs(batch.terms) - batch.logs).clamp(-4, 4)
    far = distance(recipe.schema, batch.terms / mixture.scale[:, None])[..., None]
    scale = log_scale(spread[:, None], far)
    likelihood = error.detach().abs() * (-scale).exp() + scale  # of a Laplace distribution
    share = torch.tensor(WEIGHTS) * torch.tensor(recipe.metrics)
    losses = (percentage_loss(error) + SPREAD_WEIGHT * likelihood) * share
    return (losses.mean((1, 2)) * _episode_weights(batch, recipe)).mean()


def _episode_weights(batch: Episodes, recipe: Recipe) -> torch.Tensor:
    """Weight of each episode, shape (B,), of mean 1.

    Where targets are free of noise, episodes that the plain roofline predicts to a per cent would count for nothing
    beside those that it misses by half; each counts by its error relative to the roofline's.
    """
    if not recipe.exact:
        return torch.ones(len(batch.terms))
    reading = batch.reading
    scale = reading.scale.float()[:, None]
    sums = torch.einsum("bqp,bup->bqu", basis(recipe.schema, batch.terms / scale, scale), reading.fitted[:, 0])
    off = sums.clamp_min(1e-30).log() + reading.level[:, None, :2].float() - batch.logs[..., :2]
    weights = 1 / (EASY + off.clamp(-1, 1).expm1().abs().mean((1, 2)).clamp(max=0.5))
    return weights / weights.mean()


def new_network(recipe: Recipe, universes: Sequence[Universe], seed: int, experts: int = 3) -> SetTransformer:
    """A network of the right sizes."""
    probe = draw_episodes(recipe, universes, np.random.default_rng(0), points=5)
    torch_seed = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = SetTransformer(
        Size(
            tokens=probe.reading.tokens.shape[-1],
            summary=probe.reading.summary.shape[-1],
            terms=probe.terms.shape[-1],
            basis=probe.reading.fitted.shape[-1],
            experts=experts,
        )
    )
    torch.random.set_rng_state(torch_seed)
    return network


def train_network(
    network: SetTransformer,
    recipe: Recipe,
    universes: Sequence[Universe],
    schedule: Schedule,
    *,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> SetTransformer:
    """Train a copy of the network.

    Args:
        network: Where to start.
        recipe: How episodes are drawn.
        universes: Passes that simulated devices run.
        schedule: How long and how fast.
        seed: Of the episodes.
        progress: Called with the finished part in [0, 1].
    """
    network = copy.deepcopy(network).train()
    rng = np.random.default_rng([seed, 2])
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=1e-3)
    kept: list[Episodes] = []
    recent: list[float] = []
    for step in range(schedule.steps):
        part = step / schedule.steps
        rate = schedule.learning_rate * min(1.0, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate
        if len(kept) > 100 and rng.random() < schedule.replay:
            batch = kept[int(rng.integers(len(kept)))]
        else:
            batch = draw_episodes(recipe, universes, rng)
            kept.append(batch)
            del kept[: -schedule.keep]
        loss = loss_of(network, batch, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 500 == 0:
            logger.info("Step %d: loss %.4f.", step + 1, np.mean(recent[-500:]))
            if progress is not None:
                progress((step + 1) / schedule.steps)
    return network.eval()
