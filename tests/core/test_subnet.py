"""Subnets: what they count, their key, and their way through JSON."""

import json
import subprocess
import sys

import pytest

from metas_peft.core.errors import SubnetError
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.costs import MINILM

PLAN = LayerPlan(True, True, (0, 2), (1,), ((0, 1), ()))


def test_subnet_survives_json_and_keeps_its_key():
    subnet = Subnet((PLAN, LayerPlan(False, False, (), ())))
    again = Subnet.from_dict(json.loads(json.dumps(subnet.as_dict())))
    assert again == subnet
    assert again.key == subnet.key
    assert len(subnet.key) == 10


@pytest.mark.parametrize(
    "other",
    [
        LayerPlan(True, True, (0, 1), (1,), ((0, 1), ())),
        LayerPlan(True, True, (0, 2), (2,), ((0, 1), ())),
        LayerPlan(True, True, (0, 2), (1,), ((0,), ())),
        LayerPlan(True, True, (0, 2), (1,), None),
        LayerPlan(True, False, (0, 2), (1,), ((0, 1), ())),
    ],
)
def test_other_choices_have_other_keys(other):
    assert Subnet((other,)).key != Subnet((PLAN,)).key


def test_key_is_the_same_in_another_process():
    script = "from metas_peft.core.subnet import Subnet; print(Subnet.prefix([3, 0], [1, 12]).key)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Subnet.prefix([3, 0], [1, 12]).key


def test_prefix_removes_sub_layers_without_units():
    subnet = Subnet.prefix([2, 0, 1], [0, 3, 1])
    assert [(p.attention, p.ffn) for p in subnet.layers] == [(True, False), (False, True), (True, True)]
    assert (subnet.kept_layers, subnet.kept_heads, subnet.kept_ffn_blocks) == (3, 3, 4)
    assert Subnet.prefix([2, 0, 0], [0, 0, 1]).kept_layers == 2


def test_units_of_a_removed_sub_layer_are_not_kept():
    subnet = Subnet((LayerPlan(False, True, (0, 1, 2), (0,)), LayerPlan(True, False, (0,), (0, 1))))
    assert (subnet.kept_heads, subnet.kept_ffn_blocks) == (1, 1)


def test_dense_subnet_keeps_everything():
    dense = Subnet.dense(MINILM)
    assert (dense.kept_layers, dense.kept_heads, dense.kept_ffn_blocks) == (6, 72, 72)


def test_subnet_of_nothing_is_refused():
    with pytest.raises(SubnetError, match="keeps no layer at all"):
        Subnet((LayerPlan(False, False, (0,), (0,)),))
