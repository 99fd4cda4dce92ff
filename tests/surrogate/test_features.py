import dataclasses

import numpy as np
import pytest
import torch

from metas_peft.core.cost import METRICS, PaperCost
from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate.features import COLUMNS, Table, describe


def test_describe_gives_the_columns_that_a_table_has(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records[:40], InvalidRecordError)
    assert table.features.shape == (40, len(COLUMNS))
    for row, record in zip(table.features, pool_records[:40], strict=True):
        paper = PaperCost(*(torch.tensor(v) for v in dataclasses.astuple(record.paper)))
        assert describe(paper, record.workload).numpy() == pytest.approx(row, rel=1e-6)


def test_table_numbers_settings_by_backbone_and_workload(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records, InvalidRecordError)
    pairs = {(r.model_id, r.workload) for r in pool_records}
    assert len(set(table.setting.tolist())) == len(pairs) == 8
    assert not table.is_one_setting()
    assert table.take(table.setting == 3).is_one_setting()


def test_table_without_a_device_holds_none_of_its_rows(pool_records: list[ProfileRecord]) -> None:
    table = Table.of(pool_records, InvalidRecordError)
    rest = table.without("desk")
    assert len(rest) == len(table) - sum(r.device == "desk" for r in pool_records)
    assert [table.devices[d] for d in rest.present()] == ["board", "laptop", "pi"]


def test_table_marks_unmeasured_costs(pool_records: list[ProfileRecord]) -> None:
    record = pool_records[0]
    partial = dataclasses.replace(record, cost=dataclasses.replace(record.cost, energy_j=None))
    assert np.isnan(Table.of([partial], InvalidRecordError).costs[0]).tolist() == [True, False, False]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_table_refuses_an_impossible_cost(pool_records: list[ProfileRecord], metric: str, value: float) -> None:
    bad = dataclasses.replace(pool_records[1], cost=dataclasses.replace(pool_records[1].cost, **{metric: value}))
    with pytest.raises(InvalidRecordError, match=f"Record 1 .*{metric}"):
        Table.of([pool_records[0], bad], InvalidRecordError)


def test_table_refuses_a_negative_count(pool_records: list[ProfileRecord]) -> None:
    bad = dataclasses.replace(pool_records[0], paper=dataclasses.replace(pool_records[0].paper, flops=-1.0))
    with pytest.raises(InvalidRecordError, match="flops is -1.0"):
        Table.of([bad], InvalidRecordError)
