"""The controller in at most 1,024 bytes. Standard library only.

    header   "MC", version, flags, layers, members, bits of a head field, bits of an FFN field, sites,
             bits of a rank field, nodes (11 bytes), tag of the run (4 bytes)
    tree     nodes in pre-order: a leaf is one byte (0x80 + member), a split one byte (feature) and a float32
    table    per member and layer: attention and FFN present (1 bit each), heads, FFN blocks, ranks of each site
    check    CRC-32 of everything before it

Where every member keeps a prefix of the heads (blocks, ranks), as nested fronts do, a field is a count; else it is a
mask with a bit per head. Ranks are stored only for adapters that stay separate: a merged adapter has none to choose.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

from metas_peft.control.tree import LEAF, Controller, ControllerTree
from metas_peft.core.errors import CheckpointError, ControllerTooLargeError, SubnetError
from metas_peft.core.records import LayerPlan, Subnet

MAX_BYTES = 1024
MAGIC = b"MC"
VERSION = 1

_HEADER = struct.Struct("<2s9B4s")
_CHECK = struct.Struct("<I")
_SPLIT = struct.Struct("<Bf")
_LEAF_BIT = 0x80
_HEAD_MASKS, _FFN_MASKS, _RANK_MASKS, _RANKS = 1, 2, 4, 8


def pack(controller: Controller, adapter: Literal["merged", "separate"] = "merged", limit: int = MAX_BYTES) -> bytes:
    """The controller as bytes, tree and table of members together.

    Args:
        controller: What to store; its names are left out.
        adapter: `separate` stores the kept ranks too.
        limit: Bytes at most.

    Raises:
        ControllerTooLargeError: It does not fit.
        SubnetError: Layers of the members list different numbers of adapter sites.
    """
    layers = [plan for subnet in controller.members for plan in subnet.layers]
    listed = [plan.ranks for plan in layers if plan.ranks is not None] if adapter == "separate" else []
    sites = {len(ranks) for ranks in listed}
    if len(sites) > 1:
        raise SubnetError(f"The members' layers have {sorted(sites)} adapter sites; a table needs one number of sites.")
    head_field = _Field.fitting(plan.heads for plan in layers)
    ffn_field = _Field.fitting(plan.ffn_blocks for plan in layers)
    rank_field = _Field.fitting(kept for ranks in listed for kept in ranks)
    bits = _Bits()
    for plan in layers:
        bits.put(int(plan.attention), 1)
        bits.put(int(plan.ffn), 1)
        bits.put(head_field.encode(plan.heads), head_field.width)
        bits.put(ffn_field.encode(plan.ffn_blocks), ffn_field.width)
        if listed:
            bits.put(int(plan.ranks is not None), 1)
            for kept in plan.ranks or ():
                bits.put(rank_field.encode(kept), rank_field.width)
    flags = _HEAD_MASKS * head_field.is_mask + _FFN_MASKS * ffn_field.is_mask + _RANK_MASKS * rank_field.is_mask
    counts = (len(controller.members[0].layers), len(controller.members), head_field.width, ffn_field.width,
              max(sites, default=0), rank_field.width, len(controller.tree.feature))  # fmt: skip
    if max(counts) > 0xFF or len(controller.members) > _LEAF_BIT:
        raise ControllerTooLargeError(
            f"A controller holds at most 255 layers, heads, blocks and ranks and 128 members; seen {counts}. "
            "Choose fewer members."
        )
    body = b"".join(
        [
            _HEADER.pack(MAGIC, VERSION, flags | _RANKS * bool(listed), *counts, bytes.fromhex(controller.run)),
            *_pack_nodes(controller.tree, 0),
            bits.to_bytes(),
        ]
    )
    data = body + _CHECK.pack(zlib.crc32(body))
    if len(data) > limit:
        raise ControllerTooLargeError(
            f"The controller takes {len(data)} bytes with the table of its {len(controller.members)} members, at most "
            f"{limit} are allowed. Choose fewer members, or a nested front, whose members are stored as counts."
        )
    return data


def unpack(data: bytes) -> Controller:
    """Inverse of `pack`; names are empty, and ranks None where the adapters were merged.

    Raises:
        CheckpointError: Truncated, altered, or of another version.
    """
    if len(data) < _HEADER.size + _CHECK.size or data[: len(MAGIC)] != MAGIC:
        raise CheckpointError(f"These {len(data)} bytes are not a packed controller; write controller.json again.")
    body, (check,) = data[: -_CHECK.size], _CHECK.unpack(data[-_CHECK.size :])
    if zlib.crc32(body) != check:
        raise CheckpointError("A packed controller is damaged (checksum differs); copy or write it again.")
    _, version, flags, n_layers, n_members, head_bits, ffn_bits, sites, rank_bits, n_nodes, run = _HEADER.unpack_from(
        body
    )
    if version != VERSION:
        raise CheckpointError(f"A packed controller has version {version}, expected {VERSION}; write it again.")
    try:
        tree, offset = _unpack_tree(body, n_nodes)
        bits = _Bits(body[offset:])
        heads = _Field(bool(flags & _HEAD_MASKS), head_bits)
        ffn = _Field(bool(flags & _FFN_MASKS), ffn_bits)
        rank = _Field(bool(flags & _RANK_MASKS), rank_bits)

        def plan() -> LayerPlan:
            attention, has_ffn = bool(bits.take(1)), bool(bits.take(1))
            kept_heads, kept_ffn = heads.decode(bits.take(head_bits)), ffn.decode(bits.take(ffn_bits))
            has_ranks = bool(flags & _RANKS) and bool(bits.take(1))
            ranks = tuple(rank.decode(bits.take(rank_bits)) for _ in range(sites)) if has_ranks else None
            return LayerPlan(attention, has_ffn, kept_heads, kept_ffn, ranks)

        members = tuple(Subnet(tuple(plan() for _ in range(n_layers))) for _ in range(n_members))
        bits.require_end()
    except (IndexError, struct.error, SubnetError) as error:
        raise CheckpointError(f"A packed controller is inconsistent ({error}); write it again.") from error
    return Controller(tree, members, run.hex())


class _Field:
    """How a set of kept indices is written: its size where all are prefixes, else a bit per index."""

    def __init__(self, is_mask: bool, width: int) -> None:
        self.is_mask = is_mask
        self.width = width

    @classmethod
    def fitting(cls, sets: Iterable[Sequence[int]]) -> "_Field":
        kept = [tuple(s) for s in sets]
        is_mask = any(s != tuple(range(len(s))) for s in kept)
        width = max((max(s, default=-1) + 1 if is_mask else len(s).bit_length() for s in kept), default=0)
        return cls(is_mask, width)

    def encode(self, kept: Sequence[int]) -> int:
        return sum(1 << index for index in kept) if self.is_mask else len(kept)

    def decode(self, value: int) -> tuple[int, ...]:
        return tuple(i for i in range(self.width) if value >> i & 1) if self.is_mask else tuple(range(value))


class _Bits:
    """A queue of bits, least significant first."""

    def __init__(self, data: bytes = b"") -> None:
        self._value = int.from_bytes(data, "little")
        self._capacity = 8 * len(data)
        self._position = 0

    def put(self, value: int, width: int) -> None:
        self._value |= value << self._position
        self._position += width

    def take(self, width: int) -> int:
        value = self._value >> self._position & ((1 << width) - 1)
        self._position += width
        return value

    def to_bytes(self) -> bytes:
        return self._value.to_bytes((self._position + 7) // 8, "little")

    def require_end(self) -> None:
        if (self._position + 7) // 8 * 8 != self._capacity:
            raise CheckpointError("A packed controller's table and header disagree in length; write it again.")


def _pack_nodes(tree: ControllerTree, node: int) -> list[bytes]:
    if tree.feature[node] == LEAF:
        return [bytes([_LEAF_BIT | tree.member[node]])]
    split = _SPLIT.pack(tree.feature[node], tree.threshold[node])
    return [split, *_pack_nodes(tree, tree.left[node]), *_pack_nodes(tree, tree.right[node])]


def _unpack_tree(body: bytes, n_nodes: int) -> tuple[ControllerTree, int]:
    """The tree, and where in `body` it ends."""
    feature, left, right, member = ([LEAF] * n_nodes for _ in range(4))
    threshold = [0.0] * n_nodes
    offset = _HEADER.size
    waiting: list[int] = []  # splits whose right child is still to come
    for node in range(n_nodes):
        if node and feature[node - 1] != LEAF:
            left[node - 1] = node
        elif node:
            right[waiting.pop()] = node
        if body[offset] & _LEAF_BIT:
            member[node] = body[offset] & ~_LEAF_BIT
            offset += 1
        else:
            feature[node], threshold[node] = _SPLIT.unpack_from(body, offset)
            waiting.append(node)
            offset += _SPLIT.size
    return ControllerTree(tuple(feature), tuple(threshold), tuple(left), tuple(right), tuple(member)), offset
