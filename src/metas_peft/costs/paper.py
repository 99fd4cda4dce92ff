"""FLOPs, bytes and kernels of one pass, from a backbone's shape and its kept counts.

Conventions: a multiply-add is 2 FLOPs; FLOPs of norms, activations and additions are left out, as
`torch.utils.flop_counter` does (they are below one per cent); a softmax's scores are not counted as bytes
(they stay on chip in every attention kernel of the last years; a runtime without one adds them itself).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from metas_peft.core.cost import PaperCost
from metas_peft.core.shape import BackboneShape, MapSizes, SubLayerSizes
from metas_peft.core.units import BITS_PER_BYTE
from metas_peft.core.workload import Workload
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


def plain_sizes(shape: BackboneShape) -> tuple[SubLayerSizes, SubLayerSizes]:
    """Attention and feed-forward sizes of a transformer whose layers are all alike and hold nothing unusual."""
    width, kv = shape.hidden, shape.head_size
    query, ups = kv * shape.queries_per_group, shape.ffn_matrices - 1
    rows = query + 2 * kv
    return (
        SubLayerSizes(
            entry=MapSizes(0, width * rows + rows * shape.attention_bias, 0, width * rows),
            exit=MapSizes(width * shape.output_bias, query * width, 0, query * width),
            norm_params=shape.norm_params,
            scores=2 * query,
            cache=(0, 2 * kv),
        ),
        SubLayerSizes(
            entry=MapSizes(0, ups * width + ups * shape.ffn_bias, 0, ups * width),
            exit=MapSizes(width * shape.ffn_bias, width, 0, width),
            norm_params=shape.norm_params,
        ),
    )


def site_ends(width: int, query: int, kv: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the adapter sites of a plain transformer: those that stay, and those of each unit.

    Args:
        width: Width of the residual stream.
        query: Query entries of a head unit.
        kv: Key (or value) entries of a head unit.
    """
    heads = {"q": (width, query), "k": (width, kv), "v": (width, kv), "o": (width, query)}
    return heads | dict.fromkeys(("up", "gate", "down"), (width, 1))


class _Columns:
    """Sizes of one sub-layer as columns over layers that multiply arrays or tensors of shape (..., L)."""

    def __init__(self, sizes: Sequence[SubLayerSizes], like: Any) -> None:
        self._sizes, self._like = sizes, like

    def __call__(self, read: Callable[[SubLayerSizes], int]) -> Any:
        values = [float(read(s)) for s in self._sizes]
        if len(set(values)) == 1:
            return values[0]
        # numpy arrays and tensors do not multiply with one another: a column is of the counts' own kind.
        return np.asarray(values) if isinstance(self._like, np.ndarray) else self._like.new_tensor(values)


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
    layers = shape.layer_sizes or (plain_sizes(shape),)
    attention = _Columns([a for a, _ in layers], counts.heads)
    ffn = _Columns([f for _, f in layers], counts.heads)
    # What serves all heads goes with the last of them.
    some_head = counts.heads.clip(0.0, 1.0)

    def product(name: str, macs: Any, params: Any, inputs: Any, outputs: Any) -> Op[Any]:
        return Op(name, 2.0 * tokens * macs, wb * params, ab * tokens * (inputs + outputs), zero, zero)

    # Decoding reads the cache as far as the layer's window reaches; a causal prefill writes it once.
    is_decoding = workload.phase == "decode"

    def within(tokens: int) -> Any:
        return attention(lambda s: min(tokens, s.window) if s.window and is_decoding else tokens)

    seen = within(context)
    cached = within(workload.context_len + (workload.seq_len if shape.causal else 0))
    cache = attention(lambda s: s.cache[0]) * some_head + attention(lambda s: s.cache[1]) * counts.heads
    positions = attention(lambda s: s.positions) * counts.heads
    ups = shape.ffn_matrices - 1
    ops = [
        product(
            "qkv",
            attention(lambda s: s.entry.fixed_macs) * some_head + attention(lambda s: s.entry.unit_macs) * counts.heads
            + attention(lambda s: s.position_macs) * positions / tokens,
            attention(lambda s: s.entry.fixed_params) * some_head
            + attention(lambda s: s.entry.unit_params) * counts.heads,
            width * counts.attention,
            query + cache,
        ),
        Op(
            "attention",
            2.0 * tokens * (attention(lambda s: s.scores) * counts.heads * seen
                            + attention(lambda s: s.position_scores) * positions),
            zero,
            ab * tokens * (2.0 * query + cache),
            ab * workload.batch_size * cached * cache,
            2.0 * ab * tokens * seen * query / shape.head_size,
        ),
        product(
            "o",
            attention(lambda s: s.exit.unit_macs) * counts.heads,
            attention(lambda s: s.exit.unit_params) * counts.heads
            + attention(lambda s: s.exit.fixed_params) * counts.attention,
            query,
            width * counts.attention,
        ),
        product(
            "up",
            ffn(lambda s: s.entry.unit_macs) * neurons + ffn(lambda s: s.entry.fixed_macs) * counts.ffn,
            ffn(lambda s: s.entry.unit_params) * neurons + ffn(lambda s: s.entry.fixed_params) * counts.ffn,
            width * counts.ffn,
            ups * neurons,
        ),
        product(
            "down",
            ffn(lambda s: s.exit.unit_macs) * neurons,
            ffn(lambda s: s.exit.unit_params) * neurons + ffn(lambda s: s.exit.fixed_params) * counts.ffn,
            neurons,
            width * counts.ffn,
        ),
    ]  # fmt: skip
    if workload.adapter == "separate" and shape.sites:
        ends = _adapter_ends(shape, counts)
        params = sum((counts.ranks[..., m] * end for m, end in enumerate(ends)), zero)
        extra = sum((counts.ranks[..., m] * ends[m] * s.extra_rows for m, s in enumerate(shape.sites)), zero)
        traffic = sum((end + 2.0 * counts.ranks[..., m] for m, end in enumerate(ends)), zero)
        ops.append(Op("adapters", 2.0 * (tokens * params + extra), wb * params, ab * tokens * traffic, zero, zero))
    return ops


def _adapter_ends(shape: BackboneShape, counts: Counts[Any]) -> list[Any]:
    """Values that each site's adapter reads and writes per token, each (..., L)."""
    plain = site_ends(shape.hidden, shape.head_size * shape.queries_per_group, shape.head_size)
    found: list[Any] = []
    for site in shape.sites:
        fixed, per_unit = site.ends if site.ends is not None else plain[site.name]
        presence, units = (counts.ffn, counts.neurons) if site.is_ffn else (counts.attention, counts.heads)
        found.append(fixed * presence + per_unit * units)
    return found


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
    layers = shape.layer_sizes or (plain_sizes(shape),)
    norms = (_Columns([a for a, _ in layers], counts.heads)(lambda s: s.norm_params) * counts.attention).sum(-1)
    norms = norms + (_Columns([f for _, f in layers], counts.heads)(lambda s: s.norm_params) * counts.ffn).sum(-1)
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
