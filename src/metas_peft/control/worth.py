"""What a choice of members is worth: the useful hyper-volume of one operating point, and its first-order change.

The volume of a point is a product of four gains, one per axis, so that of two ways to send inputs to members the better
one is that with the larger sum of worths, where the worth of a member for an input is

    right / (quality - floor) - energy / (reference - mean energy) - latency / (reference - mean latency)

with means, quality and floor of the point around which the volume is taken for linear. Peak power is no mean but the
highest of the members used; whoever maximises tries every limit on it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

USEFUL_MARGIN = 0.05  # of quality below dense: where the axis begins
REFERENCE_MARGIN = 1.1  # of dense cost: where the axes of cost begin
ROUNDS = 8  # of linearising anew; it settles in two or three
POWER = 2  # column of the peak power


@dataclass(frozen=True)
class Point:
    """An operating point: mean quality, and the share of the inputs that each member answers, shape (M,)."""

    quality: float
    share: np.ndarray


def point_of(right: np.ndarray, choice: np.ndarray) -> Point:
    """Where sending each input to its member leads.

    Args:
        right: Expected share of right answers, shape (N, M).
        choice: Chosen members, shape (N,).
    """
    share = np.bincount(choice, minlength=right.shape[1]) / len(choice)
    return Point(float(right[np.arange(len(choice)), choice].mean()), share)


def mean_cost(costs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mean energy and latency, and the highest peak power used, shape (3,).

    Args:
        costs: Energy (J), latency (ms), peak power (W) of one pass of each member, shape (M, 3).
        share: Share of the inputs that each member answers, shape (M,).
    """
    mean = share @ costs
    mean[POWER] = costs[share > 0, POWER].max()
    return mean


@dataclass(frozen=True)
class Stakes:
    """What is at stake on one device.

    Attributes:
        costs: Energy (J), latency (ms), peak power (W) of one pass of each member, shape (M, 3).
        dense_cost: The same of the dense model, shape (3,).
        dense_quality: Share of right answers of the dense model on the inputs that are looked at.
    """

    costs: np.ndarray
    dense_cost: np.ndarray
    dense_quality: float

    @property
    def floor(self) -> float:
        """Quality at which the volume begins."""
        return self.dense_quality - USEFUL_MARGIN

    @property
    def reference(self) -> np.ndarray:
        """Costs at which the volume ends, shape (3,)."""
        return REFERENCE_MARGIN * self.dense_cost

    def volume(self, point: Point) -> float:
        """Useful hyper-volume of one operating point, in [0, 1]; 0 below the floor or beyond a reference."""
        gain = (point.quality - self.floor) / (1.0 - self.floor)
        gains = np.append(1.0 - mean_cost(self.costs, point.share) / self.reference, gain)
        return float(np.prod(gains.clip(0.0, 1.0)))

    def worth(self, right: np.ndarray, around: Point) -> np.ndarray:
        """First-order change of the log volume, up to a constant, for each input and member.

        Args:
            right: Expected share of right answers, shape (N, M).
            around: A point with a volume above 0.

        Returns:
            Shape (N, M).
        """
        room = (self.reference - mean_cost(self.costs, around.share))[:POWER]
        return right / (around.quality - self.floor) - (self.costs[:, :POWER] / room).sum(1)

    def static(self, right: np.ndarray) -> int:
        """The best member for all inputs: by volume, and by quality where none has any.

        Args:
            right: Expected share of right answers, shape (N, M).
        """
        quality = right.mean(0)
        volumes = [self.volume(Point(float(q), s)) for q, s in zip(quality, np.eye(len(quality)), strict=True)]
        return int(np.argmax(volumes) if max(volumes) > 0 else np.argmax(quality))


def settle(
    stakes: Stakes, right: np.ndarray, start: Point, choose: Callable[[np.ndarray], np.ndarray]
) -> tuple[Point, Point]:
    """Linearise, choose, and linearise around what came out, as long as the volume grows.

    Args:
        stakes: The volume.
        right: Expected share of right answers, shape (N, M).
        start: Where to linearise first; a point with a volume above 0.
        choose: Worths (N, M) to chosen members (N,).

    Returns:
        The best point met, and the point around which its choice was made.
    """
    best, around = start, start
    for _ in range(ROUNDS):
        linear = best
        found = point_of(right, choose(stakes.worth(right, linear)))
        if stakes.volume(found) <= stakes.volume(best):
            break
        best, around = found, linear
    return best, around
