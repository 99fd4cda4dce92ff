"""A front that is served: every member in memory at once, on one set of weights.

    front = ServedFront.open("outputs/demo")
    front.activate("50 %")          # a name is looked up, nothing is moved
    logits = front(**inputs).logits
    front["26 %"].model             # every member is a module of its own, ready at any time

The largest member's weights are loaded; the others are views of their prefixes (`sharing`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.backbones.store import OLD_WEIGHTS, WEIGHTS, load, read_plan
from metas_peft.core.errors import CheckpointError, UnknownNameError, nearest
from metas_peft.core.records import Subnet
from metas_peft.serving.folder import member_folders, read_results
from metas_peft.serving.sharing import memory_of, share


@dataclass(frozen=True)
class ServedMember:
    """One member in memory.

    Attributes:
        name: Label such as `50 %`.
        subnet: What it keeps.
        model: Module in evaluation mode whose weights are views wherever they equal the largest member's.
        weight_bytes: Bytes of its weights where it stands alone.
        own: Name -> bytes of the tensors in which it differs from the largest member; empty after joint training.
    """

    name: str
    subnet: Subnet
    model: Any
    weight_bytes: int
    own: dict[str, int]

    @property
    def key(self) -> str:
        """Key of its subnet."""
        return self.subnet.key

    @property
    def own_bytes(self) -> int:
        """Bytes that it takes beside the largest member's weights."""
        return sum(self.own.values())


class ServedFront:
    """All members of a front on one set of weights; the first is active to begin with.

    Args:
        members: Name, subnet and compact model of each, the largest first. Their tensors are replaced by views.
        run_id: Run that they belong to.

    Raises:
        CheckpointError: There are none.
    """

    def __init__(self, members: Iterable[tuple[str, Subnet, Any]], *, run_id: str = "") -> None:
        self.run_id = run_id
        self._members: dict[str, ServedMember] = {}
        largest: ServedMember | None = None
        for name, subnet, model in members:
            alone = memory_of(model)
            own = {} if largest is None else share(model, subnet, largest.model, largest.subnet)
            self._members[name] = ServedMember(name, subnet, model.eval(), alone, own)
            largest = largest or self._members[name]
        if largest is None:
            raise CheckpointError("A front without members cannot be served. Give at least one.")
        self.largest = self.active = largest

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "ServedFront":
        """Load the front of a finished run, or of a folder that `metas deploy` made.

        Args:
            folder: Such as `outputs/demo`.
            device: Where the weights go.

        Raises:
            CheckpointError: No finished run, no front, or a member that is absent or damaged.
        """
        folder = Path(folder)
        results = read_results(folder)
        found = [(name, place, read_plan(place)) for name, place in member_folders(folder, results).items()]
        found.sort(key=lambda m: -_stored_bytes(m[1], m[2]))
        # Loaded one after another, so that no more than two sets of weights are in memory at any time.
        loaded = ((name, Subnet.from_dict(plan["subnet"]), load(place, device=device)) for name, place, plan in found)
        front = cls(loaded, run_id=str(results.get("run_id", "")))
        front._members = {name: front[name] for name in member_folders(folder, results)}
        return front

    def __iter__(self) -> Iterator[ServedMember]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> ServedMember:
        """A member by name (with or without its blanks) or key.

        Raises:
            UnknownNameError: There is no such member.
        """
        if name in self._members:
            return self._members[name]
        for member in self:
            if "".join(name.lower().split()) in (member.key, "".join(member.name.lower().split())):
                return member
        raise UnknownNameError(f"The front has no member {name!r}: {nearest(name, self._members)}")

    def activate(self, name: str) -> ServedMember:
        """Let calls of the front go to one member from now on.

        Raises:
            UnknownNameError: There is no such member.
        """
        self.active = self[name]
        return self.active

    def __call__(self, **inputs: Any) -> Any:
        """One pass of the active member, without gradients."""
        with torch.inference_mode():
            return self.active.model(**inputs)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the one set of weights."""
        return self.largest.weight_bytes

    @property
    def own_bytes(self) -> int:
        """Bytes of all tensors in which members differ from the largest."""
        return sum(member.own_bytes for member in self)

    @property
    def labels(self) -> dict[int, str]:
        """Class number -> name."""
        return {int(i): str(name) for i, name in self.largest.model.config.id2label.items()}


def _stored_bytes(folder: Path, plan: dict[str, Any]) -> int:
    path = folder / OLD_WEIGHTS.get(plan["version"], WEIGHTS)
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Run it again.") from error
