import dataclasses
import logging

import pytest

from metas_peft.core.errors import MeasurementError, MeterUnavailableError, UnknownNameError, UsageError
from metas_peft.core.records import Cost, DeviceSpec, Origin, Workload
from metas_peft.devices import LocalDevice, Purpose, Specimen, TimingRules, open_device
from metas_peft.devices.conditions import ConditionProbe, State
from metas_peft.devices.host import Host
from metas_peft.devices.meters.base import EnergyCounter, PowerSampler
from metas_peft.devices.power import MeteredPower, UtilisationModel
from metas_peft.devices.protocol import Clock

HOST = Host("Test CPU", 4, 2.0, 10.0, "a test")
SPEC = DeviceSpec("local", "Test CPU", "cpu", "pytorch_cpu", None, None, 2.0, 10.0, threads=1)
QUICK = TimingRules(trial_s=0.0, warm_up_s=0.0)


class Machine:
    """A clock that passes move, on a machine that slows down and stalls as told."""

    def __init__(self, slowdown=lambda now_s: 1.0):
        self.now_s = self.cpu_s = 0.0
        self.slowdown = slowdown
        self.log: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: self.cpu_s)

    def model(
        self, specimen: Specimen, milliseconds: float, *, name="", processors=1.0, extra=lambda n: 0.0
    ) -> Specimen:
        calls = iter(range(10**9))

        def run() -> None:
            self.log.append(name)
            work_s = milliseconds * 1e-3 * self.slowdown(self.now_s)
            self.now_s += work_s + extra(next(calls))
            self.cpu_s += work_s * processors

        return dataclasses.replace(specimen, open=lambda workload: run)


def device(machine, rules=QUICK, power=None, spec=SPEC):
    return LocalDevice(spec, power or UtilisationModel(HOST), rules=rules, clock=machine.clock)


def test_latency_is_what_a_quiet_machine_takes(minilm):
    machine = Machine()
    specimens = [machine.model(minilm(6, 6), 8.0), machine.model(minilm(12, 12), 20.0)]
    records = device(machine).measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    assert [r.cost.latency_ms for r in records] == pytest.approx([8.0, 20.0])
    assert [r.cpu_time_ms for r in records] == pytest.approx([8.0, 20.0])
    assert [r.n_repeats for r in records] == [5, 5]
    assert "known to 0.0%" in records[0].source


def test_drift_of_the_machine_cancels(minilm):
    """The machine becomes four times slower while measuring; the ratio of two models stays."""
    machine = Machine(lambda now_s: 1.0 + 3.0 * min(1.0, now_s))
    specimens = [
        machine.model(minilm(12, 12), 10.0),
        machine.model(minilm(6, 6), 5.0),
        machine.model(minilm(3, 3), 2.5),
    ]
    rules = dataclasses.replace(QUICK, tolerance=0.0001, seconds_per_subject=1.0)
    records = device(machine, rules).measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    ratios = [r.cost.latency_ms / records[0].cost.latency_ms for r in records]
    assert ratios == pytest.approx([1.0, 0.5, 0.25], rel=0.02)


def test_later_calls_are_given_on_the_first_ones_scale(minilm):
    machine = Machine()
    local = device(machine)
    dense, half = machine.model(minilm(12, 12), 10.0, name="dense"), machine.model(minilm(6, 6), 5.0)
    local.measure([half, dense], Workload(), purpose=Purpose.CALIBRATION)
    machine.slowdown = lambda now_s: 3.0
    machine.log.clear()
    (later,) = local.measure([half], Workload(), purpose=Purpose.EVALUATION)
    assert later.cost.latency_ms == pytest.approx(5.0)
    assert "dense" in machine.log, "the yardstick runs along"
    assert "took 30 ms, scale of 10 ms" in later.source
    assert local.ledger.rows() == [
        {"device": "local", "purpose": "calibration", "count": 2},
        {"device": "local", "purpose": "evaluation", "count": 1},
    ]


def test_anchor_is_the_first_when_no_dense_model_is_given(minilm):
    machine = Machine()
    first, second = machine.model(minilm(6, 6), 5.0), machine.model(minilm(3, 3), 2.0)
    (record, _) = device(machine).measure([first, second], Workload(), purpose=Purpose.EVALUATION)
    assert f"anchor {first.subnet.key}" in record.source


