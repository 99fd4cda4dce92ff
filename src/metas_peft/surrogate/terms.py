"""Which columns describe a pass, and what a device may pay for each: the ground that prior and predictor share.

A source of records says which non-negative quantities it counts (operations by kind, bytes by kind, kernels, layers)
and which part of a device pays for them. From that alone follow the simulated devices of `prior`, the basis in which
`metas` predicts, and the terms of its roofline. Gate configurations are one such source; public records with finer
counts are others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np

from metas_peft.surrogate.features import COLUMNS


class Role(StrEnum):
    """Which part of a device pays for a quantity."""

    CONSTANT = "constant"  # every pass
    COMPUTE = "compute"  # arithmetic units; may overlap with memory
    MEMORY = "memory"  # traffic
    OVERHEAD = "overhead"  # launches, layers and the like, one after the other
    NOBODY = "nobody"  # describes a pass, costs nothing by itself


@dataclass(frozen=True)
class Term:
    """A counted quantity; weights refer to quantities divided by their mean.

    Attributes:
        name: Column.
        group: Terms of one group share a scale.
        centre: Mean of the log weight beside the group's.
        spread: Its standard deviation.
    """

    name: str
    group: str
    centre: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class Group:
    """What one part of a device pays for.

    Attributes:
        name: Of the group.
        role: The part.
        centre: Mean of the common log weight.
        spread: Its standard deviation over devices.
    """

    name: str
    role: Role
    centre: float
    spread: float


@dataclass(frozen=True)
class Schema:
    """What a source of records counts.

    Attributes:
        terms: The columns, K of them.
        groups: Every group that a term names.
        base: Terms of the roofline, each a sum of columns; constant first.
        squared: Positions in `base` whose squares join the basis (a device that swaps or throttles rises faster than a
            straight line).
        cliff: Position in `base` of what decides whether a device runs out of memory; None for none.
        ridge: Pull of the fits that the network corrects towards equal parts, in records.
        least_spread: Relative error below which these fits call no point an outlier: how clean readings may be.
        width: Column on which the efficiency of the arithmetic may depend; empty for none.
    """

    terms: tuple[Term, ...]
    groups: tuple[Group, ...]
    base: tuple[tuple[str, ...], ...]
    squared: tuple[int, ...] = ()
    cliff: int | None = None
    width: str = ""
    ridge: float = 0.05
    least_spread: float = 0.05

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(term.name for term in self.terms)

    def column(self, name: str) -> int:
        """Position of a column."""
        return self.names.index(name)

    def is_paid(self) -> np.ndarray:
        """Which columns cost anything, shape (K,)."""
        unpaid = {g.name for g in self.groups if g.role is Role.NOBODY}
        return np.array([term.group not in unpaid for term in self.terms])

    def base_matrix(self) -> np.ndarray:
        """Which columns make which term of the roofline, shape (K, base terms); 0 or 1."""
        out = np.zeros((len(self.terms), len(self.base)))
        for position, names in enumerate(self.base):
            for name in names:
                out[self.column(name), position] = 1.0
        return out

    def base_shares(self) -> np.ndarray:
        """What each column brings to each roofline term when all are relative to their means, shape (K, base terms).

        Columns sum to 1; the centres of the terms tell how large the columns of a sum are beside each other.
        """
        shares = self.base_matrix() * np.exp([[term.centre] for term in self.terms])
        return shares / shares.sum(0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "terms": [[t.name, t.group, t.centre, t.spread] for t in self.terms],
            "groups": [[g.name, str(g.role), g.centre, g.spread] for g in self.groups],
            "base": [list(names) for names in self.base],
            "squared": list(self.squared),
            "cliff": self.cliff,
            "width": self.width,
            "ridge": self.ridge,
            "least_spread": self.least_spread,
        }

    @property
    def basis_size(self) -> int:
        """Columns and squares."""
        return len(self.terms) + len(self.squared)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""
        return cls(
            terms=tuple(Term(*t) for t in data["terms"]),
            groups=tuple(Group(name, Role(role), centre, spread) for name, role, centre, spread in data["groups"]),
            base=tuple(tuple(names) for names in data["base"]),
            squared=tuple(data["squared"]),
            cliff=data["cliff"],
            width=data["width"],
            ridge=data["ridge"],
            least_spread=data["least_spread"],
        )


# Gate configurations: what `costs` counts of a pass. Traffic with a KV cache is traffic of activations.
GATES = Schema(
    terms=(
        Term("constant", "constant"),
        Term("flops", "compute"),
        Term("weight_bytes", "weights"),
        Term("act_bytes", "activations"),
        Term("n_ops", "kernels"),
    ),
    groups=(
        Group("constant", Role.CONSTANT, -1.0, 1.5),
        Group("compute", Role.COMPUTE, 0.5, 1.5),
        Group("weights", Role.MEMORY, -0.8, 1.5),
        Group("activations", Role.MEMORY, -1.0, 1.5),
        Group("kernels", Role.OVERHEAD, -1.0, 1.5),
    ),
    base=(("constant",), ("flops",), ("weight_bytes",), ("act_bytes",), ("n_ops",)),
    squared=(1, 2),
    cliff=2,
    ridge=0.002,
    least_spread=0.015,
)


def gate_terms(columns: Any) -> list[Any]:
    """Columns of `GATES`, each of shape (...), from the columns of a pass (..., C); arrays or tensors."""
    flops, weights, act, cache, kernels = (
        columns[..., COLUMNS.index(name)] for name in ("flops", "weight_bytes", "act_bytes", "kv_bytes", "n_ops")
    )
    return [flops * 0.0 + 1.0, flops, weights, act + cache, kernels]
