"""A nested path: which unit goes next, from the whole model down to the smallest member.

While the model is trained, each kept head and FFN block carries a gate fixed at 1; the running mean of the
squared gradient of the loss with respect to it says how much the loss would feel its removal. The unit with the
least importance per *predicted marginal cost on the target* goes first. The marginal cost is the gradient of the
weighted cost through the cost model: this is where the device decides what is removed.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from metas_peft.backbones import NestedModel
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.tuning.objectives import DistilledObjective
from metas_peft.tuning.pricing import Price, flops_fraction

DECAY = 0.95  # of the running mean of squared gradients
WARMUP_STEPS = 10  # before the first removal; a shorter path removes everything after its last step
SCHEDULE_POWER = 1.5
SAVE_EVERY = 0.02  # of the dense FLOPs
# Of a fraction that is compared with an operating point: half of the layers have 50.005 % of the operations, the head's
# included.
TOLERANCE = 1e-3


class PathObjective:
    """Distilled training of a shrinking model; afterwards `path` holds nested subnets, largest first.

    The pace is set in FLOPs, so that methods can be compared at equal size; *what* goes is decided by the price.

    Args:
        view: Nested views of the model, in order of importance.
        distilled: The loss.
        price: Weighted relative cost on the target.
        workload: What is priced.
        end: Fraction of the dense FLOPs at which the path ends.
    """

    def __init__(
        self, view: NestedModel, distilled: DistilledObjective, price: Price, workload: Workload, end: float
    ) -> None:
        self._view, self._distilled, self._price, self._workload, self._end = view, distilled, price, workload, end
        shape = view.shape
        self._heads = np.full(shape.n_layers, shape.n_kv_heads)
        self._blocks = np.full(shape.n_layers, shape.ffn_blocks)
        self._scores = {
            "head": np.zeros((shape.n_layers, shape.n_kv_heads)),
            "ffn_block": np.zeros((shape.n_layers, shape.ffn_blocks)),
        }
        self.path: list[Subnet] = [self.current]
        self._gates: dict[str, list[torch.Tensor]] = {}
        self._fraction = 1.0
        self._open()

    @property
    def importances(self) -> dict[str, np.ndarray]:
        """What the removals went by: per kind the running mean of squared gradients, (L, units)."""
        return {name: scores.copy() for name, scores in self._scores.items()}

    @property
    def current(self) -> Subnet:
        """The subnet as it stands."""
        return Subnet.prefix(self._heads.tolist(), self._blocks.tolist())

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Distilled loss of the current subnet."""
        return self._distilled.loss(model, batch)

    def after_step(self, step: int, steps: int) -> None:
        """Update the importances and remove units while the path is behind its schedule."""
        for name, gates in self._gates.items():
            squared = np.zeros_like(self._scores[name])
            for i, gate in enumerate(gates):
                if gate.grad is not None:
                    squared[i, : len(gate)] = gate.grad.cpu().numpy() ** 2
            self._scores[name] = DECAY * self._scores[name] + (1 - DECAY) * squared
        if step >= min(WARMUP_STEPS, steps):
            target = self._end + (1 - self._end) * (1 - step / steps) ** SCHEDULE_POWER
            while self._fraction > max(target, self._end):
                self._remove_one()
        self._open()

    def _remove_one(self) -> None:
        per_head, per_block = self._price.marginal(self._heads, self._blocks)
        best = (np.inf, "", 0)
        for name, counts, price in (("head", self._heads, per_head), ("ffn_block", self._blocks, per_block)):
            for i, count in enumerate(counts):
                if count:
                    # The last two units: one alone is too noisy an estimate.
                    score = self._scores[name][i, max(0, count - 2) : count].mean() / price[i]
                    best = min(best, (float(score), name, i))
        _, name, i = best
        if self._heads.sum() + self._blocks.sum() == 1:
            self._fraction = 0.0  # one unit must remain: the path ends here
            return
        (self._heads if name == "head" else self._blocks)[i] -= 1
        self._fraction = flops_fraction(self.current, self._view.shape, self._workload)
        last = flops_fraction(self.path[-1], self._view.shape, self._workload)
        if last - self._fraction >= SAVE_EVERY or self._fraction <= self._end:
            self.path.append(self.current)

    def _open(self) -> None:
        """Activate the current subnet and put a fresh gate on each of its units."""
        device = next(self._view.model.parameters()).device

        def ones(counts: np.ndarray) -> list[torch.Tensor]:
            return [torch.ones(max(int(n), 1), requires_grad=True, device=device) for n in counts]

        self._gates = {"head": ones(self._heads), "ffn_block": ones(self._blocks)}
        self._view.activate(self.current)
        self._view.set_gates(list(self._gates["head"]), list(self._gates["ffn_block"]))


class JointObjective:
    """Distilled training of many members at once: each step one of the larger and one of the smaller half.

    Sandwich-style sampling (Yu and Huang 2019, "Universally Slimmable Networks").

    Args:
        view: Nested views of the model.
        distilled: The loss.
        members: Subnets to train, largest first.
        shipped: Those of them that will be cut out; drawn alone in half of the draws, if a half has any.
        seed: Seed of the sampling.

    Attributes:
        halves: The larger and the smaller members.
    """

    def __init__(
        self,
        view: NestedModel,
        distilled: DistilledObjective,
        members: list[Subnet],
        shipped: Collection[Subnet],
        seed: int,
    ) -> None:
        self._view, self._distilled = view, distilled
        middle = max(1, len(members) // 2)
        self.halves = [half for half in (members[:middle], members[middle:]) if half]
        # Per half the pools to draw from, each as often as the other.
        self._pools = [[half, [s for s in half if s in shipped] or half] for half in self.halves]
        self._rng = np.random.default_rng(seed)

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean distilled loss over one member of each half."""
        losses = []
        for pools in self._pools:
            pool = pools[int(self._rng.integers(len(pools)))]
            self._view.activate(pool[int(self._rng.integers(len(pool)))])
            losses.append(self._distilled.loss(model, batch))
        return torch.stack(losses).mean()

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do."""


def largest_within(path: list[Subnet], fraction: float, shape: Any, workload: Workload) -> Subnet:
    """The largest subnet of a path with at most a fraction of the dense FLOPs; the smallest if none fits."""
    fitting = [s for s in path if flops_fraction(s, shape, workload) <= fraction + TOLERANCE]
    return fitting[0] if fitting else path[-1]