def test_flights_of_many_specimens_share_one_scale(minilm):
    machine = Machine(lambda now_s: 1.0 + now_s)
    specimens = [machine.model(minilm(1 + i, 1 + i), 1.0 + i) for i in range(12)]
    rules = dataclasses.replace(QUICK, flight_size=3)
    records = device(machine, rules).measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    dense = records[-1].cost.latency_ms
    assert [12 * r.cost.latency_ms / dense for r in records] == pytest.approx(range(1, 13), rel=0.05)


def test_order_within_rounds_is_random_and_decided_by_the_seed(minilm):
    def order(seed):
        machine = Machine()
        specimens = [machine.model(minilm(1 + i, 1), 1.0, name=str(i)) for i in range(6)]
        device(machine).measure(specimens, Workload(), purpose=Purpose.POOL, seed=seed)
        return machine.log[12:]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert len({tuple(order(0)[i : i + 6]) for i in range(0, 30, 6)}) > 1
    assert all(len(set(order(0)[i : i + 6])) == 6 for i in range(0, 30, 6)), "each once a round"


def test_noisy_subject_is_repeated_until_the_time_limit_and_the_record_says_so(minilm):
    machine = Machine()
    steady = machine.model(minilm(12, 12), 10.0, name="steady")
    noisy = machine.model(minilm(6, 6), 5.0, name="noisy", extra=lambda n: 0.001 * (n % 2))
    rules = dataclasses.replace(QUICK, seconds_per_subject=0.5)
    calm, wild = device(machine, rules).measure([steady, noisy], Workload(), purpose=Purpose.POOL)
    assert "stopped at the time limit" in wild.source
    assert "stopped" not in calm.source
    assert wild.n_repeats > 40
    assert 1.0 < machine.now_s < 1.2
    assert wild.latency_std_ms == pytest.approx(0.5, rel=0.1)


def test_preempted_trials_are_left_out_and_counted(minilm):
    machine = Machine()
    anchor = machine.model(minilm(12, 12), 10.0)
    victim = machine.model(minilm(6, 6), 5.0, extra=lambda n: 0.05 if n in (3, 5) else 0.0)
    rules = dataclasses.replace(QUICK, min_rounds=8)
    _, record = device(machine, rules).measure([anchor, victim], Workload(), purpose=Purpose.POOL)
    assert record.cost.latency_ms == pytest.approx(5.0)
    assert "2 invalid trials left out" in record.source
    assert record.n_repeats == 6


def test_round_in_which_the_machine_stalled_is_left_out(minilm):
    machine = Machine()
    stalls = {"left": 1}

    def slowdown(now_s):
        if now_s > 0.05 and stalls["left"]:
            stalls["left"] -= 1
            return 50.0
        return 1.0

    machine.slowdown = slowdown
    only = machine.model(minilm(12, 12), 10.0)
    (record,) = device(machine, dataclasses.replace(QUICK, min_rounds=8)).measure(
        [only], Workload(), purpose=Purpose.POOL
    )
    assert record.cost.latency_ms == pytest.approx(10.0)
    assert "1 invalid trials left out" in record.source


def test_subject_without_usable_trials_fails_and_stays_counted(minilm):
    machine = Machine()
    broken = machine.model(minilm(6, 6), 0.0)
    local = device(machine, dataclasses.replace(QUICK, seconds_per_subject=0.01))
    with pytest.raises(MeasurementError, match="usable"):
        local.measure([machine.model(minilm(12, 12), 10.0), broken], Workload(), purpose=Purpose.CALIBRATION)
    assert local.ledger.count("local", Purpose.CALIBRATION) == 2


def test_clock_that_stands_still_is_refused(minilm):
    frozen = LocalDevice(
        SPEC, UtilisationModel(HOST), clock=Clock(lambda: 0.0, lambda: 0.0), rules=TimingRules(warm_up_s=0.01)
    )
    with pytest.raises(MeasurementError, match="clock does not advance"):
        frozen.measure(
            [dataclasses.replace(minilm(1, 1), open=lambda w: lambda: None)], Workload(), purpose=Purpose.POOL
        )


