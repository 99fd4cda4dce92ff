"""Deployments from end to end: on simulators, on this computer, and through a person's hands."""

import csv
import dataclasses

import pytest
import torch

import metas_peft
from metas_peft.core.cost import METRICS, Cost, Origin
from metas_peft.core.errors import CalibrationError, MeasurementError, OutputError
from metas_peft.core.files import read_json
from metas_peft.core.store import RecordStore
from metas_peft.deploy import Request, deploy, write_plan
from metas_peft.deploy.candidates import points_to_measure
from metas_peft.deploy.sources import BroughtRecords, OpenDevice, Runs, load_exported
from metas_peft.devices import TimingRules, open_device
from metas_peft.testing.tiny import tiny_model

HELD = {"latency_ms": 1e3, "energy_j": 10.0, "peak_power_w": 100.0}


def test_the_best_member_is_exported_and_verified_after_five_measurements(run, simulated, tmp_path):
    done = deploy(Request(run, HELD, tmp_path / "out"), simulated())
    assert done.failure == ""
    assert done.result["measurements"] == {"training": 0, "calibration": 5, "evaluation": 1}
    chosen = done.result["chosen"]
    assert chosen["key"] == run.candidates[0].subnet.key
    assert chosen["met"] == dict.fromkeys(METRICS, True)
    assert chosen["origin"] == dict.fromkeys(("energy", "latency", "power"), "simulated")
    model = metas_peft.load(done.folder / "model")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(input_ids=ids).logits, run.candidates[0].open()(input_ids=ids).logits)
    assert read_json(done.folder / "deployment.json") == done.result
    assert len(RecordStore(done.folder / "records").read()) == 6
    assert "tiny" in (done.folder / "report.html").read_text()


@pytest.mark.parametrize("place", [1, 3, 5])
def test_the_best_member_whose_upper_ends_lie_inside_is_chosen_and_shipped(run, simulated, tmp_path, place):
    rows = deploy(Request(run, {}, tmp_path / "all"), simulated()).result["candidates"]
    budgets = {m: rows[place]["upper"][m] for m in METRICS}
    done = deploy(Request(run, budgets, tmp_path / "out"), simulated())
    inside = [row for row in rows if all(row["upper"][m] <= budgets[m] for m in METRICS)]
    assert rows[place] in [{**row, "inside": True} for row in inside]
    assert done.result["chosen"]["quality"] == max(row["quality"] for row in inside)
    assert done.result["chosen"]["inside_by"] == "upper ends"
    assert done.failure == ""
    candidate = next(c for c in run.candidates if c.subnet.key == done.result["chosen"]["key"])
    ids = torch.tensor([[5, 6, 7]])
    expected = candidate.open()(input_ids=ids).logits
    torch.testing.assert_close(metas_peft.load(done.folder / "model")(input_ids=ids).logits, expected)


def test_budgets_that_nothing_holds_leave_the_measurements_and_no_model(run, simulated, tmp_path):
    done = deploy(Request(run, {"latency_ms": 1e-6}, tmp_path / "out"), simulated())
    assert "What would do: latency_ms=" in done.failure
    assert done.result["chosen"] is None
    assert done.result["measurements"]["evaluation"] == 0
    assert sorted(p.name for p in done.folder.iterdir()) == ["deployment.json", "records", "report.html"]


def test_a_member_that_misses_its_budget_when_measured_is_a_failure(run, simulated, tmp_path):
    source = simulated()
    honest = source.verify

    def slower(chosen, artefact):
        record = honest(chosen, artefact)
        return dataclasses.replace(record, cost=record.cost.map(lambda v: 3.0 * v))

    source.verify = slower
    probe = deploy(Request(run, {}, tmp_path / "probe"), simulated())
    limit = 1.2 * probe.result["chosen"]["measured"]["latency_ms"]
    done = deploy(Request(run, {"latency_ms": limit}, tmp_path / "out"), source)
    assert "but measured outside: latency_ms" in done.failure
    assert done.result["chosen"]["met"] == {"latency_ms": False}
    assert done.result["chosen"]["over_budget_pct"]["latency_ms"] == pytest.approx(150, abs=10)


def test_a_device_that_fails_during_the_five_leaves_nothing(run, simulated, tmp_path, monkeypatch):
    source = simulated()

    def broken(*_):
        raise OSError("the board is gone")

    monkeypatch.setattr(source._device, "_measure", broken)
    with pytest.raises(MeasurementError, match="failed during the 5 calibration measurements: nothing was chosen"):
        deploy(Request(run, HELD, tmp_path / "out"), source)
    assert not (tmp_path / "out").exists()


def test_a_device_that_fails_afterwards_leaves_nothing_half_written(run, simulated, tmp_path):
    source = simulated()

    def broken(chosen, artefact):
        raise MeasurementError("the board is gone")

    source.verify = broken
    with pytest.raises(MeasurementError, match="board"):
        deploy(Request(run, HELD, tmp_path / "out"), source)
    assert not (tmp_path / "out").exists()


