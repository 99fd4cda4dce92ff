"""The vocabulary: costs, subnets, origins and their way through JSON."""

import json
import subprocess
import sys

import pytest

from metas_peft.core.cost import METRICS, Cost, Origin, PaperCost
from metas_peft.core.errors import SubnetError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import AdapterSite
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM

PLAN = LayerPlan(True, True, (0, 2), (1,), ((0, 1), ()))


def record(**changes):
    values = {
        "device": "pixel-8", "model_id": "tiny", "subnet_key": "0123456789", "workload": Workload(seq_len=16),
        "paper": PaperCost(1e6, 2e5, 3e4, 0.0, 33.0), "cost": Cost(0.25, 12.5, None),
        "origin": Cost(Origin.SIMULATED, Origin.MEASURED, None), "kept_layers": 3, "kept_heads": 7, "kept_ranks": 4,
        "kept_ffn": 20, "n_layers": 3,
    }  # fmt: skip
    return ProfileRecord(**{**values, **changes})


def test_metrics_are_in_one_order_everywhere():
    assert METRICS == ("energy_j", "latency_ms", "peak_power_w")
    assert [name for name, _ in Cost(1, 2, 3).items()] == list(METRICS)
    assert Cost.of({"peak_power_w": 3, "energy_j": 1, "latency_ms": 2}) == Cost(1, 2, 3)
    assert Cost(4.0, 9.0, 2.0).zip(Cost(2.0, 3.0, 4.0), lambda a, b: a / b) == Cost(2.0, 3.0, 0.5)


def test_weakest_origin_is_the_least_trustworthy():
    assert Origin.weakest([Origin.MEASURED, Origin.MODELLED]) is Origin.MODELLED
    assert Origin.weakest([Origin.SIMULATED, Origin.IMPORTED]) is Origin.SIMULATED
    assert Origin.weakest([Origin.MEASURED]) is Origin.MEASURED


def test_record_survives_a_row_and_json():
    whole = record(latency_std_ms=0.5, threads=1, meter="clock", why_invalid="", idle_power_w=None)
    row = json.loads(json.dumps(whole.as_row()))
    assert ProfileRecord.from_row(row) == whole
    assert row["peak_power_w"] is None
    assert (row["seq_len"], row["flops"], row["energy_j"]) == (16, 1e6, 0.25)


def test_row_calls_itself_by_its_weakest_number():
    assert record().as_row()["origin"] == "simulated"
    assert record(origin=Cost(None, Origin.MEASURED, None)).as_row()["origin"] == "measured"
    assert record(origin=Cost(None, None, None), cost=Cost(None, None, None)).as_row()["origin"] is None


def test_row_of_another_file_with_one_origin_has_it_for_every_number_it_holds():
    row = {k: v for k, v in record().as_row().items() if not k.startswith("origin_")} | {"origin": "imported"}
    assert ProfileRecord.from_row(row).origin == Cost(Origin.IMPORTED, Origin.IMPORTED, None)


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


def test_shape_divides_as_it_says():
    assert MINILM.block_size * MINILM.ffn_blocks == MINILM.ffn_size
    assert MINILM.queries_per_group * MINILM.n_kv_heads == MINILM.n_heads
    assert AdapterSite("q", 8).rank == 8
