"""The best tree of a given depth over two features: found by trying every one on a grid, not grown greedily.

Each feature is cut at no more than `BINS - 1` places, evenly spread over the recorded inputs. What a leaf is worth to a
member is then the sum over a rectangle of bins, so that every tree of depth 3 is looked at in half a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metas_peft.control.tree import LEAF, ControllerTree
from metas_peft.core.errors import InvalidRecordError

DEPTH = 3
BINS = 64
# A split must gain more than rounding does, as a fraction of the worths' size.
LEAST_GAIN = 1e-9

Box = tuple[int, int, int, int]  # bins of the first feature from, to; of the second from, to
Split = tuple[float, int, int, int]  # worth, feature (or `LEAF`), place, nodes of the tree below


def fit(
    entropy: np.ndarray,
    position: np.ndarray,
    worth: np.ndarray,
    depth: int = DEPTH,
    *,
    members: Sequence[int] | None = None,
    bins: int = BINS,
) -> ControllerTree:
    """The tree whose choices are worth most in sum over the recorded inputs.

    Args:
        entropy: Token entropy of each recorded input, nats, shape (N,).
        position: Position of each, shape (N,).
        worth: What it is worth to send an input to a member, in any unit, shape (N, M). One-hot rows repeat recorded
            choices.
        depth: Comparisons at most; a split that gains nothing is left out.
        members: Those that may be chosen; all by default.
        bins: Parts into which each feature is cut at most.

    Raises:
        InvalidRecordError: No input, lengths that differ, a number that is not finite, or no member.
    """
    features = np.column_stack([np.asarray(entropy, np.float32), np.asarray(position, np.float32)])
    worth = np.asarray(worth, np.float64)
    allowed = list(range(worth.shape[1])) if members is None else sorted(set(members))
    if worth.ndim != 2 or not len(worth) or features.shape != (len(worth), 2) or not allowed:
        raise InvalidRecordError(
            f"A controller needs the worth of each member for each input, seen shape {worth.shape} for "
            f"{len(features)} inputs and {len(allowed)} members."
        )
    if not np.isfinite(features).all() or not np.isfinite(worth).all():
        raise InvalidRecordError("A recorded feature or worth is not finite; leave such inputs out.")
    cuts = [_cuts(features[:, f], bins) for f in range(2)]
    search = _Search(_sums(features, cuts, worth[:, allowed]), LEAST_GAIN * float(np.abs(worth).sum()))
    whole: Box = (0, len(cuts[0]) + 1, 0, len(cuts[1]) + 1)
    nodes = _Nodes(search, cuts, allowed)
    nodes.add(whole, depth)
    return nodes.tree()


def _cuts(values: np.ndarray, bins: int) -> list[float]:
    """Thresholds between neighbouring values, no more than `bins - 1`, ascending."""
    known = np.unique(values)
    ranks: list[float] = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf").tolist()
    lower = sorted({int(np.searchsorted(known, np.float32(v))) for v in ranks} - {len(known) - 1})
    return [_between(known[i], known[i + 1]) for i in lower]


def _between(low: np.float32, high: np.float32) -> float:
    """The middle of two 32-bit floats, as one that is not below the first and below the second."""
    middle = np.float32((float(low) + float(high)) / 2)
    return float(middle if low <= middle < high else low)


def _sums(features: np.ndarray, cuts: Sequence[Sequence[float]], worth: np.ndarray) -> np.ndarray:
    """Worth of everything below a corner of the grid, shape (bins + 1, bins + 1, M)."""
    place = [np.searchsorted(np.array(cuts[f], np.float32), features[:, f], side="left") for f in range(2)]
    sums = np.zeros((len(cuts[0]) + 2, len(cuts[1]) + 2, worth.shape[1]))
    np.add.at(sums, (place[0] + 1, place[1] + 1), worth)
    return sums.cumsum(0).cumsum(1)


@dataclass(frozen=True)
class _Search:
    """Worth of the best tree below any box of bins."""

    sums: np.ndarray
    tolerance: float
    known: dict[tuple[Box, int], Split] = field(default_factory=dict[tuple[Box, int], Split])

    def inside(self, box: Box) -> np.ndarray:
        """Worth per member, shape (M,)."""
        a, b, c, d = box
        return self.sums[b, d] - self.sums[a, d] - self.sums[b, c] + self.sums[a, c]

    def best(self, box: Box, depth: int) -> Split:
        """The best split, of equals that with the fewest nodes below; feature `LEAF` where none gains."""
        if (box, depth) not in self.known:
            self.known[box, depth] = self._one(box) if depth == 1 else self._many(box, depth)
        return self.known[box, depth]

    def _many(self, box: Box, depth: int) -> Split:
        found: Split = (float(self.inside(box).max()), LEAF, 0, 1)
        if depth:
            for feature in range(2):
                for cut in range(box[2 * feature] + 1, box[2 * feature + 1]):
                    low, high = (self.best(side, depth - 1) for side in sides(box, feature, cut))
                    split = (low[0] + high[0], feature, cut, 1 + low[3] + high[3])
                    gain = split[0] - found[0]
                    if gain > self.tolerance or (gain >= -self.tolerance and split[3] < found[3]):
                        found = split
        return found

    def _one(self, box: Box) -> Split:
        """The best single split, all places of a feature at once."""
        a, b, c, d = box
        whole = self.inside(box)
        found: Split = (float(whole.max()), LEAF, 0, 1)
        lower = (
            self.sums[a + 1 : b, d] - self.sums[a, d] - self.sums[a + 1 : b, c] + self.sums[a, c],
            self.sums[b, c + 1 : d] - self.sums[b, c] - self.sums[a, c + 1 : d] + self.sums[a, c],
        )
        for feature, below in enumerate(lower):
            if len(below):
                worth = below.max(1) + (whole - below).max(1)
                cut = int(worth.argmax())
                if worth[cut] > found[0] + self.tolerance:
                    found = (float(worth[cut]), feature, box[2 * feature] + 1 + cut, 3)
        return found


def sides(box: Box, feature: int, cut: int) -> tuple[Box, Box]:
    """The two parts of a box."""
    a, b, c, d = box
    return ((a, cut, c, d), (cut, b, c, d)) if feature == 0 else ((a, b, c, cut), (a, b, cut, d))


@dataclass(frozen=True)
class _Nodes:
    """Collects the nodes of the best tree in pre-order."""

    search: _Search
    cuts: Sequence[Sequence[float]]
    members: Sequence[int]
    columns: list[tuple[int, float, int, int, int]] = field(default_factory=list[tuple[int, float, int, int, int]])

    def add(self, box: Box, depth: int) -> int:
        """Append the node of a box and what lies below it; its number."""
        number = len(self.columns)
        _, feature, cut, _ = self.search.best(box, depth) if depth else (0.0, LEAF, 0, 1)
        if feature == LEAF:
            self.columns.append((LEAF, 0.0, LEAF, LEAF, self.members[int(self.search.inside(box).argmax())]))
            return number
        self.columns.append((LEAF, 0.0, LEAF, LEAF, 0))
        left, right = (self.add(side, depth - 1) for side in sides(box, feature, cut))
        self.columns[number] = (feature, self.cuts[feature][cut - 1], left, right, LEAF)
        return number

    def tree(self) -> ControllerTree:
        """The nodes as a tree."""
        feature, threshold, left, right, member = zip(*self.columns, strict=True)
        return ControllerTree(feature, threshold, left, right, member)
