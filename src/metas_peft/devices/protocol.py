"""How passes are timed on a machine that does other things as well.

    warm-up   every subject, until `warm_up_s` have passed, at least twice
    round 1   |  B  |  A* |  D  |  C  |     random order; A* is the anchor, part of every round
    round 2   |  A* |  C  |  B  |  D  |
    round 3   |  D  |  A* |  B  |           C has left: its median is known well enough
      ...
    trial     as many passes as fill `trial_s`; wall clock and processor time are read at its two edges
    ratio     a trial by the anchor's trial of the same round: what slows the whole machine cancels
    result    median of a subject's ratios; the caller multiplies it by the anchor's reference time
    end       every median is known to `tolerance`, or the time limit is reached (the result says which)

A median is known to x when the distribution-free 95 % interval around it is no wider than +-x of it (`median` says how
that stays true although measuring stops at the first interval that is narrow enough). The ratios need to be known; the
anchor's own time only in the flight that sets the scale, since later ones are given on it. What a record claims is both
together: the root of the sum of the squares of the ratio's and the scale's.

A trial does not count when the clock did not advance; when the process got less than half of its usual share of a
processor (it was pre-empted); and with its whole round when the anchor took more than three times its median (the
machine stalled). Such trials are kept and say why. A subject with fewer than seven trials left has no result.

Before a flight, and after it, the machine is asked for its temperature, clocks and throttling (`conditions`); a meter
is read after these rounds, in rounds of its own (`metering`), with the power at rest before and after (`power`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.errors import MeasurementError
from metas_peft.core.records import Trial
from metas_peft.core.units import MS_PER_S
from metas_peft.devices.median import FEWEST_TRIALS, trials_known_to

Array = np.ndarray
Run = Callable[[], object]

STALL_FACTOR = 3.0
PREEMPTED_SHARE = 0.5
# The time limit ends a flight in which some subject has too few usable trials only after so many rounds.
MOST_SHORT_ROUNDS = 2 * FEWEST_TRIALS
# Why a trial does not count; a trial that was not made has no entry at all.
COUNTS, NOT_MADE = "", "not made"
NO_TIME, PREEMPTED, STALLED, NO_ANCHOR = (
    "the clock did not advance", "pre-empted", "the machine stalled", "no anchor in its round",
)  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """Two clocks in seconds: monotonic wall time, and processor time of this process with its threads."""

    wall_s: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class TimingRules:
    """When enough is enough.

    Attributes:
        tolerance: How well a median must be known, as a fraction of it.
        seconds_per_subject: Time limit, times the number of subjects in a flight; once more for the windows of a meter.
        min_rounds: Rounds before a subject may leave; no fewer than an interval needs are made.
        trial_s: Shortest trial.
        warm_up_s: Warm-up per subject.
        flight_size: Subjects that are held in memory and timed together.
    """

    tolerance: float = 0.02
    seconds_per_subject: float = 3.0
    min_rounds: int = FEWEST_TRIALS
    trial_s: float = 0.02
    warm_up_s: float = 0.05
    flight_size: int = 8


@dataclass(frozen=True)
class Timing:
    """What the rounds tell of one subject.

    Attributes:
        wall_ratio: Median of its wall time by the anchor's.
        cpu_ratio: Median of its processor time by the anchor's.
        wall_std_ratio: Standard deviation of the wall ratios (of the anchor itself: of its times by their median).
        peak_processors: Largest processor time by wall time of a trial: processors in use.
        known_to: Half width of the interval around the median, as a fraction of it; of the anchor's own time for it.
        n_trials: Trials that count.
        n_invalid: Trials left out.
        passes_per_trial: Passes in each.
        is_cut_short: Whether the rounds ended before `known_to` was within the tolerance.
        trials: All trials made, those left out included.
    """

    wall_ratio: float
    cpu_ratio: float
    wall_std_ratio: float
    peak_processors: float
    known_to: float
    n_trials: int
    n_invalid: int
    passes_per_trial: int
    is_cut_short: bool
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Flight:
    """Subjects timed together: their ratios, in order, and the anchor's own median time of a pass."""

    timings: tuple[Timing, ...]
    anchor_wall_s: float
    anchor_cpu_s: float


def time_flight(
    runs: Sequence[Run],
    anchor: int,
    rules: TimingRules,
    clock: Clock,
    rng: np.random.Generator,
    *,
    sets_scale: bool = True,
) -> Flight:
    """Time subjects round-robin against one of them.

    Args:
        runs: Functions that run one pass each and return when it has ended, N of them.
        anchor: Index of the subject that takes part in every round.
        rules: When to stop.
        clock: Clocks to read.
        rng: Decides the order within rounds.
        sets_scale: Whether the anchor's own time is wanted, and has to be known as well as the ratios.

    Raises:
        MeasurementError: A subject has too few valid trials.
    """
    n = len(runs)
    passes = [_warm_up(run, rules, clock) for run in runs]
    wall, cpu = np.empty((0, n)), np.empty((0, n))
    active: list[int] = list(range(n))
    limit_s = clock.wall_s() + rules.seconds_per_subject * n
    while True:
        row_wall, row_cpu = np.full(n, np.nan), np.full(n, np.nan)
        order: list[int] = rng.permutation(active).tolist()
        for index in order:
            row_wall[index], row_cpu[index] = _trial(runs[index], passes[index], clock)
        wall, cpu = np.vstack([wall, row_wall]), np.vstack([cpu, row_cpu])
        problems = _problems(wall, cpu, anchor)
        is_valid = problems == COUNTS
        known = [trials_known_to(_samples(wall, is_valid, anchor, i)) for i in range(n)]
        unsettled = [i for i in range(n) if known[i] > rules.tolerance and (i != anchor or sets_scale)]
        if len(wall) >= rules.min_rounds:
            if not unsettled:
                break
            active = sorted({anchor, *unsettled})
        is_enough = is_valid.sum(axis=0).min() >= FEWEST_TRIALS or len(wall) >= MOST_SHORT_ROUNDS
        if is_enough and clock.wall_s() >= limit_s:
            break
    anchor_valid = is_valid[:, anchor]
    timings = tuple(_summary(wall, cpu, problems, anchor, i, passes[i], known[i], i in unsettled) for i in range(n))
    return Flight(timings, float(np.median(wall[anchor_valid, anchor])), float(np.median(cpu[anchor_valid, anchor])))


