"""The packed controller: round trips, size, and refusal of anything damaged."""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from metas_peft.control.codec import MAX_BYTES, pack, unpack
from metas_peft.control.runtime import from_bytes
from metas_peft.control.tree import Controller, ControllerTree, run_tag
from metas_peft.core.errors import CheckpointError, ControllerTooLargeError, SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet


def test_pack_round_trips_nested_members(nested: Controller) -> None:
    data = pack(nested)
    back = unpack(data)
    assert back == nested
    assert [s.key for s in back.members] == [s.key for s in nested.members]
    # Header 15, tree 6 x 5 + 7, table 4 members x 6 layers x (2 + 4 + 4) bits, check 4.
    assert len(data) == 15 + 37 + 30 + 4


def test_pack_round_trips_masks_and_separate_ranks(scattered: Controller) -> None:
    assert from_bytes(pack(scattered, adapter="separate")) == scattered


def test_pack_leaves_ranks_out_when_adapters_are_merged(scattered: Controller) -> None:
    back = unpack(pack(scattered))
    assert all(plan.ranks is None for subnet in back.members for plan in subnet.layers)
    assert [[p.heads for p in s.layers] for s in back.members] == [
        [p.heads for p in s.layers] for s in scattered.members
    ]


def test_eight_llama_members_fit_with_table(llama_sized: Callable[[int], Controller]) -> None:
    controller = llama_sized(8)
    data = pack(controller)
    assert len(data) <= MAX_BYTES
    assert unpack(data) == controller


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blocks", [16, 43])
def test_eight_llama_members_fit_whatever_their_prefixes_are(seed: int, blocks: int, full_tree: ControllerTree) -> None:
    rng = np.random.default_rng(seed)
    members = tuple(
        Subnet.prefix(rng.integers(0, 33, 32).tolist(), rng.integers(0, blocks + 1, 32).tolist()) for _ in range(8)
    )
    leaves = tuple(m if f else 2 * m + 1 for m, f in zip(full_tree.member, full_tree.feature, strict=True))
    controller = Controller(dataclasses.replace(full_tree, member=leaves), members, run_tag("llama"))
    data = pack(controller)
    assert len(data) <= 540
    assert unpack(data) == controller


@pytest.mark.parametrize("seed", range(3))
def test_eight_llama_members_fit_when_nested_in_any_order_of_heads(seed: int, full_tree: ControllerTree) -> None:
    rng = np.random.default_rng(seed)
    heads, blocks = rng.integers(0, 9, (32, 32)), rng.integers(0, 9, (32, 16))

    def plan(layer: int, member: int) -> LayerPlan:
        kept = [tuple(np.flatnonzero(table[layer] <= member).tolist()) for table in (heads, blocks)]
        return LayerPlan(bool(kept[0]), bool(kept[1]), *kept)

    members = tuple(Subnet(tuple(plan(layer, m) for layer in range(32))) for m in (3, 7, 0, 1, 2, 6, 5, 4))
    controller = Controller(full_tree, members, run_tag("llama"))
    data = pack(controller)
    assert len(data) <= MAX_BYTES
    assert unpack(data) == controller


def test_too_many_members_are_refused_with_size(llama_sized: Callable[[int], Controller]) -> None:
    with pytest.raises(ControllerTooLargeError, match=r"takes 1\d\d\d bytes"):
        pack(llama_sized(24))


def test_every_altered_byte_is_refused(nested: Controller) -> None:
    data = pack(nested)
    for position in range(len(data)):
        for bit in (1, 0x80):
            damaged = bytearray(data)
            damaged[position] ^= bit
            with pytest.raises(CheckpointError):
                unpack(bytes(damaged))


def test_every_truncation_is_refused(nested: Controller) -> None:
    data = pack(nested)
    for size in range(len(data)):
        with pytest.raises(CheckpointError):
            unpack(data[:size])


@pytest.mark.parametrize(("offset", "value"), [(2, 99), (4, 7), (5, 3), (10, 200), (15, 77)])
def test_inconsistent_content_is_refused_even_with_a_valid_checksum(
    nested: Controller, offset: int, value: int
) -> None:
    body = bytearray(pack(nested)[:-4])
    body[offset] = value
    with pytest.raises(CheckpointError):
        unpack(bytes(body) + zlib.crc32(bytes(body)).to_bytes(4, "little"))


def test_pack_refuses_layers_with_different_sites() -> None:
    plans = (LayerPlan(True, True, (0,), (0,), ((0,),)), LayerPlan(True, True, (0,), (0,), ((0,), (1,))))
    with pytest.raises(SubnetError, match="adapter sites"):
        pack(Controller(ControllerTree.always(0), (Subnet(plans),)), adapter="separate")
