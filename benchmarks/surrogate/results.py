"""Results on disk: one line of JSON per (track, set, method, design), appended as soon as it is known.

What is there is not computed again, so that an interrupted benchmark goes on with the same command. Mean errors per
seed are kept for pairing; no record is.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
PUBLIC = DOCS / "surrogate_public.jsonl"
KEY = ("track", "set", "method", "design")


def rounded(values: Any, digits: int = 3) -> Any:
    """Numbers with so many digits after the point, not-a-number as None; lists likewise."""
    if isinstance(values, Mapping):
        return {k: rounded(v, digits) for k, v in values.items()}
    if isinstance(values, np.ndarray):
        return rounded(values.tolist(), digits)
    if isinstance(values, list | tuple):
        return [rounded(v, digits) for v in values]
    if isinstance(values, float):
        return round(values, digits) if np.isfinite(values) else None
    return values


class Results:
    """The lines of a file, by key."""

    def __init__(self, path: Path = PUBLIC) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[tuple(row[k] for k in KEY)] = row

    def has(self, *key: str) -> bool:
        """Whether this is known already."""
        return key in self.rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a result."""
        whole = rounded(dict(row))
        self.rows[tuple(whole[k] for k in KEY)] = whole
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(whole, separators=(",", ":")) + "\n")

    def of(self, track: str, method: str, design: str) -> Iterator[dict[str, Any]]:
        """Results of all sets of a track."""
        for (t, _, m, d), row in sorted(self.rows.items()):
            if (t, m, d) == (track, method, design):
                yield row

    def seed_means(self, track: str, method: str, design: str) -> np.ndarray:
        """Mean errors per set, seed and metric, shape (sets, seeds, 3); NaN where not measured."""
        found = [row["seed_means"] for row in self.of(track, method, design)]
        # None becomes not-a-number.
        return np.array(found, dtype=float)
