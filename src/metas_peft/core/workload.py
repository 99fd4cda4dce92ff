"""What one forward pass processes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Workload:
    """What one pass processes.

    Attributes:
        phase: `prefill` (a classifier's pass is one) or `decode` (one new token per sequence).
        batch_size: Sequences in the batch.
        seq_len: Tokens per sequence that pass through the model; 1 in `decode`.
        context_len: Tokens already in the KV cache (`decode` only).
        param_bits: Storage width of the backbone's weights: 32, 16, 8 or 4.
        adapter: `merged` into the weights, or kept `separate` and paid for in every pass.
    """

    phase: Literal["prefill", "decode"] = "prefill"
    batch_size: int = 1
    seq_len: int = 128
    context_len: int = 0
    param_bits: int = 32
    adapter: Literal["merged", "separate"] = "merged"
