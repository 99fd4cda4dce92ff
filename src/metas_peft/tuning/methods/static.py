"""Models that nobody makes smaller: static LoRA and full fine-tuning."""

from typing import Literal

from metas_peft.core.subnet import Subnet
from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront


class StaticLora(Method):
    """LoRA on the whole backbone: the shared start itself."""

    def tune(self, context: TuningContext) -> TunedFront:
        """The dense model as the only member."""
        context.reset()
        return TunedFront([context.cut("dense", Subnet.dense(context.shape))])


class FullFineTuning(StaticLora):
    """Every weight trained, nothing removed."""

    trains: Literal["adapters", "everything"] = "everything"


METHODS.add("static-lora", StaticLora, ("comparative-3",))
METHODS.add("baseline", FullFineTuning, ("full-fine-tuning",))