def test_failing_pass_is_a_measurement_error(minilm):
    def explode():
        raise RuntimeError("out of memory")

    specimen = dataclasses.replace(minilm(1, 1), open=lambda workload: explode)
    with pytest.raises(MeasurementError, match="out of memory"):
        device(Machine()).measure([specimen], Workload(), purpose=Purpose.POOL)


def test_specimen_without_a_model_is_refused(minilm):
    with pytest.raises(MeasurementError, match="without a model to run"):
        device(Machine()).measure([minilm(1, 1)], Workload(), purpose=Purpose.POOL)


def test_open_receives_the_workload(minilm):
    machine, seen = Machine(), []
    run = machine.model(minilm(6, 6), 5.0).open(None)
    specimen = dataclasses.replace(minilm(6, 6), open=lambda workload: seen.append(workload) or run)
    device(machine).measure([specimen], Workload(seq_len=17), purpose=Purpose.POOL)
    assert seen == [Workload(seq_len=17)]


def test_energy_without_a_meter_is_modelled_from_utilisation(minilm):
    machine = Machine()
    (record,) = device(machine).measure(
        [machine.model(minilm(12, 12), 20.0, processors=2.0)], Workload(), purpose=Purpose.POOL
    )
    # Two of four processors: half way from 2 W to 10 W, for 20 ms.
    assert record.mean_power_w == pytest.approx(6.0)
    assert record.cost.energy_j == pytest.approx(0.12)
    assert record.cost.peak_power_w == pytest.approx(6.0)
    assert record.energy_above_idle_j == pytest.approx(0.08)
    assert record.origin == Cost(Origin.MODELLED, Origin.MEASURED, Origin.MODELLED)
    assert record.meter.startswith("utilisation model")


def test_modelled_peak_is_that_of_one_busy_processor_when_others_take_time(minilm):
    machine = Machine()
    (record,) = device(machine).measure(
        [machine.model(minilm(12, 12), 20.0, processors=0.5)], Workload(), purpose=Purpose.POOL
    )
    assert record.mean_power_w == pytest.approx(3.0)
    assert record.cost.peak_power_w == pytest.approx(4.0)


def test_modelled_power_stays_within_its_range(minilm):
    machine = Machine()
    (record,) = device(machine).measure(
        [machine.model(minilm(12, 12), 20.0, processors=9.0)], Workload(), purpose=Purpose.POOL
    )
    assert record.mean_power_w <= record.cost.peak_power_w <= HOST.limit_w


def test_noted_threads_are_contradicted_by_processor_time(minilm, caplog):
    machine = Machine()
    with caplog.at_level(logging.WARNING):
        device(machine).measure([machine.model(minilm(6, 6), 5.0, processors=2.0)], Workload(), purpose=Purpose.POOL)
    assert "used 2.0 processors, but 1 threads are noted" in caplog.text


class FakeCounter(EnergyCounter):
    """A board that draws 3 W at rest and 12 W while passes run."""

    name, boundary, update_period_s = "fake counter", "test bench", 0.001

    def __init__(self, machine):
        self.machine = machine

    def read_j(self):
        return {"board": 3.0 * self.machine.now_s + 9.0 * self.machine.cpu_s}


class FakeSampler(PowerSampler):
    """Power of the moment: what the last bit of time was spent on."""

    name, update_period_s = "fake sampler", 0.01

    def __init__(self, machine, factor=1.0):
        self.machine, self.factor = machine, factor
        self.last = (0.0, 0.0)

    def read_w(self):
        now = (self.machine.now_s, self.machine.cpu_s)
        wall_s, cpu_s = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now
        return self.factor * (3.0 + (9.0 * cpu_s / wall_s if wall_s else 0.0))


def metered(machine, sampler=None, counter=None):
    def sleep(seconds):
        machine.now_s += seconds

    counter = counter if counter is not None else FakeCounter(machine)
    return MeteredPower(counter, sampler, clock_s=lambda: machine.now_s, sleep=sleep, cool_down_s=0.5, background=False)


