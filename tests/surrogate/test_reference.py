import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import ProfileRecord
from metas_peft.surrogate import MetaTraining, percent_errors
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.meta import meta_train
from metas_peft.surrogate.reference import ReferenceKind


@pytest.fixture(scope="module")
def table(pool_records: list[ProfileRecord]) -> Table:
    return Table.of(pool_records, InvalidRecordError)


def tensors_equal(first: ReferenceKind, second: ReferenceKind) -> bool:
    a, b = first.tensors(), second.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_repeats_bit_for_bit(table: Table, short_training: MetaTraining) -> None:
    first, again, other = (meta_train(table, [None], seed=s, training=short_training)[0] for s in (4, 4, 5))
    assert tensors_equal(first, again)
    assert not tensors_equal(first, other)


def test_training_leaves_the_global_generators_alone(table: Table, short_training: MetaTraining) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    meta_train(table, [None], seed=4, n_seeds=1, training=dataclasses.replace(short_training, steps=2))
    assert torch.equal(torch.rand(1), expected)


def test_hidden_device_leaves_no_trace(table: Table, short_training: MetaTraining) -> None:
    """Other costs on the hidden device, same training: its labels were never read."""
    hidden = table.devices.index("desk")
    changed = dataclasses.replace(
        table, costs=np.where((table.device == hidden)[:, None], 7 * table.costs, table.costs)
    )
    first, second = (
        meta_train(t, ["desk", None], seed=0, n_seeds=1, training=short_training) for t in (table, changed)
    )
    assert tensors_equal(first[0], second[0])
    assert not tensors_equal(first[1], second[1])


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_longer_training_predicts_a_hidden_device_better(table: Table, mixup: float) -> None:
    own = table.take(table.device == table.devices.index("laptop"))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(own))[:5])
    rest = np.setdiff1d(np.arange(len(own)), chosen)
    errors = []
    for steps in (2, 150):
        training = MetaTraining(steps=steps, mixup=mixup, query=24, mixup_rows=48, inner_steps=4)
        kind = meta_train(table, ["laptop"], seed=0, n_seeds=1, training=training)[0]
        fit = kind.fit(own.take(chosen), None)
        with torch.no_grad():
            predicted = fit(torch.from_numpy(own.features[rest])).numpy()
        errors.append(percent_errors(predicted, own.costs[rest]).mean())
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] < 40


def test_fit_matches_the_level_of_its_samples(table: Table, short_training: MetaTraining) -> None:
    kind = meta_train(table, ["pi"], seed=0, training=short_training)[0]
    five = table.take(np.flatnonzero(table.device == table.devices.index("pi"))[::30][:5])
    with torch.no_grad():
        logs = kind.fit(five, None)(torch.from_numpy(five.features)).log().numpy()
    assert logs.mean(0) == pytest.approx(np.log(five.costs).mean(0), abs=1e-9)


def test_fit_works_where_gradients_are_switched_off(table: Table, short_training: MetaTraining) -> None:
    kind = meta_train(table, ["pi"], seed=0, n_seeds=1, training=short_training)[0]
    five = table.take(np.flatnonzero(table.device == table.devices.index("pi"))[:5])
    columns = torch.from_numpy(five.features)
    with torch.no_grad():
        inside = kind.fit(five, None)(columns)
    assert torch.equal(inside, kind.fit(five, None)(columns))
    assert not kind.fit(five, None)(columns).requires_grad


def test_training_reports_its_progress(table: Table, short_training: MetaTraining) -> None:
    seen: list[float] = []
    meta_train(table, [None], seed=0, n_seeds=1, training=short_training, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_training_needs_three_devices(pool_records: Sequence[ProfileRecord], short_training: MetaTraining) -> None:
    two = Table.of([r for r in pool_records if r.device in ("pi", "desk")], InvalidRecordError)
    with pytest.raises(InvalidRecordError, match="2 device"):
        meta_train(two, [None], seed=0, training=short_training)