def test_an_earlier_deployment_is_replaced_and_anything_else_is_not(run, simulated, tmp_path):
    for budgets in ({}, {"latency_ms": 1e-6}):
        done = deploy(Request(run, budgets, tmp_path / "out"), simulated())
    assert not (done.folder / "model").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="something else than a deployment"):
        deploy(Request(run, {}, tmp_path / "mine"), simulated())
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_failed_deployment_leaves_the_earlier_one(run, simulated, tmp_path):
    done = deploy(Request(run, HELD, tmp_path / "out"), simulated())
    before = {p.relative_to(done.folder): p.read_bytes() for p in done.folder.rglob("*") if p.is_file()}
    source = simulated()

    def broken(chosen, artefact):
        raise MeasurementError("the board is gone")

    source.verify = broken
    with pytest.raises(MeasurementError, match="board"):
        deploy(Request(run, {}, tmp_path / "out"), source)
    assert len(before) >= 4
    assert {p.relative_to(done.folder): p.read_bytes() for p in done.folder.rglob("*") if p.is_file()} == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".out.")]


def test_an_invalid_verification_meets_nothing(run, simulated, tmp_path):
    source = simulated()
    honest = source.verify

    def noisy(chosen, artefact):
        return dataclasses.replace(honest(chosen, artefact), is_valid=False, why_invalid="too much spread")

    source.verify = noisy
    done = deploy(Request(run, HELD, tmp_path / "out"), source)
    assert "its verification is invalid (too much spread)" in done.failure
    assert done.result["chosen"]["met"] == dict.fromkeys(METRICS)


def test_a_modelled_energy_holds_no_budget(run, simulated, tmp_path):
    source = simulated()
    honest = source.verify

    def modelled(chosen, artefact):
        record = honest(chosen, artefact)
        return dataclasses.replace(record, origin=Cost(Origin.MODELLED, Origin.MEASURED, Origin.MODELLED))

    source.verify = modelled
    done = deploy(Request(run, HELD, tmp_path / "out"), source)
    unknown = [m for m in HELD if m != "latency_ms"]
    assert unknown
    assert f"{' and '.join(unknown)} of " in done.failure
    assert "is modelled, not measured" in done.failure
    assert {m: done.result["chosen"]["met"][m] for m in unknown} == dict.fromkeys(unknown)


def test_an_exported_decoder_keeps_its_language_model_head(tmp_path):
    model = tiny_model("llama", language_model=True)
    model.save_pretrained(tmp_path / "model")
    again = load_exported(tmp_path / "model")
    assert type(again) is type(model)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_deployments_are_the_same_twice(run, simulated, tmp_path):
    first, second = (deploy(Request(run, HELD, tmp_path / name), simulated()).result for name in ("a", "b"))
    for result in (first, second):
        del result["chosen"]["export"]
    assert first == second


def test_this_computer_measures_what_it_ships(run, tmp_path):
    device = open_device("local", threads=1, power="modelled", rules=TimingRules(seconds_per_subject=0.4, trial_s=0.01))
    source = OpenDevice(device, run.shape, run.workload, Runs("hf", tmp_path, 1))
    done = deploy(Request(run, {"latency_ms": 1e4}, tmp_path / "out"), source)
    assert done.failure == ""
    assert done.result["measurements"] == {"training": 0, "calibration": 5, "evaluation": 1}
    assert done.result["chosen"]["origin"] == {"energy": "modelled", "latency": "measured", "power": "modelled"}


@pytest.fixture
def sheet(run, tmp_path):
    """A filled sheet of the five for a phone that nobody simulates."""
    path = tmp_path / "five.csv"
    models = write_plan(run, "my-phone", path, "hf")
    return path, models


def fill(path, factor=1.0, **more):
    """Write what a stopwatch read: time in proportion to FLOPs."""
    rows = list(csv.DictReader(path.open()))
    for row in rows:
        row["latency_ms"] = factor * (1.0 + float(row["flops"]) / 1e4)
        row |= {name: make(row) for name, make in more.items()}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_a_plan_holds_five_models_and_their_sheet(run, sheet):
    path, models = sheet
    keys = [row["subnet_key"] for row in csv.DictReader(path.open())]
    assert keys == [p.subnet.key for p in points_to_measure(run, 0)]
    assert sorted(p.name for p in models.iterdir()) == sorted(keys)
    assert all(metas_peft.load(models / key) is not None for key in keys)


def test_a_plan_that_fails_leaves_nothing_and_can_be_asked_for_again(run, tmp_path, monkeypatch):
    made = []

    def export(run, candidate, folder, kind):
        if len(made) == 2:
            raise OutputError("the disk is full")
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"0")
        made.append(folder)

    monkeypatch.setattr("metas_peft.deploy.walk.export", export)
    for _ in range(2):
        made.clear()
        with pytest.raises(OutputError, match="disk is full"):
            write_plan(run, "my-phone", tmp_path / "five.csv", "hf")
        assert len(made) == 2
        assert list(tmp_path.iterdir()) == []