def test_energy_of_a_meter_is_measured_and_right(minilm):
    machine = Machine()
    local = device(machine, power=metered(machine))
    (record,) = local.measure([machine.model(minilm(12, 12), 2.0)], Workload(), purpose=Purpose.POOL)
    assert record.cost.energy_j == pytest.approx(12 * 0.002)
    assert record.mean_power_w == pytest.approx(12)
    assert record.idle_power_w == pytest.approx(3)
    assert record.conditions.idle_power_after_w == pytest.approx(3)
    assert record.energy_above_idle_j == pytest.approx(9 * 0.002)
    assert "energy known to 0.1 % in a window of 0.5 s" in record.source
    assert record.cost.peak_power_w is None
    assert record.origin == Cost(Origin.MEASURED, Origin.MEASURED, None)
    assert record.meter == "fake counter (test bench)"


def test_broken_meter_stops_the_measurement(minilm):
    machine = Machine()

    class Lost(FakeCounter):
        def read_j(self):
            raise MeterUnavailableError("the meter is gone")

    power = metered(machine, counter=Lost(machine))
    with pytest.raises(MeterUnavailableError, match="gone"):
        device(machine, power=power).measure([machine.model(minilm(1, 1), 1.0)], Workload(), purpose=Purpose.POOL)


def test_peak_is_sampled_and_a_gap_to_the_counter_is_reported(minilm, caplog):
    machine = Machine()
    local = device(machine, power=metered(machine, FakeSampler(machine, factor=1.5)))
    (record,) = local.measure([machine.model(minilm(12, 12), 2.0)], Workload(), purpose=Purpose.POOL)
    assert record.cost.peak_power_w == pytest.approx(18.0)
    assert record.sampling_period_ms == pytest.approx(10.0)
    assert record.conditions.meter_gap_pct == pytest.approx(50.0, abs=1.0)
    assert "one of the two is wrong" in caplog.text


def test_window_grows_until_the_energy_is_known(minilm):
    """Passes of 50 ms, busy half of the time, by a counter of 100 ms: two seconds are not enough."""
    machine = Machine()

    class Slow(FakeCounter):
        update_period_s = 0.1

        def read_j(self):
            return {"board": 3.0 * machine.now_s + 9.0 * machine.cpu_s} if machine.now_s > 0 else {"board": 0.0}

    def bursts(n):
        machine.cpu_s += 0.0 if n // 8 % 2 else 0.05
        return 0.0

    specimen = machine.model(minilm(12, 12), 50.0, processors=0.0, extra=bursts)
    local = device(machine, power=metered(machine, counter=Slow(machine)))
    (record,) = local.measure([specimen], Workload(), purpose=Purpose.POOL)
    window_s = float(record.source.split("window of ")[1].split(" s")[0])
    assert window_s > 4.0
    assert record.mean_power_w == pytest.approx(7.5, rel=0.02)


def test_rest_that_changes_while_measuring_is_reported(minilm, caplog):
    machine = Machine()

    class Warming(FakeCounter):
        def read_j(self):
            return {"board": machine.now_s**2 + 9.0 * machine.cpu_s}

    local = device(machine, power=metered(machine, counter=Warming(machine)))
    (record,) = local.measure([machine.model(minilm(12, 12), 2.0)], Workload(), purpose=Purpose.POOL)
    assert "at rest before the passes" in caplog.text
    assert record.conditions.idle_power_after_w > record.idle_power_w


def test_trials_are_kept_and_say_why_they_do_not_count(minilm):
    machine = Machine()
    anchor = machine.model(minilm(12, 12), 10.0)
    victim = machine.model(minilm(6, 6), 5.0, extra=lambda n: 0.05 if n in (3, 5) else 0.0)
    rules = dataclasses.replace(QUICK, min_rounds=8)
    _, record = device(machine, rules).measure([anchor, victim], Workload(), purpose=Purpose.POOL)
    assert [t.problem for t in record.trials] == ["", "pre-empted", "", "pre-empted", "", "", "", ""]
    assert [t.wall_ms for t in record.trials] == pytest.approx([5, 55, 5, 55, 5, 5, 5, 5])
    assert [t.round for t in record.trials] == list(range(8))
    assert (record.n_repeats, record.n_invalid) == (6, 2)
    assert record.known_to_pct == pytest.approx(0.0, abs=1e-6)


def test_round_without_its_anchor_is_marked(minilm):
    machine = Machine()
    anchor = machine.model(minilm(12, 12), 10.0, extra=lambda n: 0.9 if n == 4 else 0.0)
    other = machine.model(minilm(6, 6), 5.0)
    rules = dataclasses.replace(QUICK, min_rounds=6)
    _, record = device(machine, rules).measure([anchor, other], Workload(), purpose=Purpose.POOL)
    assert [t.problem for t in record.trials if t.problem] == ["the machine stalled"]


