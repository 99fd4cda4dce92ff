"""FLOPs, bytes and kernels of one pass, from a backbone's shape and its kept counts.

Conventions: a multiply-add is 2 FLOPs; FLOPs of norms, activations and additions are left out, as
`torch.utils.flop_counter` does (they are below one per cent); a softmax's scores are not counted as bytes
(they stay on chip in every attention kernel of the last years; a runtime without one adds them itself).
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from metas_peft.core.records import BackboneShape, PaperCost, Workload
from metas_peft.core.units import BITS_PER_BYTE
from metas_peft.costs.counts import Counts

T = TypeVar("T")

# Of the kernels of a layer, the part that belongs to attention: four of the seven of a fused engine
# (joint qkv, attention, output, add and norm; against up with activation, down, add and norm).
ATTENTION_SHARE = 4 / 7
# Kernels of a layer in a graph runtime, and outside the layers (embedding, final norm or pooler, head).
GRAPH_KERNELS_PER_LAYER = 10
OUTER_KERNELS = 3


@dataclass(frozen=True)
class Op(Generic[T]):
    """One matrix product or attention of every layer, each field of shape (..., L).

    Attributes:
        name: `qkv`, `attention`, `o`, `up`, `down`, `adapters`, or `outer` (last axis 1).
        flops: Floating-point operations.
        weight_bytes: Weights read in a pass.
        act_bytes: Activations read and written.
        kv_bytes: Cached keys and values read and written.
        score_bytes: Attention scores, for runtimes that write them to memory.
    """

    name: str
    flops: T
    weight_bytes: T
    act_bytes: T
    kv_bytes: T
    score_bytes: T


def act_value_bytes(workload: Workload) -> int:
    """Bytes of one activation: 4 beside 32-bit weights, else 2."""
    return 4 if workload.param_bits == 32 else 2


def layer_ops(shape: BackboneShape, counts: Counts[Any], workload: Workload) -> list[Op[Any]]:
    """The products of all layers, each an `Op` of shape (..., L).

    Args:
        shape: Sizes of the backbone.
        counts: Kept counts, arrays or tensors.
        workload: What is processed.

    Returns:
        Ops `qkv`, `attention`, `o`, `up` (with the gate of a gated FFN), `down`, and `adapters` where they
        are kept separate.
    """
    tokens = workload.batch_size * workload.seq_len
    context = workload.context_len + workload.seq_len
    wb = workload.param_bits / BITS_PER_BYTE
    ab = act_value_bytes(workload)
    width = shape.hidden
    kv = counts.heads * shape.head_size
    query = kv * shape.queries_per_group
    neurons = counts.neurons
    zero = kv * 0.0

    def product(name: str, params: Any, inputs: Any, outputs: Any, bias: Any) -> Op[Any]:
        return Op(name, 2.0 * tokens * params, wb * (params + bias), ab * tokens * (inputs + outputs), zero, zero)

    qkv_out = query + 2.0 * kv
    # Decoding reads the whole cache; a causal prefill writes it once.
    cached = workload.context_len + (workload.seq_len if shape.causal else 0)
    ups = shape.ffn_matrices - 1
    ops = [
        product("qkv", width * qkv_out, width * counts.attention, qkv_out, qkv_out * shape.attention_bias),
        Op(
            "attention",
            4.0 * tokens * context * query,
            zero,
            ab * tokens * 2.0 * (query + kv),
            2.0 * ab * workload.batch_size * cached * kv,
            2.0 * ab * tokens * context * query / shape.head_size,
        ),
        product("o", width * query, query, width * counts.attention, width * counts.attention * shape.output_bias),
        product("up", ups * width * neurons, width * counts.ffn, ups * neurons, ups * neurons * shape.ffn_bias),
        product("down", width * neurons, neurons, width * counts.ffn, width * counts.ffn * shape.ffn_bias),
    ]
    if workload.adapter == "separate" and shape.sites:
        ends = {
            "q": query + width * counts.attention,
            "k": kv + width * counts.attention,
            "v": kv + width * counts.attention,
            "o": query + width * counts.attention,
            "up": neurons + width * counts.ffn,
            "gate": neurons + width * counts.ffn,
            "down": neurons + width * counts.ffn,
        }
        params = sum((counts.ranks[..., m] * ends[s.name] for m, s in enumerate(shape.sites)), zero)
        traffic = sum((ends[s.name] + 2.0 * counts.ranks[..., m] for m, s in enumerate(shape.sites)), zero)
        ops.append(Op("adapters", 2.0 * tokens * params, wb * params, ab * tokens * traffic, zero, zero))
    return ops


def outer_op(shape: BackboneShape, counts: Counts[Any], workload: Workload) -> Op[Any]:
    """Everything outside the layers: embedding look-up, final norm or pooler, head. Shape (..., 1)."""
    one = counts.attention[..., :1] * 0.0 + 1.0
    tokens = workload.batch_size * workload.seq_len
    ab = act_value_bytes(workload)
    flops = workload.batch_size * shape.head_flops_per_sequence + tokens * shape.head_flops_per_token
    head_bytes = shape.head_params * workload.param_bits / BITS_PER_BYTE
    return Op("outer", one * flops, one * head_bytes, one * (2.0 * ab * tokens * shape.hidden), one * 0.0, one * 0.0)


def kernels(counts: Counts[Any], per_layer: float, adapter_kernels: bool = False) -> Any:
    """Sequential kernels of all layers, shape (...).

    Args:
        counts: Kept counts.
        per_layer: Kernels of a whole layer in the runtime at hand.
        adapter_kernels: Whether separate adapters add two launches per site that has a rank left.
    """
    total = per_layer * (ATTENTION_SHARE * counts.attention + (1 - ATTENTION_SHARE) * counts.ffn).sum(-1)
    if adapter_kernels:
        total = total + 2.0 * counts.ranks.clip(0.0, 1.0).sum(-1).sum(-1)
    return total


def paper_cost(shape: BackboneShape, counts: Counts[Any], workload: Workload) -> PaperCost[Any]:
    """Total counted costs of one pass of one batch, each of shape (...).

    `weight_bytes` are the bytes stored, embeddings included; they are exact for 32 and 16 bits.
    """
    ops = layer_ops(shape, counts, workload)
    outer = outer_op(shape, counts, workload)
    wb = workload.param_bits / BITS_PER_BYTE
    norms = shape.norm_params * (counts.attention + counts.ffn).sum(-1)
    fixed = shape.embedding_params + shape.head_params

    def total(field: str) -> Any:
        return sum((getattr(op, field).sum(-1) for op in ops), getattr(outer, field).sum(-1))

    separate = workload.adapter == "separate"
    layer_weights = sum((op.weight_bytes.sum(-1) for op in ops[1:]), ops[0].weight_bytes.sum(-1))
    return PaperCost(
        flops=total("flops"),
        weight_bytes=layer_weights + wb * (norms + fixed),
        act_bytes=total("act_bytes"),
        kv_bytes=total("kv_bytes"),
        n_ops=kernels(counts, GRAPH_KERNELS_PER_LAYER, separate) + OUTER_KERNELS,
    )
