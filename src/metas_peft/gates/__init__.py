"""Hard-concrete gates on layers, heads, FFN blocks and LoRA ranks."""

from metas_peft.gates.attach import Attachment, attach, gate_values, gated, masked
from metas_peft.gates.decide import closing, expected_subnet, smallest, told_apart
from metas_peft.gates.files import load_gates, save_gates
from metas_peft.gates.gate_set import GRANULARITIES, GateSet, GateValues, counts_of, network_of, rank_mask

__all__ = [
    "GRANULARITIES",
    "Attachment",
    "GateSet",
    "GateValues",
    "attach",
    "closing",
    "counts_of",
    "expected_subnet",
    "gate_values",
    "gated",
    "load_gates",
    "masked",
    "network_of",
    "rank_mask",
    "save_gates",
    "smallest",
    "told_apart",
]
