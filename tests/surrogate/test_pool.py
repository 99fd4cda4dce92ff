from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from metas_peft.core.records import ProfileRecord
from metas_peft.core.subnet import Subnet
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE
from metas_peft.devices import Device, Ledger, Purpose, open_device
from metas_peft.surrogate import simulate_pool
from metas_peft.surrogate.pool import SUBNETS_PER_SETTING, draw_setting, draw_subnet


def test_pool_is_crossed(pool_records: list[ProfileRecord]) -> None:
    passes = Counter((r.model_id, r.workload, r.subnet_key) for r in pool_records)
    assert len(pool_records) == 4 * 8 * SUBNETS_PER_SETTING
    assert set(passes.values()) == {4}


def test_pool_mixes_backbones_lengths_batches_widths_and_adapters() -> None:
    rng = np.random.default_rng(0)
    settings = [draw_setting(shape, rng) for shape in (MINILM, ROBERTA_BASE, LLAMA_2_7B) for _ in range(30)]
    assert {s.workload.param_bits for s in settings if s.shape.model_id == "Llama-2-7B"} == {16, 8}
    assert {s.workload.param_bits for s in settings if s.shape.model_id == "roberta-base"} == {32, 16, 8}
    assert {s.workload.phase for s in settings if s.shape.model_id == "Llama-2-7B"} == {"prefill", "decode"}
    assert {s.workload.phase for s in settings if s.shape.model_id == "roberta-base"} == {"prefill"}
    assert {s.workload.adapter for s in settings} == {"merged", "separate"}
    assert {s.workload.batch_size for s in settings} == {1, 2, 4, 8}
    lengths = {s.workload.seq_len for s in settings if s.workload.phase == "prefill"}
    assert min(lengths) == 32
    assert max(lengths) == 256


def test_setting_holds_distinct_subnets_with_the_dense_one() -> None:
    setting = draw_setting(ROBERTA_BASE, np.random.default_rng(4))
    assert len({s.key for s in setting.subnets}) == SUBNETS_PER_SETTING
    assert Subnet.dense(ROBERTA_BASE).key in {s.key for s in setting.subnets}


def test_subnets_are_prefixes_from_one_unit_to_nearly_everything() -> None:
    rng = np.random.default_rng(0)
    subnets = [draw_subnet(MINILM, rng) for _ in range(300)]
    heads = [s.kept_heads / 72 for s in subnets]
    assert min(heads) < 0.1
    assert max(heads) > 0.9
    assert all(p.heads == tuple(range(len(p.heads))) for s in subnets for p in s.layers)
    uniform = sum(len({len(p.heads) for p in s.layers if p.is_kept}) == 1 for s in subnets)
    assert 0.2 < uniform / len(subnets) < 0.7


def test_pool_measurements_are_counted_as_such_and_as_nothing_else(fake_device: Callable[[str], Device]) -> None:
    device = fake_device("phone")
    records = simulate_pool([device], [MINILM], records=50, seed=0)
    assert device.ledger.count("phone", Purpose.POOL) == len(records) == 48
    assert [row["purpose"] for row in device.ledger.rows()] == ["pool"]


def test_pool_is_decided_by_its_seed(fake_device: Callable[[str], Device]) -> None:
    first, again, other = (simulate_pool([fake_device("pi")], [MINILM], records=24, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_noise_of_a_device_does_not_depend_on_its_neighbours(fake_device: Callable[[str], Device]) -> None:
    alone = simulate_pool([fake_device("pi")], [MINILM], records=24, seed=1)
    together = simulate_pool([fake_device("board"), fake_device("pi")], [MINILM], records=48, seed=1)
    assert alone == [r for r in together if r.device == "pi"]


def test_pool_leaves_out_what_does_not_fit_the_memory() -> None:
    ledger = Ledger()
    board = open_device("raspberry-pi-4", ledger=ledger)
    records = simulate_pool([board], [LLAMA_2_7B], records=240, seed=0)
    assert 0 < len(records) < 240
    assert max(r.paper.weight_bytes for r in records) < 4e9
    assert ledger.total(Purpose.POOL) == len(records)


@pytest.mark.parametrize(("count", "match"), [(3000, "fewer than 3000"), (23, "too few")])
def test_pool_refuses_too_many_or_too_few_records(fake_device: Callable[[str], Device], count: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        simulate_pool([fake_device("pi")], [MINILM], records=count, seed=0)


def test_pool_refuses_to_be_made_of_nothing(pool_devices: Sequence[Device]) -> None:
    with pytest.raises(ValueError, match="0 backbones"):
        simulate_pool(pool_devices, [], seed=0)
