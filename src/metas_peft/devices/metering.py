"""How a meter is read on a machine that does other things as well: in rounds against an anchor, as passes are timed.

    round 1   |  B  |  A* |  D  |  C  |     a window each: passes back to back, for at least 20 update periods
    round 2   |  A* |  C  |  B  |  D  |     random order; A* is the anchor, part of every round
    round 3   |  D  |  A* |  B  |  C  |     at least three rounds, however long they take
    round 4   |  A* |  D  |                 a subject leaves when its median is known well enough
      ...
    ratio     energy of a pass by that of the anchor's pass of the same round
    result    median of a subject's ratios, times the anchor's reference energy; the peak is the highest of all windows
    end       every median is known to the tolerance, or the time limit is reached (the record says which)

A window that knows its energy badly (slow meter, samples in step with the passes) is twice as long in the next round,
while there is time. Its length varies a little anyway, so that passes and meter do not begin each window in step.

What another program draws does not cancel as the time it takes does: it adds the same power to a small model and to a
large one. So the anchor's own energy has to hold still. A round does not count when its anchor's energy differs by more
than `ANCHOR_STEP` from that of the round before or after it: something began or ended in between. And a result is
marked invalid, with the reason, when too few rounds are left, when the anchor moved by more than that over the rounds
or since the reference was measured, or when the energy is known worse than `WORTHLESS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metas_peft.devices.median import FEWEST_WINDOWS, windows_known_to
from metas_peft.devices.meters.base import KNOWN_TO_PCT, MeterReading

Array = np.ndarray
Busy = Callable[[int, float], tuple[MeterReading, int]]

LONGEST_WINDOW_S = 30.0
DITHER = 0.1  # of the length of a window
ANCHOR_STEP = 0.2
WORTHLESS = 0.25
STANDARD_TO_95 = 2.0  # from a standard uncertainty to the half width of the 95 % interval


@dataclass(frozen=True)
class EnergyScale:
    """Energy of the anchor's pass when it was first measured, in J, and how well it is known, as a fraction."""

    energy_j: float
    known_to: float


@dataclass(frozen=True)
class Take:
    """One window of one subject: what the meter said, and how many passes were run."""

    reading: MeterReading
    passes: int

    @property
    def energy_j(self) -> float:
        """Energy of a pass."""
        return self.reading.total_j / self.passes


@dataclass(frozen=True)
class Energy:
    """What the rounds tell of one subject.

    Attributes:
        energy_j: Energy of a pass, on the scale.
        std_j: Standard deviation over its windows, by the anchor's of the same round; of the anchor itself as read.
        known_to: Half width of the 95 % interval, the scale's included, as a fraction.
        takes: All its windows.
        left_out: Windows among them that do not count.
        is_cut_short: Whether the time limit came first.
        problem: Why it is not to be trusted; empty if it is.
    """

    energy_j: float
    std_j: float
    known_to: float
    takes: tuple[Take, ...]
    left_out: int
    is_cut_short: bool
    problem: str = ""


