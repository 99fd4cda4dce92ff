"""The controller in at most 1,024 bytes. Standard library only.

    header   "MC", version, flags, layers, members, bits of a head field, bits of an FFN field, sites,
             bits of a rank field, nodes (11 bytes), tag of the run (4 bytes)
    tree     nodes in pre-order: a leaf is one byte (0x80 + member), a split one byte (feature) and a float32
    table    attention and FFN present (1 bit each per member and layer); then heads, FFN blocks, ranks of each site
    check    CRC-32 of everything before it

Sets of heads (blocks, ranks) are written in the shortest way that holds them (`fields`): as counts where every member
keeps a prefix, as nested fronts do; as levels where one member's are within the next one's in any order; else as masks.
Ranks are stored only for adapters that stay separate: a merged adapter has none to choose.
"""

import struct
import zlib
from typing import Literal

from metas_peft.control.fields import Bits, Field
from metas_peft.control.tree import LEAF, Controller, ControllerTree
from metas_peft.core.errors import CheckpointError, ControllerTooLargeError, SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet

MAX_BYTES = 1024
MAGIC = b"MC"
VERSION = 2

_HEADER = struct.Struct("<2s9B4s")
_CHECK = struct.Struct("<I")
_SPLIT = struct.Struct("<Bf")
_LEAF_BIT = 0x80
_KIND_BITS, _HAS_RANKS = 2, 1 << 6  # flags: kinds of heads, blocks and ranks, then whether there are ranks


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
    members = [subnet.layers for subnet in controller.members]
    plans = [plan for layers in members for plan in layers]
    ranks = [plan.ranks for plan in plans] if adapter == "separate" else []
    sites = {len(kept) for kept in ranks if kept is not None}
    if len(sites) > 1:
        raise SubnetError(f"The members' layers have {sorted(sites)} adapter sites; a table needs one number of sites.")
    fields = (
        Field.shortest([[plan.heads for plan in layers] for layers in members]),
        Field.shortest([[plan.ffn_blocks for plan in layers] for layers in members]),
        # Of one member: ranks are missing here and there, and levels need every place.
        Field.shortest([[kept for listed in ranks if listed is not None for kept in listed]], among_members=False),
    )
    head, block, rank = fields
    counts = (len(members[0]), len(members), head.width, block.width, max(sites, default=0), rank.width,
              len(controller.tree.feature))  # fmt: skip
    if max(counts) > 0xFF or len(members) > _LEAF_BIT:
        raise ControllerTooLargeError(
            f"A controller holds at most 255 layers, heads, blocks and ranks and 128 members; seen {counts}. "
            "Choose fewer members."
        )
    bits = Bits()
    for plan in plans:
        bits.put(int(plan.attention), 1)
        bits.put(int(plan.ffn), 1)
    head.write(bits)
    block.write(bits)
    if sites:
        for kept in ranks:
            bits.put(int(kept is not None), 1)
        rank.write(bits)
    flags = sum(field.kind << _KIND_BITS * place for place, field in enumerate(fields)) | _HAS_RANKS * bool(sites)
    body = b"".join(
        [
            _HEADER.pack(MAGIC, VERSION, flags, *counts, bytes.fromhex(controller.run)),
            *_pack_nodes(controller.tree, 0),
            bits.to_bytes(),
        ]
    )
    data = body + _CHECK.pack(zlib.crc32(body))
    if len(data) > limit:
        raise ControllerTooLargeError(
            f"The controller takes {len(data)} bytes with the table of its {len(members)} members, at most {limit} are "
            "allowed. Choose fewer members, or a nested front, whose members are stored as counts."
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
        bits = Bits(body[offset:])
        kinds = [flags >> _KIND_BITS * place & (1 << _KIND_BITS) - 1 for place in range(3)]
        present = [(bool(bits.take(1)), bool(bits.take(1))) for _ in range(n_members * n_layers)]
        heads = Field.read(bits, kinds[0], head_bits, n_members, n_layers)
        blocks = Field.read(bits, kinds[1], ffn_bits, n_members, n_layers)
        listed = [bool(bits.take(1)) for _ in present] if flags & _HAS_RANKS else [False] * len(present)
        kept = iter(Field.read(bits, kinds[2], rank_bits, 1, sites * sum(listed)).sets[0])

        def plan(place: int) -> LayerPlan:
            m, i = divmod(place, n_layers)
            ranks = tuple(next(kept) for _ in range(sites)) if listed[place] else None
            return LayerPlan(*present[place], heads.sets[m][i], blocks.sets[m][i], ranks)

        plans = [plan(place) for place in range(len(present))]
        members = tuple(Subnet(tuple(plans[m * n_layers : (m + 1) * n_layers])) for m in range(n_members))
        bits.require_end()
    except (IndexError, ValueError, struct.error, SubnetError) as error:
        raise CheckpointError(f"A packed controller is inconsistent ({error}); write it again.") from error
    return Controller(tree, members, run.hex())


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
