"""A front that is served: every member in memory at once, on one set of weights.

    front = ServedFront.open("outputs/demo")
    front.activate("50 %")           # microseconds: a list of assignments, nothing is copied
    logits = front(**inputs).logits
    small = front.module("26 %")     # a module of its own on the same weights

The largest member's weights are loaded; the others are views of their prefixes (`sharing`) that take turns in its
modules (`plans`). One front serves one thread at a time; modules of their own serve as many as there are.
"""

import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.backbones.shape import longest_sequence
from metas_peft.backbones.store import OLD_WEIGHTS, WEIGHTS, load, read_plan
from metas_peft.core.errors import CheckpointError, UnknownNameError, nearest
from metas_peft.core.subnet import Subnet
from metas_peft.serving.folder import member_folders, read_results
from metas_peft.serving.plans import Plan, bind, plan_of
from metas_peft.serving.sharing import by_columns, memory_of, share


@dataclass(frozen=True)
class ServedMember:
    """One member in memory.

    Attributes:
        name: Label such as `50 %`.
        subnet: What it keeps.
        plan: What makes the largest member this one.
        weight_bytes: Bytes of its weights where it stands alone.
        own: Name -> bytes of the tensors in which it differs from the largest member; empty after joint training.
    """

    name: str
    subnet: Subnet
    plan: Plan
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
    """All members of a front on one set of weights; the largest is active to begin with.

    Args:
        members: Name, subnet and compact model of each, the largest first. The models are used up.
        run_id: Run that they belong to.

    Attributes:
        largest: The member whose weights all others look at.
        active: The active member.

    Raises:
        CheckpointError: There are none.
    """

    def __init__(self, members: Iterable[tuple[str, Subnet, Any]], *, run_id: str = "") -> None:
        self.run_id = run_id
        self._model: Any = None
        found: list[ServedMember] = []
        for name, subnet, model in members:
            if not found:
                self._model = model.eval()
                by_columns(model)
            whole = found[0].subnet if found else subnet
            alone = memory_of(model)
            own = share(model, subnet, self._model, whole) if found else {}
            found.append(ServedMember(name, subnet, plan_of(model, subnet, self._model, whole), alone, own))
            del model  # before the next one comes
        if not found:
            raise CheckpointError("A front without members cannot be served. Give at least one.")
        self._members = {member.name: member for member in found}
        self._switches: dict[str, Callable[[], None]] = {}
        for member, switch in zip(found, bind(self._model, [m.plan for m in found]), strict=True):
            self._switches[member.key] = switch
        self.largest = self.active = found[0]
        self._is_between = False
        self._records = False

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "ServedFront":
        """Load the front of a finished run.

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
        loaded = ((name, Subnet.from_dict(plan["subnet"]), place) for name, place, plan in found)
        front = cls(_one_by_one(loaded, device), run_id=str(results.get("run_id", "")))
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
        """Let passes of the front be those of one member from now on.

        Raises:
            UnknownNameError: There is no such member.
        """
        member = self[name]
        if member is not self.active or self._is_between:
            self._is_between = True  # an interrupt in the next line leaves some assignments of one and some of another
            self._switches[member.key]()
            self.active, self._is_between = member, False
        return member

    def __call__(self, **inputs: Any) -> Any:
        """One pass of the active member, without gradients; takes and gives what its `transformers` class does."""
        if self._is_between:
            self.activate(self.active.name)
        if not self._records and any(value is True for name, value in inputs.items() if name.startswith("output_")):
            self._record()
        with torch.inference_mode():
            return self._model(**inputs)

    def _record(self) -> None:
        """Let `transformers` put the hooks by which it records hidden states on all layers, while all are there."""
        before = self.active
        self.activate(self.largest.name)
        with torch.inference_mode():
            self._model(input_ids=torch.ones(1, 2, dtype=torch.long, device=self.device), output_hidden_states=True)
        self.activate(before.name)
        self._records = True

    def module(self, name: str) -> Any:
        """A member as a module of its own, on the shared weights; further calls give further ones.

        Raises:
            UnknownNameError: There is no such member.
        """
        member, before = self[name], self.active
        self.activate(self.largest.name)
        twin = copy.deepcopy(self._model, {id(t): t for t in [*self._model.parameters(), *self._model.buffers()]})
        self.activate(before.name)
        (switch,) = bind(twin, [member.plan])
        switch()
        return twin

    @property
    def config(self) -> Any:
        """Config of the active member's `transformers` class."""
        return self._model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    @property
    def longest(self) -> int | None:
        """Tokens that the members can read; None where positions are computed."""
        return longest_sequence(self._model)

    @property
    def generates(self) -> bool:
        """Whether the members are causal language models."""
        return self._model.can_generate()

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens at which a text ends, by the model's config or by its settings of generation."""
        found: set[int] = set()
        for settings in (self.config.get_text_config(), self._model.generation_config):
            ends = settings.eos_token_id
            found.update(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])
        return frozenset(found)

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
        return {int(i): str(name) for i, name in self.config.id2label.items()}


def _one_by_one(
    members: Iterable[tuple[str, Subnet, Path]], device: str | torch.device
) -> Iterator[tuple[str, Subnet, Any]]:
    """Load members so that no more than two sets of weights are in memory at any time."""
    for name, subnet, folder in members:
        yield name, subnet, load(folder, device=device)
        # Modules refer to one another in circles: what was replaced would stay in memory for a while.
        gc.collect()


def _stored_bytes(folder: Path, plan: dict[str, Any]) -> int:
    path = folder / OLD_WEIGHTS.get(plan["version"], WEIGHTS)
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Run it again.") from error
