"""Windows on live meters: threads, edges, and what goes wrong while passes run."""

import time

import pytest

from metas_peft.core.errors import MeasurementError, MeterUnavailableError
from metas_peft.devices.meters import window
from metas_peft.devices.meters.base import CounterPower, EnergyCounter, PowerSampler
from metas_peft.devices.meters.window import Window, poll_period_s


class Bench:
    """A fake machine of 3 W at rest and 12 W at work, whose time is moved by hand."""

    def __init__(self):
        self.now_s = self.busy_s = 0.0

    def clock_s(self):
        return self.now_s

    def rest(self, seconds):
        self.now_s += seconds

    def work(self, seconds):
        self.now_s += seconds
        self.busy_s += seconds


class BenchCounter(EnergyCounter):
    name, boundary, update_period_s = "counter", "bench", 0.01

    def __init__(self, bench, **rails):
        self.bench = bench
        self.rails = rails or {"all": 1.0}

    def read_j(self):
        return {rail: part * (3.0 * self.bench.now_s + 9.0 * self.bench.busy_s) for rail, part in self.rails.items()}


class BenchSampler(PowerSampler):
    name, update_period_s = "sampler", 0.02

    def __init__(self, *values_w):
        self.values_w = list(values_w)

    def read_w(self):
        value = self.values_w.pop(0) if len(self.values_w) > 1 else self.values_w[0]
        if isinstance(value, Exception):
            raise value
        return value


def measure(bench, counter, sampler=None, seconds=1.0, step_s=0.005):
    with Window(counter, sampler, clock_s=bench.clock_s, background=False) as window:
        while bench.now_s < seconds:
            bench.work(step_s)
            window.poll()
    return window.reading


def test_energy_and_mean_power_of_rails_that_add_up():
    bench = Bench()
    reading = measure(bench, BenchCounter(bench, package=0.75, dram=0.25))
    assert reading.energy_j == {"package": pytest.approx(9.0), "dram": pytest.approx(3.0)}
    assert reading.total_j == pytest.approx(12.0)
    assert reading.mean_power_w == pytest.approx(12.0)
    assert reading.duration_s == pytest.approx(1.0)
    assert reading.peak_power_w is None
    assert reading.known_to_pct < 0.5


def test_peak_is_the_highest_sample_with_its_period():
    bench = Bench()
    reading = measure(bench, BenchCounter(bench), BenchSampler(12.0, 12.0, 70.0, 12.0))
    assert reading.peak_power_w == 70.0
    assert reading.sampling_period_ms == pytest.approx(20.0)
    assert reading.n_samples == pytest.approx(50, abs=10)


def test_peak_is_never_below_the_mean():
    bench = Bench()
    assert measure(bench, BenchCounter(bench), BenchSampler(2.0)).peak_power_w == pytest.approx(12.0)


def test_rail_that_comes_and_goes_is_refused():
    bench = Bench()
    counter = BenchCounter(bench)

    class Flaky(BenchCounter):
        def read_j(self):
            return {"all": 1.0} if self.bench.now_s > 0.5 else super().read_j() | {"dram": 0.0}

    with pytest.raises(MeasurementError, match="a rail came or went"):
        measure(bench, Flaky(bench))
    assert counter.read_j()


def test_window_has_no_reading_when_the_block_failed():
    bench = Bench()
    window = Window(BenchCounter(bench), clock_s=bench.clock_s, background=False)
    with pytest.raises(KeyError), window:
        raise KeyError("in the block")
    with pytest.raises(MeasurementError, match="not closed"):
        _ = window.reading


def test_window_without_time_is_refused():
    bench = Bench()
    with (
        pytest.raises(MeasurementError, match="clock did not advance"),
        Window(BenchCounter(bench), clock_s=bench.clock_s, background=False),
    ):
        pass


def test_computer_that_sleeps_in_a_window_is_refused(monkeypatch):
    """Its monotonic clock stands still, the meter may not."""
    bench, slept_s = Bench(), iter([100.0, 102.5])
    monkeypatch.setattr(window, "suspended_s", lambda: next(slept_s))
    with pytest.raises(MeasurementError, match="slept for 2.5 s"):
        measure(bench, BenchCounter(bench))


def test_sleep_of_this_computer_does_not_grow_while_it_is_awake():
    assert abs(window.suspended_s() - window.suspended_s()) < 0.01
    assert window.suspended_s() >= -0.001


def test_window_needs_a_meter():
    with pytest.raises(ValueError, match="a counter or a sampler"):
        Window(None, None)


def test_thread_raises_what_stopped_the_meter_in_the_callers_thread():
    sampler = BenchSampler(1.0, MeterUnavailableError("unplugged"), 1.0)

    def run():
        with Window(None, sampler):
            time.sleep(0.2)

    with pytest.raises(MeterUnavailableError, match="unplugged"):
        run()


class RealCounter(EnergyCounter):
    """Counts 40 W of real time in steps of 10 ms."""

    name, boundary, update_period_s = "real", "bench", 0.01

    def read_j(self):
        return {"all": 40.0 * (time.perf_counter() // self.update_period_s) * self.update_period_s}


def test_thread_polls_often_enough_on_a_real_clock():
    with Window(RealCounter(), BenchSampler(41.0)) as window:
        time.sleep(0.6)
    assert window.reading.mean_power_w == pytest.approx(40.0, rel=0.05)
    assert window.reading.peak_power_w == pytest.approx(41.0, rel=0.05)


def test_counter_power_is_energy_by_time():
    class Steps(BenchCounter):
        readings = [10.0, 16.0, 16.0]

        def read_j(self):
            return {"all": self.readings.pop(0)}

    times = iter([0.0, 0.5, 1.0])
    power = CounterPower(Steps(Bench()), 0.1, lambda: next(times))
    assert [power.read_w() for _ in range(3)] == [0.0, 12.0, 0.0]
    assert power.is_derived


@pytest.mark.parametrize(("period_s", "poll_s"), [(0.001, 0.02), (0.02, 0.02), (0.1, 0.005), (5.0, 0.25)])
def test_slow_counters_are_polled_within_a_step_and_fast_ones_are_not_bothered(period_s, poll_s):
    counter = BenchCounter(Bench())
    counter.update_period_s = period_s
    assert poll_period_s(counter, None) == pytest.approx(poll_s)
