"""MetaS-PEFT: what goes is decided by the surrogate's gradient on the target; no device while training."""

from metas_peft.tuning.context import TuningContext
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront
from metas_peft.tuning.methods.gates import gates_front
from metas_peft.tuning.methods.nested import nested_front
from metas_peft.tuning.pricing import Price


class MetasPeft(Method):
    """Priced by the calibrated surrogate in all three costs.

    Args:
        front: `nested` for the path through ordered units, `gates` for hard-concrete gates.
    """

    label = "MetaS-PEFT"

    def __init__(self, front: str = "nested") -> None:
        self._front = {"nested": nested_front, "gates": gates_front}[front]

    def tune(self, context: TuningContext) -> TunedFront:
        """One fine-tuning, the whole front."""
        return self._front(context, Price.on(context.cost_model, context.weights, context.shape))


METHODS.add("MetaS-PEFT", MetasPeft, ("proposed", "metas"))
