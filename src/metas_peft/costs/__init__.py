"""What a pass costs on paper: shape and kept counts -> FLOPs, bytes, kernels. Differentiable; no torch import."""

from metas_peft.costs.counts import Counts
from metas_peft.costs.paper import ATTENTION_SHARE, Op, kernels, layer_ops, outer_op, paper_cost
from metas_peft.costs.sampling import random_prefixes
from metas_peft.costs.shapes import LLAMA_2_7B, MINILM, ROBERTA_BASE, SHAPES

__all__ = [
    "ATTENTION_SHARE",
    "LLAMA_2_7B",
    "MINILM",
    "ROBERTA_BASE",
    "SHAPES",
    "Counts",
    "Op",
    "kernels",
    "layer_ops",
    "outer_op",
    "paper_cost",
    "random_prefixes",
]
