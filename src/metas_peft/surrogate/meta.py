"""Leave-one-device-out meta-training of the source's network.

Each episode hides one device, adapts (tag and scale; the level in closed form) to five of its samples and is scored on
other samples of it; the outer loop minimises that score. Beside it the other devices are learnt outright, with tag
mixup: two devices and two records, blended tag, features and target with a Beta-distributed weight, so that the space
between tags means something. A crossed pool makes the two records the same pass.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from metas_peft.core.errors import InvalidRecordError
from metas_peft.surrogate.episodes import MetaTraining, Sampler
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.network import Standardiser, Weights, initial_weights
from metas_peft.surrogate.reference import ReferenceKind

logger = logging.getLogger(__name__)

MIN_DEVICES = 3


def meta_train(
    table: Table,
    hidden: Sequence[str | None],
    *,
    seed: int,
    n_seeds: int = 2,
    training: MetaTraining | None = None,
    standardiser: Standardiser | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[ReferenceKind]:
    """Train the reference network, once per entry of `hidden`, side by side.

    Args:
        table: Records of the pool.
        hidden: Devices to leave out altogether, one at a time; None leaves out nothing.
        seed: Of everything random.
        n_seeds: Networks per entry, averaged when predicting.
        training: Settings of the training.
        standardiser: Of the features, where they are not the columns of a pass.
        progress: Called with the finished part in [0, 1].

    Returns:
        One kind per entry of `hidden`.

    Raises:
        InvalidRecordError: Fewer than three devices would be left to learn from.
    """
    training = training or MetaTraining()
    members = [(name, s) for name in hidden for s in range(n_seeds)]
    present = table.present()
    allowed = [[d for d in present if table.devices[d] != name] for name, _ in members]
    if min(map(len, allowed)) < MIN_DEVICES - 1 or len(present) < MIN_DEVICES:
        raise InvalidRecordError(
            f"The pool holds {len(present)} device(s) ({', '.join(table.devices)}); meta-training with one device left "
            f"out needs at least {MIN_DEVICES}. Add records of more devices."
        )
    # Features are standardised over all devices: they are counts of passes and tell nothing about a hidden device.
    standardiser = standardiser or Standardiser.learn(torch.from_numpy(table.features))
    sampler = Sampler(table, allowed, standardiser, training, np.random.default_rng([seed, 1]))
    seeds = [1_000_003 * seed + s for _, s in members]
    weights = initial_weights(seeds, table.features.shape[1], len(table.devices))
    for value in weights.values():
        value.requires_grad_()
    optimiser = torch.optim.Adam(weights.values(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    loss = torch.zeros(len(members))
    for step in range(training.steps):
        loss = sampler.mixup_loss(weights)
        if training.meta:
            loss = loss + sampler.episode_loss(weights)
        optimiser.zero_grad()
        loss.sum().backward()
        _clip_per_network(weights)
        optimiser.step()
        schedule.step()
        if progress is not None and step % 20 == 19:
            progress((step + 1) / training.steps)
    mean = float(loss.detach().mean())
    logger.info("Meta-trained %d networks on %d records; final loss %.4f.", len(members), len(table), mean)
    return [
        _kind(weights, standardiser, sampler, list(range(i * n_seeds, (i + 1) * n_seeds)), training.inner_steps)
        for i in range(len(hidden))
    ]


def _clip_per_network(weights: Weights, limit: float = 1.0) -> None:
    """Scale each network's gradient to a norm of at most `limit`, independently of its neighbours."""
    squares = [w.grad.flatten(1).square().sum(1) for w in weights.values() if w.grad is not None]
    factor = (limit / torch.stack(squares).sum(0).sqrt().clamp_min(1e-12)).clamp(max=1.0)
    for w in weights.values():
        if w.grad is not None:
            w.grad.mul_(factor.view(-1, *[1] * (w.grad.dim() - 1)))


def _kind(
    weights: Weights, standardiser: Standardiser, sampler: Sampler, networks: list[int], inner_steps: int
) -> ReferenceKind:
    """The finished kind of the given networks, in double precision."""
    devices = sampler.allowed[networks[0]]
    chosen = {name: value.detach()[networks].to(torch.float64) for name, value in weights.items()}
    start = chosen["tags"][:, devices].mean(1, keepdim=True)
    return ReferenceKind(chosen, start, sampler.levels[devices].mean(0), standardiser, inner_steps)
