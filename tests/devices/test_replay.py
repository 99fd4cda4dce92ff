"""Recordings of formulas, whose energy is known: within 0.5 % or refused."""

import dataclasses

import numpy as np
import pytest

from metas_peft.core.errors import InvalidRecordError, MeasurementError, MeterUnavailableError
from metas_peft.devices.meters import traces
from metas_peft.devices.meters.replay import Trace, load_trace, replay, save_trace
from metas_peft.devices.meters.traces import Course

SHOWN = {
    "counter": {"sampler_period_s": None},
    "counter and sampler": {},
    "fast counter": {"sampler_period_s": None, "counter_period_s": 0.001, "poll_s": 0.02},
    "slow counter": {"sampler_period_s": None, "counter_period_s": 0.19, "poll_s": 0.009},
    "sensor that averages over 1 s": {"counter_period_s": None, "averaging_s": 1.0},
    "sensor that averages over its period": {"counter_period_s": None, "sampler_period_s": 0.07, "averaging_s": 0.07},
}
COURSES = {
    "steady": Course(swing_w=0.0),
    "passes": Course(),
    "rising": Course(slope_w_per_s=8.0),
    "falling": Course(slope_w_per_s=-8.0, pass_s=0.033),
    "long passes": Course(pass_s=0.3),
    "long passes in a long window": Course(pass_s=0.3, work_s=24.0),
    "small board": Course(idle_w=1.9, work_w=3.1, swing_w=0.6),
}


def error_pct(trace: Trace) -> float:
    assert trace.expected_j is not None
    return 100.0 * (replay(trace).total_j / trace.expected_j - 1.0)


def test_energy_of_a_course_is_the_integral_of_its_power():
    course = Course(slope_w_per_s=7.0, pass_s=0.3)
    times = np.linspace(0.0, 6.0, 600_001)
    numeric = np.concatenate([[0.0], np.cumsum(course.power_w(times[:-1] + 5e-6)) * 1e-5])
    assert np.abs(numeric - course.energy_j(times)).max() < 0.01


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("course", COURSES)
def test_replayed_energy_is_within_half_a_per_cent_or_refused(course, shown):
    trace = traces.record(COURSES[course], **SHOWN[shown])
    if course == "long passes" and shown != "fast counter":
        # The power swings more slowly than the meter steps.
        with pytest.raises(MeasurementError, match="only known to"):
            replay(trace)
    else:
        assert abs(error_pct(trace)) < 0.5


def test_averaging_sensor_hides_the_peak():
    fast, slow = (traces.record(Course(), sampler_period_s=0.013, averaging_s=a) for a in (0.0, 1.0))
    assert replay(fast).peak_power_w == pytest.approx(110.0)
    assert replay(slow).peak_power_w == pytest.approx(80.0, rel=0.01)
    assert replay(fast).sampling_period_ms == pytest.approx(13.0)
    assert replay(slow).sampling_period_ms == pytest.approx(1000.0)


@pytest.mark.parametrize("range_j", [100.0, 37.0])
def test_wrap_around_is_followed(range_j):
    trace = traces.wrap_around(traces.record(Course()), range_j)
    assert (np.diff(trace.energy_j) < 0).sum() >= 3
    assert abs(error_pct(trace)) < 0.5


def test_wrap_around_of_a_counter_without_a_known_range_is_refused():
    with pytest.raises(MeasurementError, match="fell from"):
        replay(traces.wrap_around(traces.record(Course()), 100.0, is_known=False))


@pytest.mark.parametrize("range_j", [None, 262_144.0])
def test_restart_is_refused_and_not_taken_for_a_wrap_around(range_j):
    with pytest.raises(MeasurementError, match="restart|started again"):
        replay(traces.restart(traces.record(Course()), 3.0, range_j))


def test_restart_before_the_window_does_not_matter():
    assert abs(error_pct(traces.restart(traces.record(Course()), 0.5))) < 0.5


@pytest.mark.parametrize("from_s", [0.2, 1.5, 3.0])
def test_stuck_counter_is_refused(from_s):
    with pytest.raises(MeasurementError, match="stood still"):
        replay(traces.stuck(traces.record(Course()), from_s))


@pytest.mark.parametrize("range_j", [None, 262_144.0])
def test_zero_update_is_refused(range_j):
    with pytest.raises(MeasurementError, match="to 0 J"):
        replay(traces.zero_update(traces.record(Course()), 2.5, range_j))


def test_meter_that_does_not_answer_stops_the_window():
    with pytest.raises(MeterUnavailableError, match="no answer at 2.0"):
        replay(traces.no_answer(traces.record(Course()), 2.0, 2.5))


@pytest.mark.parametrize("shown", ["counter", "sensor that averages over 1 s"])
def test_long_hole_in_the_readings_is_refused(shown):
    with pytest.raises(MeasurementError, match="no reading for"):
        replay(traces.missing_readings(traces.record(Course(), **SHOWN[shown]), 2.0, 3.5))