class FakeProbe(ConditionProbe):
    def __init__(self, *states):
        self.states = list(states)

    def read(self):
        return self.states.pop(0)


def test_conditions_are_noted_and_throttling_is_reported(minilm, caplog):
    machine = Machine()
    probe = FakeProbe(
        State(45.0, 3000.0, "governor performance", 7, load_average=1.5),
        State(81.0, 2000.0, "governor performance", 9, load_average=2.5),
    )
    local = LocalDevice(SPEC, UtilisationModel(HOST), rules=QUICK, clock=machine.clock, probe=probe)
    (record,) = local.measure([machine.model(minilm(12, 12), 10.0)], Workload(), purpose=Purpose.POOL)
    found = record.conditions
    assert (found.temperature_before_c, found.temperature_after_c, found.clock_mhz) == (45.0, 81.0, 2500.0)
    assert (found.power_mode, found.is_throttled, found.load_average) == ("governor performance", True, 2.5)
    assert (found.anchor_key, found.anchor_ms) == (record.subnet_key, pytest.approx(10.0))
    assert "throttled" in caplog.text


def test_second_process_goes_on_with_the_scale_of_the_first(minilm):
    """The machine is three times slower in the second process; its records are on the scale of the first."""
    first, second = Machine(), Machine(lambda now_s: 3.0)
    sizes = {12: 10.0, 6: 5.0, 3: 2.0}
    before = [first.model(minilm(n, n), ms) for n, ms in sizes.items()]
    rows = [r.as_row() for r in device(first).measure(before[:2], Workload(), purpose=Purpose.POOL)]
    after = [second.model(minilm(n, n), ms) for n, ms in sizes.items()]
    local = device(second)
    local.recall(after, Workload(), rows)
    (record,) = local.measure([after[2]], Workload(), purpose=Purpose.POOL)
    assert record.cost.latency_ms == pytest.approx(2.0)
    assert record.conditions.anchor_ms == pytest.approx(30.0)
    assert record.conditions.scale_ms == pytest.approx(10.0)
    assert record.cpu_time_ms == pytest.approx(2.0)


@pytest.mark.parametrize(
    "change", [{"seq_len": 64}, {"runtime": "onnxruntime_cpu"}, {"threads": 2}, {"is_valid": False}]
)
def test_scale_of_other_conditions_is_not_taken(minilm, change):
    machine = Machine()
    dense = machine.model(minilm(12, 12), 10.0)
    (row,) = (r.as_row() for r in device(machine).measure([dense], Workload(), purpose=Purpose.POOL))
    local = device(machine)
    local.recall([dense], Workload(), [row | {"scale_ms": 99.0} | change])
    (record,) = local.measure([dense], Workload(), purpose=Purpose.POOL)
    assert record.cost.latency_ms == pytest.approx(10.0)


def test_local_says_what_it_knows_of_this_computer():
    local = open_device("local", power="modelled", threads=1)
    assert local.spec.device_id == "local"
    assert local.spec.name
    assert local.spec.peak_gflops is None
    assert local.spec.threads == 1
    assert 0 < local.spec.idle_power_w < local.spec.power_cap_w


def test_local_refuses_unknown_names():
    with pytest.raises(UnknownNameError, match="pytorch_cpu"):
        open_device("local", runtime="pytorch")
    with pytest.raises(UsageError, match="did you mean 'meter'"):
        open_device("local", power="metre")


def test_real_clock_times_a_sleepless_loop(minilm):
    """The only test with a real clock: twice the work takes about twice as long."""

    def spin(n):
        return lambda workload: lambda: sum(range(n))

    specimens = [
        dataclasses.replace(minilm(12, 12), open=spin(40_000)),
        dataclasses.replace(minilm(6, 6), open=spin(20_000)),
    ]
    local = open_device("local", power="modelled", rules=TimingRules(trial_s=0.005, seconds_per_subject=1.0))
    whole, half = local.measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    assert whole.cost.latency_ms / half.cost.latency_ms == pytest.approx(2.0, rel=0.3)
    assert whole.cost.energy_j > half.cost.energy_j