class MeteredRounds:
    """Windows of N subjects, round by round.

    Args:
        count: Subjects.
        anchor: Index of the one that takes part in every round.
        tolerance: How well a median must be known, as a fraction.
        scale: The anchor's reference energy; None if these rounds are to set it.
    """

    def __init__(self, count: int, anchor: int, tolerance: float, scale: EnergyScale | None) -> None:
        self._takes: list[list[Take | None]] = []
        self._count = count
        self._anchor = anchor
        self._tolerance = tolerance
        self._given = scale

    def run(
        self, busy: Busy, shortest_s: float, limit_s: float, clock_s: Callable[[], float], rng: np.random.Generator
    ) -> None:
        """Read the meter until every median is known, or time is up.

        Args:
            busy: Runs passes of a subject for some seconds and returns the reading and their number.
            shortest_s: Shortest window.
            limit_s: Time limit; three rounds are made in any case.
            clock_s: Monotonic clock.
            rng: Decides the order within rounds and the exact lengths of windows.
        """
        end_s = clock_s() + limit_s
        lengths_s = np.full(self._count, shortest_s)
        active = list(range(self._count))
        while True:
            row: list[Take | None] = [None] * self._count
            order: list[int] = rng.permutation(active).tolist()
            for index in order:
                take = Take(*busy(index, float(lengths_s[index] * (1.0 + DITHER * rng.random()))))
                row[index] = take
                if take.reading.known_to_pct > KNOWN_TO_PCT and clock_s() < end_s:
                    lengths_s[index] = min(2 * lengths_s[index], max(LONGEST_WINDOW_S, shortest_s))
            self._takes.append(row)
            if len(self._takes) < FEWEST_WINDOWS:
                continue
            unsettled = [i for i in range(self._count) if self._is_unsettled(i)]
            if not unsettled or clock_s() >= end_s:
                return
            active = sorted({self._anchor, *unsettled})

    @property
    def scale(self) -> EnergyScale:
        """The reference that was given, else the anchor's median of these rounds."""
        if self._given is not None:
            return self._given
        return EnergyScale(self.anchor_j, self._known_to(self._anchor))

    @property
    def anchor_j(self) -> float:
        """The anchor's median energy in these rounds."""
        energy_j = self._energies(self._anchor)
        return float(np.median(energy_j[self._rows(self._anchor)]))

    def energy(self, index: int) -> Energy:
        """What the rounds tell of a subject."""
        takes = tuple(take for row in self._takes if (take := row[index]) is not None)
        samples, scale = self._samples(index), self.scale
        is_anchor = index == self._anchor
        own = 0.0 if is_anchor else self._known_to(index)
        known_to = float(np.hypot(own, scale.known_to))
        counted = int((np.isfinite(self._energies(index)) & self._steady()).sum())
        return Energy(
            energy_j=scale.energy_j * (1.0 if is_anchor else float(np.median(samples))),
            std_j=float(np.std(samples, ddof=1)) * (1.0 if is_anchor else scale.energy_j),
            known_to=known_to,
            takes=takes,
            left_out=len(takes) - counted,
            is_cut_short=self._is_unsettled(index),
            problem=self._problem(index, counted, known_to),
        )

    def _problem(self, index: int, counted: int, known_to: float) -> str:
        rounds_j = self._energies(self._anchor)
        seen_j = np.append(rounds_j, self.scale.energy_j)
        moved = float(seen_j.max() / seen_j.min() - 1.0)
        is_seen = max(self._meter_known_to(index), self._meter_known_to(self._anchor)) <= WORTHLESS
        if is_seen and (counted < FEWEST_WINDOWS or moved > ANCHOR_STEP):
            return (
                f"the anchor's own energy moved by {moved:.0%} while the meter was read, or since its reference of "
                f"{self.scale.energy_j:.3g} J ({ANCHOR_STEP:.0%} are bearable): something else draws power. Measure "
                "again when the machine is quieter."
            )
        if known_to > WORTHLESS:
            return (
                f"the energy is {known_words(known_to)} ({WORTHLESS:.0%} are bearable): the meter is too slow for "
                "these passes, its samples fall in step with them, or the power is unsteady. Give more time "
                "(--seconds), or use a meter that counts energy."
            )
        return ""

    def _is_unsettled(self, index: int) -> bool:
        is_wanted = index != self._anchor or self._given is None
        return is_wanted and self._known_to(index) > self._tolerance

    def _known_to(self, index: int) -> float:
        """Of the ratio, and of the anchor's own energy: by the spread over windows and by what they say themselves."""
        return float(np.hypot(windows_known_to(self._samples(index)), self._meter_known_to(index)))

    def _meter_known_to(self, index: int) -> float:
        """What a window says of itself, the median of them.

        It is not less for many windows: samples in step with passes err alike in all of them.
        """
        windows = [take.reading.known_to_pct / 100.0 for row in self._takes if (take := row[index]) is not None]
        return STANDARD_TO_95 * float(np.median(windows))

    def _samples(self, index: int) -> Array:
        """Ratios of a subject; of the anchor its energies, since its ratios are all one."""
        rows, own = self._rows(index), self._energies(index)
        return own[rows] if index == self._anchor else own[rows] / self._energies(self._anchor)[rows]

    def _rows(self, index: int) -> Array:
        """Rounds that count for a subject; all that it took part in where too few do."""
        made = np.isfinite(self._energies(index))
        counted = made & self._steady()
        return counted if counted.sum() >= FEWEST_WINDOWS else made

    def _steady(self) -> Array:
        """Rounds whose anchor took about the same energy as in the rounds beside them."""
        anchor_j = self._energies(self._anchor)
        steps = np.abs(np.diff(anchor_j)) > ANCHOR_STEP * np.minimum(anchor_j[1:], anchor_j[:-1])
        return ~(np.append(steps, False) | np.append(False, steps))

    def _energies(self, index: int) -> Array:
        return np.array([np.nan if (take := row[index]) is None else take.energy_j for row in self._takes])


def known_words(known_to: float) -> str:
    """How well an energy is known, in words."""
    return f"known to {known_to:.1%}" if known_to < 1.0 else "not known"
