"""No path yields an energy called measured without a reading of a meter."""

import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metas_peft.core.cost import Cost, Origin, PaperCost
from metas_peft.core.errors import MeasurementError, MetasPeftError, MeterUnavailableError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.devices import Device, Purpose, TimingRules, catalogue, open_device, open_local
from metas_peft.devices.base import make_record
from metas_peft.devices.host import Host
from metas_peft.devices.meters import METERS, Meter, MeterKind, registry
from metas_peft.devices.meters.base import EnergyCounter, PowerSampler
from metas_peft.devices.opening import RUNTIMES
from metas_peft.devices.power import MeteredPower
from metas_peft.devices.protocol import Clock

HOST = Host("Test CPU", 4, 2.0, 10.0, "a test")
QUICK = TimingRules(trial_s=0.0, warm_up_s=0.0)
SOURCES = (None, "meter", "modelled", "meter-or-modelled", *(kind.name for kind in METERS))


def absent() -> Meter:
    raise MeterUnavailableError("no meter here")


@pytest.fixture
def no_meters(monkeypatch):
    kinds = tuple(dataclasses.replace(kind, open=absent, parts=()) for kind in METERS)
    monkeypatch.setattr(registry, "METERS", kinds)
    return kinds


@pytest.mark.parametrize("runtime", [None, *RUNTIMES])
def test_machine_without_meters_has_modelled_energy_or_none(minilm, no_meters, runtime, caplog):
    is_accelerator = runtime in ("pytorch_cuda", "pytorch_rocm")
    for power in SOURCES:
        try:
            local = open_local(runtime=runtime, power=power, host=HOST, rules=QUICK)
        except (MeterUnavailableError, UsageError):
            # Modelling is refused where it would say nothing; a meter that was asked for is never replaced.
            assert is_accelerator or power not in ("modelled", "meter-or-modelled")
            continue
        assert not is_accelerator
        assert power in ("modelled", "meter-or-modelled")
        ticks = itertools.count()
        local._clock = Clock(lambda ticks=ticks: next(ticks) * 1e-3, lambda: 0.0)
        specimen = dataclasses.replace(minilm(1, 1), open=lambda workload: lambda: None)
        (record,) = local.measure([specimen], Workload(), purpose=Purpose.POOL)
        assert record.origin == Cost(Origin.MODELLED, Origin.MEASURED, Origin.MODELLED)
    if not is_accelerator:
        assert "modelled, not measured" in caplog.text


@pytest.mark.parametrize("power", [None, "meter"])
def test_missing_meter_is_an_error_that_says_how_to_do_without(no_meters, power):
    with pytest.raises(MeterUnavailableError, match="power=modelled"):
        open_local(power=power, host=HOST)


def test_meter_of_something_else_is_refused():
    with pytest.raises(UsageError, match="reads another device"):
        open_local(power="android-rails", host=HOST)
    with pytest.raises(UsageError, match="reads pytorch_cuda"):
        open_local(power="nvml", host=HOST)


def test_simulators_never_measure(minilm):
    assert len(catalogue()) == 12
    for name in catalogue():
        for record in open_device(name).measure([minilm(6, 6)], Workload(), purpose=Purpose.POOL):
            assert record.origin == Cost(Origin.SIMULATED, Origin.SIMULATED, Origin.SIMULATED)


class Anything(Device):
    """A device that claims what it is told to claim."""

    def __init__(self, spec, meters, record):
        super().__init__(spec, meters=meters)
        self.record = record

    def _measure(self, specimens, workload, purpose, seed):
        return [
            make_record(
                self.spec, s, workload, PaperCost(1.0, 1.0, 1.0, 0.0, 1.0), *self.record[:2], meter=self.record[2]
            )
            for s in specimens
        ]


values = st.one_of(st.none(), st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1.0, 12.5]))
origins = st.one_of(st.none(), st.sampled_from(list(Origin)))


@given(
    cost=st.builds(Cost, values, st.just(3.0), values),
    origin=st.builds(Cost, origins, st.just(Origin.MEASURED), origins),
    meter=st.sampled_from(["", "utilisation model", "NVML", "RAPL"]),
    open_meters=st.sampled_from([(), ("NVML",), ("RAPL", "NVML")]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_device_claims_measured_needs_an_open_meter_and_a_number(minilm, cost, origin, meter, open_meters):
    spec = dataclasses.replace(open_device("pixel-8").spec, device_id="anything")
    device = Anything(spec, open_meters, (cost, origin, meter))
    try:
        (record,) = device.measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)
    except MeasurementError:
        return
    for metric, own in record.origin.items():
        value = getattr(record.cost, metric)
        assert (value is None) == (own is None)
        if value is not None:
            assert 0 < value < float("inf")
        if own is Origin.MEASURED and metric != "latency_ms":
            assert record.meter in open_meters


class Script(EnergyCounter):
    """A meter whose answers are a script; it notes whether it was ever read with success."""

    name, boundary, update_period_s = "script", "bench", 0.01

    def __init__(self, clock, watts, fails_at):
        self.clock, self.watts, self.fails_at = clock, watts, fails_at
        self.reads = 0

    def read_j(self):
        self.reads += 1
        if self.reads >= self.fails_at:
            raise MeterUnavailableError("gone")
        return {"all": self.watts * self.clock()}


class Samples(PowerSampler):
    name, boundary, update_period_s = "samples", "bench", 0.01

    def __init__(self, script):
        self.script = script

    def read_w(self):
        self.script.reads += 1
        if self.script.reads >= self.script.fails_at:
            raise MeterUnavailableError("gone")
        return self.script.watts


@given(
    watts=st.sampled_from([0.0, -5.0, 7.5, 1e9, float("nan")]),
    fails_at=st.sampled_from([1, 2, 50, 600, 10**9]),
    has_counter=st.booleans(),
    has_sampler=st.booleans(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_measured_energy_is_what_the_meter_read(minilm, watts, fails_at, has_counter, has_sampler):
    if not (has_counter or has_sampler):
        return
    now = [0.0]

    def clock_s():
        return now[0]

    def run():
        now[0] += 0.004

    script = Script(clock_s, watts, fails_at)
    power = MeteredPower(
        script if has_counter else None,
        Samples(script) if has_sampler else None,
        clock_s=clock_s,
        sleep=lambda s: now.__setitem__(0, now[0] + s),
        background=False,
    )
    local = open_local(power="modelled", host=HOST, rules=QUICK)
    local.power, local.meters, local._clock = power, power.meters, Clock(clock_s, clock_s)
    specimen = dataclasses.replace(minilm(1, 1), open=lambda workload: run)
    try:
        (record,) = local.measure([specimen], Workload(), purpose=Purpose.POOL)
    except MetasPeftError:
        assert watts != 7.5 or script.reads >= fails_at
        return
    assert watts == 7.5
    assert script.reads < fails_at
    assert record.origin.energy_j is Origin.MEASURED
    assert record.cost.energy_j == pytest.approx(7.5 * 0.004, rel=0.005)
    assert script.reads > 20


def test_device_with_a_meter_names_it(monkeypatch):
    now = [0.0]
    script = Script(lambda: now[0], 7.5, 10**9)
    kind = MeterKind("script", ("pytorch_cpu",), "none", lambda: Meter(script, None), ())
    monkeypatch.setattr(registry, "METERS", (kind,))
    local = open_local(power="meter", host=HOST)
    assert local.meters == ("script (bench)",)
    assert isinstance(local.power, MeteredPower)
