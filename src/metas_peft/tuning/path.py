"""A nested path: which unit goes next, from the whole model down to the smallest member.

Each kept head and FFN block of the trained dense model carries a gate fixed at 1; the running mean of the squared
gradient of the loss with respect to it says how much the loss would feel its removal. The unit with the least
importance per *predicted marginal cost on the target* goes first; where few of its kind are left it counts for more.
The marginal cost is the gradient of the weighted cost through the cost model: this is where the device decides what is
removed. Nothing is trained meanwhile.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from metas_peft.core.errors import TrainingDivergedError
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.tuning.budgets import Limits
from metas_peft.tuning.members import MemberView
from metas_peft.tuning.objectives import DistilledObjective
from metas_peft.tuning.pricing import Price, flops_fraction

# Squares of a large batch's gradients are those of a mean, in which the texts cancel: small batches tell more.
BATCH_SIZE = 8
DECAY = 0.98  # of the running mean of squared gradients
WARMUP_BATCHES = 40  # before the first removal; with fewer batches everything goes after the last
SCHEDULE_POWER = 1.5
# An importance is that of one unit while all others stay. The fewer a sub-layer has left, the more each has to carry
# once the model is trained without the others, which importances of the untrained model do not tell: they are divided
# by the part that is left, to this power. At 0 whole sub-layers go early; the higher, the nearer to equal widths.
SCARCITY = 1.0
SAVE_EVERY = 0.005  # of the dense FLOPs: what a member may be smaller than its operating point allows
# Of a fraction that is compared with an operating point: half of the layers have 50.005 % of the operations, the head's
# included.
TOLERANCE = 1e-3


class PathSearch:
    """Removal of unit after unit from a trained model; afterwards `path` holds nested subnets, largest first.

    The pace is set in FLOPs, so that methods can be compared at equal size; *what* goes is decided by the price.

    Args:
        view: The model as its members, units in order of importance.
        distilled: The loss.
        price: Weighted relative cost on the target.
        workload: What is priced.
        end: Fraction of the dense FLOPs at which the path ends.
        limits: Budgets that a subnet on the path is to hold, for which it goes on beyond its end; None for none.
    """

    def __init__(
        self, view: MemberView, distilled: DistilledObjective, price: Price, workload: Workload, end: float,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self._view, self._distilled, self._price, self._workload, self._end = view, distilled, price, workload, end
        self._limits = limits
        shape = view.shape
        self._heads = np.full(shape.n_layers, shape.n_kv_heads)
        self._blocks = np.full(shape.n_layers, shape.ffn_blocks)
        self._scores = {
            "head": np.zeros((shape.n_layers, shape.n_kv_heads)),
            "ffn_block": np.zeros((shape.n_layers, shape.ffn_blocks)),
        }
        self.path: list[Subnet] = [self.current]
        self._fraction = 1.0

    @property
    def importances(self) -> dict[str, np.ndarray]:
        """What the removals went by: per kind the running mean of squared gradients, (L, units)."""
        return {name: scores.copy() for name, scores in self._scores.items()}

    @property
    def current(self) -> Subnet:
        """The subnet as it stands."""
        return Subnet.prefix(self._heads.tolist(), self._blocks.tolist())

    def run(
        self,
        model: Any,
        batches: Iterable[dict[str, torch.Tensor]],
        count: int,
        *,
        bf16: bool = False,
        progress: bool = True,
    ) -> None:
        """Walk down from the whole model.

        Args:
            model: What the loss calls; its weights stay as they are.
            batches: Training texts, at least `count` batches.
            count: Batches to look at.
            bf16: Whether to autocast.
            progress: Whether to show a progress bar.

        Raises:
            TrainingDivergedError: The loss is not finite.
        """
        first = min(WARMUP_BATCHES, count)
        bar = tqdm(total=count, desc="path", delay=2.0, leave=False, disable=not progress, dynamic_ncols=True)
        with bar:
            for number, batch in zip(range(1, count + 1), batches, strict=False):
                self._look(model, batch, bf16)
                if number >= first:
                    left = (count - number) / (count - first) if count > first else 0.0
                    target = self._end + (1 - self._end) * left**SCHEDULE_POWER
                    while self._fraction > max(target, self._end):
                        self._remove_one()
                bar.update()
        if self._limits is not None:
            self._go_on(self._limits)

    def _go_on(self, limits: Limits) -> None:
        """Remove beyond the end, by the importances as they are, until budgets hold or one unit is left.

        The price may keep what the budgets forbid (a latency budget under weights that look at energy alone), so that
        no size tells beforehand where they hold.
        """
        is_held, self._end = bool(limits.hold(self.path).any()), 0.0
        while not is_held and self._fraction > 0:
            self._remove_one()
            is_held = bool(limits.hold([self.current])[0])
        if self.path[-1] != self.current:
            self.path.append(self.current)

    def _look(self, model: Any, batch: dict[str, torch.Tensor], bf16: bool) -> None:
        """Put a fresh gate on each unit that is left and take one batch's gradients into the importances."""
        device = next(self._view.model.parameters()).device
        batch = {k: v.to(device) for k, v in batch.items()}
        gates = {
            name: [torch.ones(max(int(n), 1), requires_grad=True, device=device) for n in counts]
            for name, counts in (("head", self._heads), ("ffn_block", self._blocks))
        }
        self._view.activate(self.current)
        self._view.set_gates(list(gates["head"]), list(gates["ffn_block"]))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = self._distilled.loss(model, batch)
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss.item()} while units are chosen for removal: the dense model has diverged. Lower "
                "training.learning_rate or use model.precision=float32."
            )
        every = [gate for of_kind in gates.values() for gate in of_kind]
        gradients = iter(torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True))
        for name, scores in self._scores.items():
            scores *= DECAY
            for row, gate in zip(scores, gates[name], strict=True):
                row[: len(gate)] += (1 - DECAY) * next(gradients).cpu().numpy() ** 2
        layers = self._view.shape.n_layers
        self._view.set_gates([None] * layers, [None] * layers)

    def _remove_one(self) -> None:
        """Take the unit with the least importance per price; the path ends where none may go."""
        per_head, per_block = self._price.marginal(self._heads, self._blocks)
        best = (np.inf, "", 0)
        for name, counts, price in (("head", self._heads, per_head), ("ffn_block", self._blocks, per_block)):
            for i, count in enumerate(counts):
                if count:
                    units = self._scores[name][i]
                    # The last two units: one alone is too noisy an estimate.
                    importance = units[max(0, count - 2) : count].mean() * (len(units) / count) ** SCARCITY
                    best = min(best, (float(importance / price[i]), name, i))
        _, name, i = best
        if self._heads.sum() + self._blocks.sum() == 1:
            self._fraction = 0.0  # one unit must remain: the path ends here
            if self.path[-1] != self.current:
                self.path.append(self.current)
            return
        (self._heads if name == "head" else self._blocks)[i] -= 1
        self._fraction = flops_fraction(self.current, self._view.shape, self._workload)
        last = flops_fraction(self.path[-1], self._view.shape, self._workload)
        if last - self._fraction >= SAVE_EVERY or self._fraction <= self._end:
            self.path.append(self.current)


def largest_within(path: list[Subnet], fraction: float, shape: Any, workload: Workload) -> Subnet:
    """The largest subnet of a path with at most a fraction of the dense FLOPs; the smallest if none fits."""
    fitting = [s for s in path if flops_fraction(s, shape, workload) <= fraction + TOLERANCE]
    return fitting[0] if fitting else path[-1]
