import dataclasses
import logging

import pytest

from metas_peft.core.cost import Cost, Origin
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import MeasurementError, MeterUnavailableError, UnknownNameError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.devices import LocalDevice, Purpose, Specimen, TimingRules, open_device
from metas_peft.devices.conditions import ConditionProbe, State
from metas_peft.devices.host import Host
from metas_peft.devices.meters.base import EnergyCounter, PowerSampler
from metas_peft.devices.power import MeteredPower
from metas_peft.devices.protocol import Clock
from metas_peft.devices.utilisation import UtilisationModel

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
    assert [r.n_repeats for r in records] == [7, 7]
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
    rules = dataclasses.replace(QUICK, min_rounds=9)
    _, record = device(machine, rules).measure([anchor, victim], Workload(), purpose=Purpose.POOL)
    assert record.cost.latency_ms == pytest.approx(5.0)
    assert "2 invalid trials left out" in record.source
    assert record.n_repeats == 7


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
    assert "energy known to 0.2% from 3 windows of up to 0.5 s" in record.source
    assert record.energy_known_to_pct < 0.5
    assert record.n_windows == 3
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
    window_s = float(record.source.split("windows of up to ")[1].split(" s")[0])
    assert window_s > 4.0
    assert record.mean_power_w == pytest.approx(7.5, rel=record.energy_known_to_pct / 100)


class Neighbour(Machine):
    """Passes of 20 W on a machine of 5 W; from `from_s` on another program draws 20 W and takes time from passes."""

    def __init__(self, from_s, slower=1.8):
        super().__init__(lambda now_s: slower if now_s >= self.from_s else 1.0)
        self.from_s = from_s

    def counter(self):
        machine = self

        class Total(FakeCounter):
            def read_j(self):
                beside_s = max(0.0, machine.now_s - machine.from_s)
                return {"board": 5.0 * machine.now_s + 15.0 * machine.cpu_s + 20.0 * beside_s}

        return Total(machine)


def metered_flight(machine, milliseconds, minilm, seconds_per_subject=4.0):
    specimens = [machine.model(minilm(12 - i, 12), ms) for i, ms in enumerate(milliseconds)]
    rules = dataclasses.replace(QUICK, seconds_per_subject=seconds_per_subject)
    local = device(machine, rules, power=metered(machine, counter=machine.counter()))
    return local, specimens


def test_identical_models_have_one_energy_when_a_neighbour_starts_and_the_records_say_so(minilm):
    """One window after the other would give 0.2 J to the first and 0.72 J to the last."""
    local, specimens = metered_flight(Neighbour(from_s=8.0), [10.0] * 6, minilm)
    records = local.measure(specimens, Workload(), purpose=Purpose.POOL)
    energies = [r.cost.energy_j for r in records]
    assert max(energies) / min(energies) < 1.01
    assert {r.is_valid for r in records} == {False}
    assert all("the anchor's own energy moved by 260%" in r.why_invalid for r in records)
    assert all("left out because the anchor's energy moved" in r.source for r in records)


def test_peak_is_the_highest_of_all_windows_and_no_less_than_the_mean(minilm):
    """One window in five sees 25 W for a moment."""
    machine = Machine()

    class Spiky(FakeSampler):
        def read_w(self):
            return 25.0 if 3.4 < machine.now_s < 3.5 else 11.9

    local = device(machine, power=metered(machine, Spiky(machine)))
    (first, second) = local.measure(
        [machine.model(minilm(12, 12), 2.0), machine.model(minilm(6, 6), 2.0)], Workload(), purpose=Purpose.POOL
    )
    assert sorted(r.cost.peak_power_w for r in (first, second)) == pytest.approx([12.0, 25.0])
    assert [first.mean_power_w, second.mean_power_w] == pytest.approx([12.0, 12.0])


def test_windows_in_which_passes_are_slower_than_when_timed_are_said(minilm):
    """A board that throttles under the long load of the windows: 10 ms when timed, 13 ms in them."""
    machine = Machine(lambda now_s: 1.3 if now_s > 1.2 else 1.0)
    local = device(machine, power=metered(machine))
    (record,) = local.measure([machine.model(minilm(12, 12), 10.0)], Workload(), purpose=Purpose.POOL)
    assert record.cost.latency_ms == pytest.approx(10.0)
    assert record.cost.energy_j == pytest.approx(0.156, rel=0.01)
    assert "the windows read 12 W, energy by latency is 15.6 W" in record.source


def test_restless_anchor_is_no_scale_for_later_flights(minilm):
    machine = Neighbour(from_s=4.0)
    local, specimens = metered_flight(machine, [10.0, 5.0, 5.0], minilm)
    assert not any(r.is_valid for r in local.measure(specimens, Workload(), purpose=Purpose.POOL))
    machine.from_s = 1e9
    later = local.measure(specimens, Workload(), purpose=Purpose.POOL)
    assert all(r.is_valid for r in later)
    assert [r.cost.energy_j for r in later] == pytest.approx([0.2, 0.1, 0.1], rel=0.01)