def _warm_up(run: Run, rules: TimingRules, clock: Clock) -> int:
    """Run until caches and clocks have settled; passes that fill a trial."""
    start_s = clock.wall_s()
    run()
    last_s, count = clock.wall_s(), 1
    fastest_s = math.inf
    while count < 2 or last_s - start_s < rules.warm_up_s:
        run()
        now_s = clock.wall_s()
        fastest_s = min(fastest_s, now_s - last_s)
        if now_s <= last_s and count >= 1000:
            raise MeasurementError("The clock does not advance while passes run; it cannot time anything.")
        last_s, count = now_s, count + 1
    return max(1, math.ceil(rules.trial_s / fastest_s)) if fastest_s > 0 else 1


def _trial(run: Run, passes: int, clock: Clock) -> tuple[float, float]:
    """Wall and processor time of a pass, in seconds."""
    wall_s, cpu_s = clock.wall_s(), clock.cpu_s()
    for _ in range(passes):
        run()
    return (clock.wall_s() - wall_s) / passes, (clock.cpu_s() - cpu_s) / passes


def _problems(wall: Array, cpu: Array, anchor: int) -> Array:
    """Why trials do not count, texts of shape (rounds, N); `COUNTS` where they do, `NOT_MADE` where there is none."""
    problems = np.full(wall.shape, COUNTS, dtype=object)
    problems[np.isnan(wall)] = NOT_MADE
    problems[~np.isnan(wall) & ~(np.nan_to_num(wall) > 0)] = NO_TIME
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(problems == COUNTS, cpu / wall, np.nan)
    for index in range(wall.shape[1]):
        fine = problems[:, index] == COUNTS
        usual = np.median(share[fine, index]) if fine.any() else 0.0
        problems[fine & (share[:, index] < PREEMPTED_SHARE * usual), index] = PREEMPTED
    fine = problems[:, anchor] == COUNTS
    if fine.any():
        slow = np.nan_to_num(wall[:, anchor]) > STALL_FACTOR * np.median(wall[fine, anchor])
        problems[slow[:, None] & (problems == COUNTS)] = STALLED
    # Without its anchor a round has no yardstick.
    orphaned = (problems[:, anchor] != COUNTS)[:, None] & (problems == COUNTS)
    problems[orphaned] = NO_ANCHOR
    return problems


def _samples(wall: Array, is_valid: Array, anchor: int, index: int) -> Array:
    """Valid ratios of a subject; of the anchor its times, since its ratios are all one."""
    rows = is_valid[:, index]
    return wall[rows, index] if index == anchor else wall[rows, index] / wall[rows, anchor]


def _summary(
    wall: Array, cpu: Array, problems: Array, anchor: int, index: int, passes: int, known_to: float, is_cut_short: bool
) -> Timing:
    rows = problems[:, index] == COUNTS
    made = int(np.isfinite(wall[:, index]).sum())
    n_trials = int(rows.sum())
    if n_trials < FEWEST_TRIALS:
        raise MeasurementError(
            f"Only {n_trials} of {made} trials of a configuration are usable, {FEWEST_TRIALS} are needed. Something "
            "else takes the processor; measure when the machine is quieter or raise the time limit."
        )
    ratios = wall[rows, index] / wall[rows, anchor]
    anchor_cpu = cpu[rows, anchor]
    cpu_ratios = cpu[rows, index] / np.where(anchor_cpu > 0, anchor_cpu, np.nan)
    spread = wall[rows, index] / np.median(wall[rows, index]) if index == anchor else ratios
    return Timing(
        wall_ratio=float(np.median(ratios)),
        cpu_ratio=float(np.median(cpu_ratios)),
        wall_std_ratio=float(np.std(spread, ddof=1)),
        peak_processors=float((cpu[rows, index] / wall[rows, index]).max()),
        known_to=known_to,
        n_trials=n_trials,
        n_invalid=made - n_trials,
        passes_per_trial=passes,
        is_cut_short=is_cut_short,
        trials=tuple(
            Trial(number, float(wall[number, index]) * MS_PER_S, float(cpu[number, index]) * MS_PER_S, str(why))
            for number, why in enumerate(problems[:, index])
            if why != NOT_MADE
        ),
    )