def test_copies_of_what_calibrated_do_not_verify(run, sheet, tmp_path):
    path, _ = sheet
    fill(path)
    with pytest.raises(CalibrationError, match="hold the same readings"):
        BroughtRecords("my-phone", [path, path], run.workload, None)
    lines = path.read_text().splitlines()
    copy = tmp_path / "copy.csv"
    copy.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(CalibrationError, match="digit for digit"):
        deploy(Request(run, {}, tmp_path / "out"), BroughtRecords("my-phone", [path, copy], run.workload, None))


def test_the_file_of_the_five_calibrates_whatever_comes_first(run, sheet, tmp_path):
    path, _ = sheet
    rows = fill(path)
    checked = tmp_path / "checked.csv"
    checked.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    fill(checked, 1.01)
    source = BroughtRecords("my-phone", [checked, path], run.workload, None)
    points = points_to_measure(run, 0)
    read = {r.subnet_key: r.cost.latency_ms for r in source.calibrate(points)}
    assert read == {row["subnet_key"]: pytest.approx(row["latency_ms"]) for row in rows}
    first = next(p for p in points if p.subnet.key == rows[0]["subnet_key"])
    assert source.verify(first, path).cost.latency_ms == pytest.approx(1.01 * rows[0]["latency_ms"])


def test_a_budget_that_only_some_of_the_five_have_is_refused(run, sheet, tmp_path):
    path, _ = sheet
    rows = fill(path)
    fill(path, energy_j=lambda row: "" if row["subnet_key"] == rows[0]["subnet_key"] else 1.0)
    source = BroughtRecords("my-phone", [path], run.workload, None)
    with pytest.raises(CalibrationError, match="budget for energy_j, but 1 of the 5 measurements"):
        deploy(Request(run, {"energy_j": 1.0}, tmp_path / "out"), source)


def test_records_that_a_person_brings_choose_and_later_verify(run, sheet, tmp_path):
    path, _ = sheet
    rows = fill(path)
    budget = {"latency_ms": 1.2 * max(float(r["latency_ms"]) for r in rows)}

    def source(*files):
        return BroughtRecords("my-phone", files, run.workload, None)

    done = deploy(Request(run, budget, tmp_path / "out"), source(path))
    assert "not verified" in done.failure
    assert done.result["measurements"] == {"training": 0, "calibration": 5, "evaluation": 0}
    assert done.result["chosen"]["predicted"]["energy_j"] is None  # nobody measured any
    checked = tmp_path / "checked.csv"
    fill(done.folder / "verify.csv", 1.01)
    with pytest.raises(OutputError, match="has been filled in"):  # what a person wrote is never deleted
        deploy(Request(run, budget, tmp_path / "out"), source(path))
    (done.folder / "verify.csv").rename(checked)
    again = deploy(Request(run, budget, tmp_path / "out"), source(path, checked))
    assert again.failure == ""
    assert again.result["chosen"]["key"] == done.result["chosen"]["key"]
    assert again.result["chosen"]["origin"]["latency"] == "imported"
    assert again.result["measurements"]["evaluation"] == 1


def test_a_budget_without_measurements_of_it_is_refused(run, sheet, tmp_path):
    path, _ = sheet
    fill(path)
    with pytest.raises(
        CalibrationError, match="budget for energy_j, but the 5 measurements of my-phone do not have it"
    ):
        deploy(
            Request(run, {"energy_j": 1.0}, tmp_path / "out"), BroughtRecords("my-phone", [path], run.workload, None)
        )


def test_energy_that_a_person_measured_is_used(run, sheet, tmp_path):
    path, _ = sheet
    fill(path, energy_j=lambda row: 2e-3 * row["latency_ms"])
    source = BroughtRecords("my-phone", [path], run.workload, None)
    done = deploy(Request(run, {"energy_j": 10.0}, tmp_path / "out"), source)
    middle = done.result["points"][2]
    assert middle["predicted"]["energy_j"] == pytest.approx(middle["measured"]["energy_j"], rel=0.1)
    assert middle["predicted"]["peak_power_w"] is None


def test_records_of_another_device_too_few_or_of_other_passes_are_refused(run, sheet, tmp_path):
    path, _ = sheet
    fill(path)
    request = Request(run, {}, tmp_path / "out")
    with pytest.raises(CalibrationError, match="records of my-phone, not of pixel-8"):
        BroughtRecords("pixel-8", [path], run.workload, None)
    with pytest.raises(CalibrationError, match="another workload"):
        BroughtRecords("my-phone", [path], dataclasses.replace(run.workload, batch_size=4), None)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(CalibrationError, match="no measured row of"):
        deploy(request, BroughtRecords("my-phone", [path], run.workload, None))