def test_drift_of_the_meter_cancels_and_mean_power_times_latency_is_the_energy(minilm):
    """All that is drawn rises by a sixth while the meter is read; the models differ by a factor of two."""
    machine = Machine()

    class Drifting(FakeCounter):
        def read_j(self):
            return {"board": 10.0 * machine.now_s + machine.now_s**2 / 20.0}

    machine.counter = lambda: Drifting(machine)
    local, specimens = metered_flight(machine, [10.0, 5.0, 10.0, 5.0], minilm)
    records = local.measure(specimens, Workload(), purpose=Purpose.POOL)
    ratios = [r.cost.energy_j / records[0].cost.energy_j for r in records]
    assert ratios == pytest.approx([1.0, 0.5, 1.0, 0.5], rel=0.02)
    for record in records:
        assert record.is_valid
        assert record.mean_power_w * record.cost.latency_ms * 1e-3 == pytest.approx(record.cost.energy_j)
        assert record.energy_std_j > 0
        assert record.conditions.scale_energy_j == records[0].cost.energy_j


def test_anchor_whose_energy_has_changed_since_the_reference_makes_records_invalid(minilm):
    machine = Neighbour(from_s=1e9)
    local, specimens = metered_flight(machine, [10.0, 5.0], minilm)
    assert all(r.is_valid for r in local.measure(specimens, Workload(), purpose=Purpose.POOL))
    machine.from_s = machine.now_s
    (later,) = local.measure(specimens[1:], Workload(), purpose=Purpose.POOL)
    assert later.conditions.scale_energy_j == pytest.approx(0.2)
    assert later.conditions.anchor_energy_j == pytest.approx(0.72, rel=0.01)
    assert later.cost.energy_j == pytest.approx(0.1, rel=0.01)
    assert not later.is_valid
    assert "since its reference of 0.2 J" in later.why_invalid


def test_second_process_goes_on_with_the_energy_scale_of_the_first(minilm):
    """The second process finds a board that draws a tenth more of everything."""
    first, second = Machine(), Machine()
    rows = []
    for machine, factor in ((first, 1.0), (second, 1.1)):

        class Scaled(FakeCounter):
            def read_j(self, machine=machine, factor=factor):
                return {"board": factor * (3.0 * machine.now_s + 9.0 * machine.cpu_s)}

        specimens = [machine.model(minilm(12, 12), 10.0), machine.model(minilm(6, 6), 5.0)]
        local = device(machine, power=metered(machine, counter=Scaled(machine)))
        local.recall(specimens, Workload(), rows)
        records = local.measure(specimens, Workload(), purpose=Purpose.POOL)
        rows = [r.as_row() for r in records]
        assert [r.cost.energy_j for r in records] == pytest.approx([0.12, 0.06], rel=0.01)
    assert records[0].conditions.anchor_energy_j == pytest.approx(0.132, rel=0.01)


def test_time_limit_ends_metered_rounds_after_three_and_the_record_says_so(minilm):
    """An energy that jumps about, in windows of half a second: as many rounds as fit, then the truth about it."""
    machine = Machine()

    class Jumpy(FakeCounter):
        def read_j(self):
            return {"board": 10.0 * machine.now_s + 2.0 * machine.cpu_s}

    noise = [1.0, 1.06, 0.94]

    def extra(n):
        machine.cpu_s += 0.05 * noise[int(machine.now_s * 1.9) % 3]
        return 0.0

    machine.counter = lambda: Jumpy(machine)
    steady = machine.model(minilm(12, 12), 10.0)
    wild = machine.model(minilm(6, 6), 10.0, extra=extra)
    local, _ = metered_flight(machine, [10.0], minilm, seconds_per_subject=0.5)
    calm, record = local.measure([steady, wild], Workload(), purpose=Purpose.POOL)
    assert record.n_windows == 3
    assert record.energy_known_to_pct > 2.0
    assert record.source.endswith("stopped at the time limit")
    assert not calm.source.endswith("stopped at the time limit")


def test_anchor_that_is_not_known_well_is_said_and_part_of_what_records_claim(minilm):
    """The ratio is exact; the anchor's own time swings by a tenth, and the scale with it."""
    machine = Machine(lambda now_s: 1.0 + 0.1 * (int(now_s * 40) % 2))
    anchor, other = machine.model(minilm(12, 12), 10.0), machine.model(minilm(6, 6), 10.0)
    rules = dataclasses.replace(QUICK, seconds_per_subject=0.3)
    scale, record = device(machine, rules).measure([anchor, other], Workload(), purpose=Purpose.POOL)
    assert "stopped at the time limit" in scale.source
    assert scale.known_to_pct > 2.0
    assert scale.known_to_pct == scale.conditions.scale_known_to_pct
    assert record.conditions.scale_known_to_pct == scale.known_to_pct
    assert record.known_to_pct == pytest.approx(scale.known_to_pct, rel=1e-6), "the ratio is exact"


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
    rules = dataclasses.replace(QUICK, min_rounds=9)
    _, record = device(machine, rules).measure([anchor, victim], Workload(), purpose=Purpose.POOL)
    assert [t.problem for t in record.trials] == ["", "pre-empted", "", "pre-empted", "", "", "", "", ""]
    assert [t.wall_ms for t in record.trials] == pytest.approx([5, 55, 5, 55, 5, 5, 5, 5, 5])
    assert [t.round for t in record.trials] == list(range(9))
    assert (record.n_repeats, record.n_invalid) == (7, 2)
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
    local = open_device("local", power="modelled", rules=TimingRules(trial_s=0.02, seconds_per_subject=1.0))
    whole, half = local.measure(specimens, Workload(), purpose=Purpose.EVALUATION)
    assert whole.cost.latency_ms / half.cost.latency_ms == pytest.approx(2.0, rel=0.3)
    assert whole.cost.energy_j > half.cost.energy_j
