"""What a method is: from the shared dense model to a list of members."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch

from metas_peft.core.registry import Registry
from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import Member, TuningContext


@dataclass(frozen=True)
class TunedFront:
    """What a method found.

    Attributes:
        members: Operating points, largest first.
        gates: Tensors worth keeping: importances along the path, or log-odds of gates.
        path: Nested subnets the members were taken from, if the method has a path.
        notes: Sentences for the report.
    """

    members: list[Member]
    gates: dict[str, torch.Tensor] = field(default_factory=dict)
    path: list[Subnet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Method(ABC):
    """A way to get smaller models; registered in `METHODS` at the end of its file.

    Attributes:
        trains: `adapters`, or `everything` for full fine-tuning.

    Args:
        front: How methods that price removals make their front, `nested` or `gates`; others train as long.
    """

    trains: Literal["adapters", "everything"] = "adapters"

    def __init__(self, front: str = "nested") -> None:
        self.front = front

    @abstractmethod
    def tune(self, context: TuningContext) -> TunedFront:
        """Train from the shared start and cut the members out.

        Called once; may leave the context's weights and order in any state (`context.reset` restores them).
        """


METHODS: Registry[type[Method]] = Registry("method")
