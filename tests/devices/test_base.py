import dataclasses

import pytest

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeasurementError, MeterUnavailableError
from metas_peft.core.workload import Workload
from metas_peft.devices.base import Device, Ledger, Purpose, make_record, stacked_papers

SPEC = DeviceSpec("fake", "Fake", "gpu", "none", None, None, None, None)


class FakeDevice(Device):
    """Gives each specimen the same cost and origin, after an error if there is one to raise."""

    def __init__(self, cost=None, origin=None, *, meters=(), meter="", error=None, lost=0):
        super().__init__(SPEC, meters=meters)
        self.cost = cost or Cost(1.0, 2.0, 600.0)
        self.origin = origin or Cost.uniform(Origin.SIMULATED)
        self.meter, self.error, self.lost = meter, error, lost

    def _measure(self, specimens, workload, purpose, seed):
        if self.error is not None:
            raise self.error
        papers = stacked_papers(specimens, workload)
        return [
            make_record(SPEC, s, workload, p, self.cost, self.origin, meter=self.meter)
            for s, p in zip(specimens, papers, strict=True)
        ][self.lost :]


def test_ledger_counts_per_device_and_purpose():
    ledger = Ledger()
    ledger.add("a", Purpose.CALIBRATION, 5)
    ledger.add("b", Purpose.CALIBRATION)
    ledger.add("a", Purpose.EVALUATION, 8)
    assert (ledger.count("a", Purpose.CALIBRATION), ledger.count("b", Purpose.TRAINING)) == (5, 0)
    assert ledger.total(Purpose.CALIBRATION) == 6
    assert ledger.rows() == [
        {"device": "a", "purpose": "calibration", "count": 5},
        {"device": "a", "purpose": "evaluation", "count": 8},
        {"device": "b", "purpose": "calibration", "count": 1},
    ]


def test_ledger_refuses_to_shrink():
    with pytest.raises(ValueError, match="only grows"):
        Ledger().add("a", Purpose.POOL, -1)


def test_measure_counts_each_specimen_and_keeps_order(minilm):
    device = FakeDevice()
    specimens = [minilm(12, 12), minilm(3, 4), minilm(6, 6)]
    records = device.measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    assert [r.subnet_key for r in records] == [s.subnet.key for s in specimens]
    assert device.ledger.count("fake", Purpose.EVALUATION) == 3
    assert [r.kept_heads for r in records] == [72, 18, 36]


def test_measure_counts_before_a_failure(minilm):
    device = FakeDevice(error=RuntimeError("boom"))
    with pytest.raises(MeasurementError, match="RuntimeError: boom"):
        device.measure([minilm(1, 1)] * 4, Workload(), purpose=Purpose.TRAINING)
    assert device.ledger.count("fake", Purpose.TRAINING) == 4


def test_measure_passes_on_an_error_of_a_meter(minilm):
    with pytest.raises(MeterUnavailableError, match="gone"):
        FakeDevice(error=MeterUnavailableError("gone")).measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)


def test_measure_refuses_a_lost_record(minilm):
    with pytest.raises(MeasurementError, match="1 records for 2"):
        FakeDevice(lost=1).measure([minilm(1, 1), minilm(2, 2)], Workload(), purpose=Purpose.POOL)


def test_measure_of_nothing_counts_nothing():
    device = FakeDevice(error=RuntimeError("must not run"))
    assert device.measure([], Workload(), purpose=Purpose.POOL) == []
    assert device.ledger.rows() == []


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_measure_refuses_a_cost_that_is_no_positive_number(minilm, value):
    device = FakeDevice(Cost(value, 2.0, 3.0))
    with pytest.raises(MeasurementError, match="energy_j came out as"):
        device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)


def test_measure_refuses_a_number_without_an_origin(minilm):
    device = FakeDevice(origin=Cost(None, Origin.MEASURED, Origin.MODELLED))
    with pytest.raises(MeasurementError, match="each needs the other"):
        device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)


@pytest.mark.parametrize(("meters", "meter"), [((), ""), ((), "a meter"), (("another",), "a meter")])
def test_measure_refuses_measured_energy_without_an_open_meter(minilm, meters, meter):
    device = FakeDevice(origin=Cost.uniform(Origin.MEASURED), meters=meters, meter=meter)
    with pytest.raises(MeasurementError, match="calls itself measured"):
        device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)


def test_measure_accepts_measured_energy_of_an_open_meter(minilm):
    device = FakeDevice(origin=Cost.uniform(Origin.MEASURED), meters=("a meter",), meter="a meter")
    (record,) = device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)
    assert record.origin == Cost.uniform(Origin.MEASURED)


def test_record_survives_a_row(minilm):
    (record,) = FakeDevice().measure([minilm(2, 3)], Workload(batch_size=8), purpose=Purpose.POOL)
    assert type(record).from_row(record.as_row()) == record
    assert dataclasses.asdict(record)["kept_ffn"] == 18
