"""Smaller members cut from the largest stored one: their tensors are the first entries of its own.

A run stores a handful of members, but its path holds dozens, and all of those between its largest and smallest member
were trained together. In order of importance each is a prefix of the largest member, so that its weights are there
already. Whether that is so is not assumed: the stored members are cut in this way too, and must come out as they are
stored.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from metas_peft.backbones import shape_of, skeleton
from metas_peft.backbones.compaction import cut
from metas_peft.backbones.store import backbone_of, load, read_plan
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.export.members import StoredMember
from metas_peft.serving.sharing import Counterparts


@dataclass(frozen=True)
class Largest:
    """The largest stored member, from which others are cut.

    Attributes:
        member: Where it is.
        plan: Its plan, which tells the dense architecture.
        shape: Of the dense backbone.
        model: Loaded.
    """

    member: StoredMember
    plan: dict[str, Any]
    shape: BackboneShape
    model: Any = field(repr=False)

    @classmethod
    def open(cls, member: StoredMember, model_id: str) -> "Largest":
        """Load it.

        Args:
            member: The largest member of a front.
            model_id: What its backbone is called in records.

        Raises:
            CheckpointError: It is damaged.
        """
        plan = read_plan(member.folder)
        return cls(member, plan, dense_shape(plan, model_id), load(member.folder))

    def cut(self, subnet: Subnet) -> Any:
        """A compact model whose tensors are copies of the first entries of this one's.

        Raises:
            ValueError: The subnet is no prefix of this member.
        """
        architecture, config = backbone_of(self.plan)
        smaller = skeleton.build(architecture, config, buffers=True)
        cut(smaller, self.shape, subnet)
        skeleton.fill(smaller, self._prefixes(smaller.state_dict(), subnet))
        return smaller.requires_grad_(False).eval()

    def gives(self, member: StoredMember) -> bool:
        """Whether cutting a stored member gives what is stored."""
        try:
            found = self.cut(member.subnet).state_dict()
        except ValueError:
            return False
        stored = load(member.folder).state_dict()
        return found.keys() == stored.keys() and all(torch.equal(found[name], stored[name]) for name in stored)

    def _prefixes(self, wanted: dict[str, torch.Tensor], subnet: Subnet) -> dict[str, torch.Tensor]:
        whole = self.model.state_dict()
        there = Counterparts(subnet, self.model, self.member.subnet)
        found: dict[str, torch.Tensor] = {}
        for name, tensor in wanted.items():
            source = there.path(name)
            if source not in whole:
                raise ValueError(f"the largest member has no {source}")
            found[name] = first_entries(whole[source], tensor.shape, there.segments(name.rpartition(".")[0]))
        return found


def first_entries(larger: torch.Tensor, shape: torch.Size, segments: int = 1) -> torch.Tensor:
    """The first entries of a tensor along each axis, of each segment where an axis is made of several.

    Raises:
        ValueError: It is smaller than asked for.
    """
    if larger.ndim != len(shape) or any(n > total for n, total in zip(shape, larger.shape, strict=True)):
        raise ValueError(f"a tensor of {tuple(larger.shape)} has no part of {tuple(shape)}")
    for axis, (count, total) in enumerate(zip(shape, larger.shape, strict=True)):
        if count == total:
            continue
        # Only the axis of outputs is made of segments; where both get shorter, that is the one that divides.
        pieces = (
            larger.chunk(segments, axis) if segments > 1 and not (count % segments or total % segments) else [larger]
        )
        larger = torch.cat([piece.narrow(axis, 0, count // len(pieces)) for piece in pieces], axis)
    return larger.clone()


def dense_shape(plan: dict[str, Any], model_id: str) -> BackboneShape:
    """Shape of the backbone that a plan's model was cut from."""
    architecture, config = backbone_of(plan)
    return shape_of(skeleton.build(architecture, config, buffers=False), (), model_id)
