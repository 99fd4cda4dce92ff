"""Training many members of a front at once, in the weights that they share."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from metas_peft.core.subnet import Subnet
from metas_peft.tuning.members import MemberView
from metas_peft.tuning.objectives import DistilledObjective

SHIPPED = 0.75  # of the draws; the others are for members that `metas deploy` may cut from the same weights


class JointObjective:
    """Distilled training of many members at once: each step one of the larger and one of the smaller half.

    Sandwich-style sampling (Yu and Huang 2019, "Universally Slimmable Networks").

    Args:
        view: The model as its members.
        distilled: The loss.
        members: Subnets to train, largest first.
        shipped: Those of them that will be cut out; `SHIPPED` of the draws are among them alone, if a half has any.
        seed: Seed of the sampling.

    Attributes:
        halves: The larger and the smaller members.
    """

    def __init__(
        self,
        view: MemberView,
        distilled: DistilledObjective,
        members: list[Subnet],
        shipped: Collection[Subnet],
        seed: int,
    ) -> None:
        self._view, self._distilled = view, distilled
        middle = max(1, len(members) // 2)
        self.halves = [half for half in (members[:middle], members[middle:]) if half]
        self._pools = [(half, [s for s in half if s in shipped] or half) for half in self.halves]
        self._rng = np.random.default_rng(seed)

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean distilled loss over one member of each half."""
        losses = []
        for every, shipped in self._pools:
            pool = shipped if self._rng.random() < SHIPPED else every
            self._view.activate(pool[int(self._rng.integers(len(pool)))])
            losses.append(self._distilled.loss(model, batch))
        return torch.stack(losses).mean()

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""
