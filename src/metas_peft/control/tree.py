"""The controller as plain data: a tree over two features, and the members that it chooses among.

    token_entropy_nats   for causal decoding the Shannon entropy of the previous step's next-token distribution;
                         for encoders and prefill the mean self-information of the sequence's tokens under a
                         unigram model of the training set
    position             the token's index (or the sequence's length) over the maximum length

A feature is rounded to a 32-bit float and goes left where it is not above the node's threshold. The C header
compares the same 32-bit numbers, so that both give the same answer on every input.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metas_peft.core.errors import CheckpointError
from metas_peft.core.subnet import Subnet

FEATURES = ("token_entropy_nats", "position")
FEATURE_UNITS = {"token_entropy_nats": "nats", "position": "1"}
SCHEMA_VERSION = 1
FLOAT32_MAX = 3.4028234663852886e38
LEAF = -1

_TWO_FLOATS = struct.Struct("<2f")


def to_float32(value: float) -> float:
    """The nearest 32-bit float, as a Python number."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


@dataclass(frozen=True)
class ControllerTree:
    """A binary tree in five parallel arrays, nodes in pre-order, the root first.

    Attributes:
        feature: Index into `FEATURES`, or `LEAF`.
        threshold: 32-bit floats; 0.0 in leaves.
        left: Node for feature <= threshold; `LEAF` in leaves.
        right: Node for feature > threshold; `LEAF` in leaves.
        member: Index of the chosen member in leaves; `LEAF` elsewhere.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    member: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = {len(column) for column in (self.feature, self.threshold, self.left, self.right, self.member)}
        if len(sizes) != 1 or sizes == {0}:
            raise CheckpointError(f"A controller's tree has columns of lengths {sorted(sizes)}; expected one length.")
        for node, feature in enumerate(self.feature):
            if feature == LEAF:
                sound = self.member[node] >= 0
            else:
                # Children lie behind their parent: every walk ends.
                sound = (
                    0 <= feature < len(FEATURES)
                    and node < self.left[node] < len(self.feature)
                    and node < self.right[node] < len(self.feature)
                    and to_float32(self.threshold[node]) == self.threshold[node]
                )
            if not sound:
                raise CheckpointError(f"Node {node} of a controller's tree is not valid; write the controller again.")

    @classmethod
    def always(cls, member: int) -> "ControllerTree":
        """A tree of one leaf."""
        return cls((LEAF,), (0.0,), (LEAF,), (LEAF,), (member,))

    @property
    def depth(self) -> int:
        """Comparisons on the longest path."""
        depths = [0] * len(self.feature)
        for node, feature in enumerate(self.feature):
            if feature != LEAF:
                depths[self.left[node]] = depths[self.right[node]] = depths[node] + 1
        return max(depths)

    @property
    def members_used(self) -> tuple[int, ...]:
        """Indices of the members that some leaf chooses, ascending."""
        return tuple(sorted({m for m, f in zip(self.member, self.feature, strict=True) if f == LEAF}))

    def decide(self, token_entropy_nats: float, position: float) -> int:
        """Index of the member to run.

        Args:
            token_entropy_nats: Entropy or mean self-information, nats.
            position: Index or length over the maximum length.

        Raises:
            ValueError: A feature is not a finite 32-bit number.
        """
        # A chained comparison is false for NaN too.
        if not (-FLOAT32_MAX <= token_entropy_nats <= FLOAT32_MAX and -FLOAT32_MAX <= position <= FLOAT32_MAX):
            raise ValueError(
                f"Controller features must be finite, seen entropy {token_entropy_nats} nats, position {position}."
            )
        values = _TWO_FLOATS.unpack(_TWO_FLOATS.pack(token_entropy_nats, position))
        feature, threshold, left, right = self.feature, self.threshold, self.left, self.right
        node = 0
        while feature[node] != LEAF:
            node = left[node] if values[feature[node]] <= threshold[node] else right[node]
        return self.member[node]

    def as_dict(self) -> dict[str, list[Any]]:
        """Plain lists."""
        return {name: list(getattr(self, name)) for name in ("feature", "threshold", "left", "right", "member")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ControllerTree":
        """Inverse of `as_dict`."""
        try:
            return cls(
                feature=tuple(int(v) for v in data["feature"]),
                threshold=tuple(float(v) for v in data["threshold"]),
                left=tuple(int(v) for v in data["left"]),
                right=tuple(int(v) for v in data["right"]),
                member=tuple(int(v) for v in data["member"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise CheckpointError(
                f"A controller's tree cannot be read ({error!r}); write the controller again."
            ) from error


def run_tag(run_id: str) -> str:
    """Eight hexadecimal digits by which a controller knows the run it belongs to."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Controller:
    """A tree together with the table of members; all that a device needs to choose.

    Attributes:
        tree: Decides on an index into `members`.
        members: What each member keeps, all over the same number of layers.
        run: Tag of the run that the members belong to, see `run_tag`.
        names: Labels for people, one per member; not part of the packed form.
        max_length: Tokens at which the position is 1; not part of the packed form.
    """

    tree: ControllerTree
    members: tuple[Subnet, ...]
    run: str = "00000000"
    names: tuple[str, ...] = field(default=(), compare=False)
    max_length: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.members or max(self.tree.members_used) >= len(self.members):
            raise CheckpointError(
                f"The controller's tree chooses member {max(self.tree.members_used)} of {len(self.members)} members. "
                "It belongs to another front; write the controller again."
            )
        # type(), for True is an int to isinstance; a float would have to be rounded behind the user's back.
        if self.max_length is not None and (type(self.max_length) is not int or self.max_length < 1):
            raise CheckpointError(
                f"The controller takes positions of {self.max_length!r} tokens (max_length); expected a whole number "
                "of at least 1. Write the controller again."
            )
        if len({len(subnet.layers) for subnet in self.members}) != 1:
            raise CheckpointError("The controller's members have different numbers of layers; they need one backbone.")

    def decide(self, token_entropy_nats: float, position: float) -> int:
        """Index of the member to run, see `ControllerTree.decide`."""
        return self.tree.decide(token_entropy_nats, position)

    def require_run(self, run_id: str) -> None:
        """Refuse a controller that was made for another run.

        Raises:
            CheckpointError: The tags differ.
        """
        if self.run != run_tag(run_id):
            raise CheckpointError(
                f"This controller belongs to another run (tag {self.run}, expected {run_tag(run_id)} for {run_id!r}). "
                "Use the controller.json of that run."
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `controller.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "features": [{"name": name, "unit": FEATURE_UNITS[name]} for name in FEATURES],
            "tree": self.tree.as_dict(),
            "max_length": self.max_length,
            "names": list(self.names),
            "members": [subnet.as_dict() for subnet in self.members],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Controller":
        """Inverse of `as_dict`.

        Raises:
            CheckpointError: Another schema version, a missing part, or parts that do not fit together.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise CheckpointError(
                f"controller.json has schema version {version!r}, expected {SCHEMA_VERSION}. Write it again."
            )
        try:
            members = tuple(Subnet.from_dict(member) for member in data["members"])
            return cls(
                ControllerTree.from_dict(data["tree"]), members, str(data["run"]), tuple(data.get("names", ())),
                data.get("max_length"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"controller.json cannot be read ({error!r}); write the controller again.") from error