def test_short_hole_in_the_readings_of_a_counter_is_bridged():
    """A counter goes on counting while nobody looks."""
    trace = traces.missing_readings(traces.record(Course(), sampler_period_s=None), 2.0, 2.6)
    assert abs(error_pct(trace)) < 0.5


def assert_right_or_refused(trace: Trace) -> bool:
    """Whether it was let through."""
    try:
        reading = replay(trace)
    except MeasurementError:
        return False
    assert abs(100.0 * (reading.total_j / trace.expected_j - 1.0)) < 0.5
    return True


BROKEN = SHOWN | {"sampler of the moment": {"counter_period_s": None, "sampler_period_s": 0.047}}


@pytest.mark.parametrize("shown", BROKEN)
@pytest.mark.parametrize("course", ["steady", "rising"])
def test_short_clock_jump_is_harmless_or_refused(course, shown):
    trace = traces.record(COURSES[course], **BROKEN[shown])
    jumps = [(at_s, by_s) for at_s in (0.98, 1.01, 1.04, 1.3, 3.0, 4.7, 4.93, 4.99) for by_s in (0.1, 0.2, 0.45, 0.9)]
    passed = [assert_right_or_refused(traces.clock_jump(trace, at_s, by_s)) for at_s, by_s in jumps]
    assert len(passed) == 32
    if trace.energy_j is None:
        assert not any(passed[4:]), "nothing counted on while the clock jumped"


@pytest.mark.parametrize("shown", BROKEN)
@pytest.mark.parametrize("course", ["steady", "rising"])
def test_short_hole_is_harmless_or_refused(course, shown):
    trace = traces.record(COURSES[course], **BROKEN[shown])
    holes = [(from_s, long_s) for from_s in (0.9, 1.02, 2.0, 3.3, 4.6, 4.85) for long_s in (0.2, 0.3, 0.5)]
    passed = [assert_right_or_refused(traces.missing_readings(trace, at_s, at_s + s)) for at_s, s in holes]
    assert len(passed) == 18
    if trace.energy_j is None:
        assert not any(passed)


@pytest.mark.parametrize("short_j", [0.5, 3.0, 5.0, 11.0, 20.0])
@pytest.mark.parametrize("at_s", [2.961, 3.0, 3.02, 3.05])
def test_restart_close_to_the_end_of_the_range_is_harmless_or_refused(short_j, at_s):
    """It looks like a wrap-around: the counter falls from just below its range to zero."""
    trace = traces.record(COURSES["steady"], sampler_period_s=None)
    after = int(np.flatnonzero(trace.times_s >= at_s)[0])
    energy_j = trace.energy_j - trace.energy_j[after - 1] + 262_144.0 - short_j
    energy_j[after:] -= energy_j[after]
    assert_right_or_refused(dataclasses.replace(trace, energy_j=energy_j, wrap_j=262_144.0))


@pytest.mark.parametrize("pass_s", [0.05, 0.0501, 0.0505, 0.1001, 0.013, 0.0249, 0.2])
def test_samples_in_step_with_passes_are_refused(pass_s):
    """They would see the same part of each pass: up to -37.5 %, without any scatter."""
    trace = traces.record(Course(pass_s=pass_s), counter_period_s=None)
    with pytest.raises(MeasurementError, match="in step with the passes"):
        replay(trace)


def test_samples_of_the_moment_know_a_steady_power():
    trace = traces.record(Course(swing_w=0.0), counter_period_s=None)
    assert abs(error_pct(trace)) < 0.5
    assert abs(error_pct(dataclasses.replace(trace, pass_s=0.0137))) < 0.5


def test_recording_of_samples_has_to_say_how_long_a_pass_took():
    trace = traces.record(Course(swing_w=0.0), counter_period_s=None)
    with pytest.raises(InvalidRecordError, match="# pass_s: 0.02"):
        replay(dataclasses.replace(trace, pass_s=None))


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("counter_period_s", "nan"),
        ("counter_period_s", "0"),
        ("sampler_period_s", "-0.1"),
        ("averaging_s", "nan"),
        ("averaging_s", "-1"),
        ("wrap_j", "0"),
        ("wrap_j", "-5"),
        ("pass_s", "-1"),
        ("max_power_w", "nan"),
        ("expected_j", "0"),
        ("start_s", "nan"),
        ("end_s", "0.5"),
        ("end_s", "inf"),
    ],
)
def test_fact_that_cannot_be_is_named(tmp_path, fact, value):
    path = tmp_path / "trace.csv"
    save_trace(traces.record(Course(swing_w=0.0)), path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"# {fact}:")]
    path.write_text("\n".join([f"# {fact}: {value}", *lines]) + "\n")
    with pytest.raises(InvalidRecordError, match=f"{fact} is {float(value):g}; a number was expected"):
        replay(load_trace(path))


