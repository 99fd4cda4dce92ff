"""Hard-concrete gates on layers, heads, FFN blocks and LoRA ranks."""

from metas_peft.gates.attach import gate_values, gated, masked
from metas_peft.gates.gate_set import GRANULARITIES, GateSet, GateValues, counts_of

__all__ = ["GRANULARITIES", "GateSet", "GateValues", "counts_of", "gate_values", "gated", "masked"]
