"""Controllers over small and large fronts."""

from collections.abc import Callable

import pytest

from metas_peft.control.tree import Controller, ControllerTree, run_tag, to_float32
from metas_peft.core.subnet import LayerPlan, Subnet

FULL_TREE = ControllerTree(
    feature=(0, 1, 0, -1, -1, -1, 1, 0, -1, -1, 0, -1, -1),
    threshold=(5.25, to_float32(0.1), to_float32(3.3), 0.0, 0.0, 0.0, 0.5, to_float32(7.7), 0.0, 0.0, 8.0, 0.0, 0.0),
    left=(1, 2, 3, -1, -1, -1, 7, 8, -1, -1, 11, -1, -1),
    right=(6, 5, 4, -1, -1, -1, 10, 9, -1, -1, 12, -1, -1),
    member=(-1, -1, -1, 0, 1, 2, -1, -1, 3, 0, -1, 2, 3),
)


@pytest.fixture
def full_tree() -> ControllerTree:
    """Seven leaves over four members, both features."""
    return FULL_TREE


@pytest.fixture
def nested() -> Controller:
    """Four members of a six-layer, twelve-head backbone, each a prefix of the next."""
    members = tuple(
        Subnet.prefix([max(0, k - i) for i in range(6)], [max(1, k - 2 * i) for i in range(6)]) for k in (4, 6, 9, 12)
    )
    return Controller(FULL_TREE, members, run_tag("demo"), ("25 %", "50 %", "75 %", "100 %"))


@pytest.fixture
def scattered() -> Controller:
    """Two members whose heads are no prefix, with separate adapters of two sites."""

    def plan(shift: int) -> LayerPlan:
        return LayerPlan(True, True, (0, 2 + shift, 9), (1, 3), ((0, 1, 5), ()))

    gone = LayerPlan(False, False, (), ())
    return Controller(
        ControllerTree.always(1), (Subnet((plan(0), gone, plan(1))), Subnet((plan(2), plan(3), gone))), run_tag("other")
    )


@pytest.fixture
def llama_sized() -> Callable[[int], Controller]:
    """As many nested members of a 32-layer, 32-head backbone with 16 FFN blocks as asked for."""

    def build(members: int) -> Controller:
        subnets = [
            Subnet.prefix(
                [(7 * layer + 4 * m) % 33 for layer in range(32)], [(5 * layer + 3 * m) % 17 for layer in range(32)]
            )
            for m in range(members)
        ]
        return Controller(ControllerTree.always(members - 1), tuple(subnets), run_tag("llama"))

    return build
