"""Routers beside chance: arithmetic on who was right, with no model. `adaptive.py` measures, this compares.

Chance sends inputs to two members at random, in such shares that its mean cost is the router's. Which two?

    fair          the pair with the best expected quality on the held-out texts, which is what a router was made of, too
    in hindsight  the pair with the best expected quality on the very texts that it is then scored on: a rival that
                  nobody can build before the answers are known
"""

import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

RIVALS = ("fair", "in hindsight")
DRAWS = 10_000
LEVEL = 0.95
DIGITS = string.digits + string.ascii_lowercase
BOUND = "hindsight"  # the router that is a bound, not a candidate


def to_hex(bits: np.ndarray) -> str:
    """Zeros and ones as hexadecimal digits, the first input in the highest bit of the first digit."""
    return np.packbits(np.asarray(bits, dtype=bool)).tobytes().hex()


def from_hex(text: str, size: int) -> np.ndarray:
    """Inverse of `to_hex`, as 64-bit floats, (size,)."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=size).astype(float)


def to_digits(choice: np.ndarray) -> str:
    """Chosen members, one character per input."""
    return "".join(DIGITS[int(member)] for member in choice)


def from_digits(text: str) -> np.ndarray:
    """Inverse of `to_digits`, (N,)."""
    return np.array([DIGITS.index(character) for character in text], dtype=np.int64)


def chance_at(cost: np.ndarray, chooser: np.ndarray, scored: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Expected quality of the best random mixture of two members at a mean cost, shape (B,).

    Args:
        cost: Mean cost to reach, (B,); where one member costs less, what is left over is not spent.
        chooser: Quality of each member by which the pair is chosen, (M, 1) or (M, B).
        scored: Quality of each member by which the chosen pair is scored, (M, B).
        costs: Of one pass of each member, (M,).
    """
    chooser = np.broadcast_to(chooser, scored.shape)
    best, found = np.full(cost.shape, -np.inf), np.full(cost.shape, np.nan)

    def offer(share: np.ndarray, low: int, high: int, fits: np.ndarray) -> None:
        expected = (1 - share) * chooser[low] + share * chooser[high]
        better = fits & (expected > best)
        best[better] = expected[better]
        found[better] = ((1 - share) * scored[low] + share * scored[high])[better]

    for i, low in enumerate(costs):
        offer(np.zeros(cost.shape), i, i, low <= cost)
        for j, high in enumerate(costs):
            if high > low:
                offer((cost - low) / (high - low), i, j, (low <= cost) & (cost <= high))
    return found


def verdict(interval: Sequence[float]) -> str:
    """Whether a gain with this interval pays."""
    rounding = 1e-9  # a router that is one of the rival's members has draws of exactly no gain
    return "yes" if interval[0] > rounding else "no" if interval[1] < -rounding else "undecided"


@lru_cache(maxsize=1)
def shares(size: int) -> np.ndarray:
    """Share of each input, (1 + DRAWS, size): first as they are, then as drawn; the same draws for every router."""
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=DRAWS)
    return np.vstack([np.ones((1, size), dtype=np.int64), drawn]) / size


def judged(
    right: np.ndarray, cost: np.ndarray, members: np.ndarray, held_out: np.ndarray, costs: np.ndarray, compared: int
) -> dict[str, Any]:
    """A router against both rivals at its own mean cost, with intervals of a paired bootstrap over the inputs.

    Each draw takes the router's and all members' answers to the same inputs, and the rivals choose their pairs anew at
    the draw's mean cost: the fair one by the same held-out quality each time, since routers are not made anew either.

    Args:
        right: 1 where the router is right, (N,).
        cost: What it paid for each input, (N,).
        members: 1 where each member is right, (M, N).
        held_out: Quality of each member on the held-out texts, (M,).
        costs: Of one pass of each member, (M,).
        compared: Routers on trial; the second interval of each holds for all of them at once (Bonferroni).
    """
    weights = shares(len(right))
    quality, mean_cost = weights @ right, weights @ cost
    # Rounding must not take a member's own cost below or above what it is.
    mean_cost = np.clip(mean_cost, cost.min(), cost.max())
    scored = members @ weights.T
    row: dict[str, Any] = {"quality": float(quality[0]), "mean_latency_ms": float(mean_cost[0]), "against": {}}
    for rival, chooser in zip(RIVALS, (held_out[:, None], scored), strict=True):
        chance = chance_at(mean_cost, chooser, scored, costs)
        gain = 100 * (quality - chance)
        edge, corrected = (1 - LEVEL) / 2, (1 - LEVEL) / compared / 2
        interval = np.quantile(gain[1:], (edge, 1 - edge)).tolist()
        wide = np.quantile(gain[1:], (corrected, 1 - corrected)).tolist()
        row["against"][rival] = {
            "chance_quality": float(chance[0]),
            "gain_points": float(gain[0]),
            "interval_95_points": interval,
            "pays": verdict(interval),
            "interval_95_points_of_all_routers": wide,
            "pays_among_all_routers": verdict(wide),
        }
    return row


def table(
    members: Sequence[Mapping[str, Any]], routers: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Every router beside both rivals, from what adaptive.json keeps of each input.

    Args:
        members: With `latency_ms`, `held_out_quality`, and in hexadecimal digits who is right: `validation_right`.
        routers: With `choice`, one digit per input, and for cascades `first`: the member that is paid for besides
            wherever another is chosen.
        inputs: Number of texts, `held_out` and `validation`.
    """
    costs = np.array([member["latency_ms"] for member in members])
    right = np.stack([from_hex(member["validation_right"], inputs["validation"]) for member in members])
    held_out = np.array([member["held_out_quality"] for member in members])
    compared = sum(name != BOUND for name in routers)
    rows = {}
    for name, router in routers.items():
        choice, first = from_digits(router["choice"]), router["first"]
        cost = costs[choice] if first is None else costs[choice] + (choice != first) * costs[first]
        rows[name] = judged(right[choice, np.arange(len(choice))], cost, right, held_out, costs, compared)
        rows[name]["usage"] = (np.bincount(choice, minlength=len(costs)) / len(choice)).tolist()
    return rows