@pytest.mark.parametrize(("by_s", "message"), [(30.0, "the clock jumped"), (-0.4, "the clock went back")])
def test_clock_jump_is_refused(by_s, message):
    with pytest.raises(MeasurementError, match=message):
        replay(traces.clock_jump(traces.record(Course()), 3.0, by_s))


def test_window_of_too_few_updates_is_refused_with_the_length_it_needs():
    with pytest.raises(MeasurementError, match="Measure for at least 2.0 s"):
        replay(traces.record(Course(work_s=1.5), sampler_period_s=None))
    with pytest.raises(MeasurementError, match="Measure for at least 3.0 s"):
        replay(traces.record(Course(work_s=0.7), counter_period_s=None, averaging_s=1.0))


@pytest.mark.parametrize(("factor", "is_reported"), [(1.0, False), (1.08, False), (1.25, True), (0.6, True)])
def test_gap_between_counter_and_integrated_power_is_reported(factor, is_reported, caplog):
    trace = traces.record(Course(swing_w=0.0))
    trace = dataclasses.replace(trace, power_w=trace.power_w * factor)
    reading = replay(trace)
    assert reading.gap_pct == pytest.approx(100 * (factor - 1), abs=0.5)
    assert ("one of the two is wrong" in caplog.text) == is_reported
    assert reading.total_j == pytest.approx(trace.expected_j, rel=0.005), "the counter is believed"


@pytest.mark.parametrize("value", [-5.0, np.inf, 1e9])
def test_impossible_sample_is_refused(value):
    trace = traces.record(Course())
    power_w = trace.power_w.copy()
    power_w[500:520] = value
    with pytest.raises(MeasurementError, match="a power of 0 or more|not a power this kind of device"):
        replay(dataclasses.replace(trace, power_w=power_w))


def test_impossible_energy_is_refused():
    trace = traces.record(Course(), sampler_period_s=None)
    with pytest.raises(MeasurementError, match="not a power this kind of device"):
        replay(dataclasses.replace(trace, energy_j=trace.energy_j * 1e6))


def test_samples_of_the_moment_know_an_unsteady_mean_badly():
    with pytest.raises(MeasurementError, match="only known to"):
        replay(traces.record(Course(), counter_period_s=None, sampler_period_s=0.0131))


def test_recording_survives_a_file(tmp_path):
    trace = traces.wrap_around(traces.record(Course(), poll_s=0.02), 100.0)
    save_trace(trace, tmp_path / "trace.csv")
    again = load_trace(tmp_path / "trace.csv")
    assert np.array_equal(again.energy_j, trace.energy_j)
    assert np.array_equal(again.power_w, trace.power_w)
    assert (again.start_s, again.end_s, again.wrap_j, again.meter) == (1.0, 5.0, 100.0, "formula")
    assert replay(again) == replay(trace)


def test_recording_without_an_answer_keeps_the_gap(tmp_path):
    trace = traces.no_answer(traces.record(Course(), poll_s=0.02, sampler_period_s=None), 2.0, 2.5)
    save_trace(trace, tmp_path / "trace.csv")
    again = load_trace(tmp_path / "trace.csv")
    assert again.power_w is None
    assert np.isnan(again.energy_j).sum() == 25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,energy\n0,1\n", "columns time_s,energy_j,power_w"),
        ("# begin_s: 1\ntime_s,energy_j,power_w\n0,1,2\n", "unknown fact 'begin_s'; did you mean 'end_s'|'begin_s'"),
        ("# start_s 1\ntime_s,energy_j,power_w\n0,1,2\n", "line 1"),
        ("# start_s: soon\ntime_s,energy_j,power_w\n0,1,2\n", "not a number"),
        ("time_s,energy_j,power_w\n0,1,x\n", "line 2: 'x' is not a number"),
        ("time_s,energy_j,power_w\n,1,2\n", "line 2: 3 cells; each row needs a time"),
        ("time_s,energy_j,power_w\n0,1,2\n1,2\n", "line 3: 2 cells; each row needs a time and 3 cells"),
        ("time_s,energy_j,power_w\n", "no reading after the line of column names"),
    ],
)
def test_broken_recording_is_named(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InvalidRecordError, match=message):
        load_trace(path)


def test_recording_without_values_is_named(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("# end_s: 5\ntime_s,energy_j,power_w\n0,,\n1,,\n")
    with pytest.raises(InvalidRecordError, match="no value of a meter"):
        replay(load_trace(path))


def test_missing_recording_is_named(tmp_path):
    with pytest.raises(InvalidRecordError, match="Cannot read the recording"):
        load_trace(tmp_path / "none.csv")
