"""`metas deploy` as people call it: exit statuses, and one sentence for each thing that can be wrong."""

import csv
import json
import os
import signal

import pytest

from metas_peft import cli
from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.testing.front import save_tiny_front


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = save_tiny_front(tmp_path_factory.mktemp("run"))
    members = read_json(folder / "subnets.json")["members"]
    front = [
        {"key": Subnet.from_dict(m["subnet"]).key, "name": m["name"], "quality": 0.9 - 0.05 * i}
        for i, m in enumerate(members)
    ]
    results = {
        "schema_version": 1, "run_id": "tiny", "backbone": "tiny", "quality_metric": "accuracy", "front": front,
        "workload": {"seq_len": 16}, "target_device": "pixel-8",
    }  # fmt: skip
    write_json(folder / "results.json", results)
    return folder


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code or 0


def said(capsys):
    """The last sentence on standard error, and standard output."""
    out, err = capsys.readouterr()
    return [line for line in err.splitlines() if line.startswith("metas: ")], out


def test_budgets_that_hold_leave_with_0_and_json(finished, tmp_path, capsys):
    # Two budgets behind one option, as the manual writes it.
    status = status_of("deploy", finished, "--device", "jetson-nano", "--budget", "latency_ms=900", "energy_j=9",
                       "--out", tmp_path / "out", "--json", "-")  # fmt: skip
    sentences, out = said(capsys)
    assert (status, sentences) == (0, [])
    result = json.loads(out)
    assert result["budgets"] == {"energy_j": 9.0, "latency_ms": 900.0}
    assert result["measurements"] == {"training": 0, "calibration": 5, "evaluation": 1}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("written", ["{}/", "{}/.", "{}//"])
def test_the_folder_is_found_however_it_is_written(finished, tmp_path, capsys, written):
    status = status_of("deploy", written.format(finished), "--device", "pixel-8", "--budget", "latency_ms=900",
                       "energy_j=9", "--plan", tmp_path / "five.csv")  # fmt: skip
    assert (status, said(capsys)[1].strip()) == (0, str(tmp_path / "five.csv"))


def test_tables_name_predicted_measured_and_the_budgets(finished, tmp_path, capsys):
    assert (
        status_of("deploy", finished, "--device", "pixel-8", "--budget", "latency_ms=900", "--out", tmp_path / "o") == 0
    )
    _, out = said(capsys)
    assert "Predicted against measured" in out
    assert "simulated" in out
    assert "to spare" in out
    assert "Measurements: 5 before the choice, 1 after it" in out


def test_budgets_that_nothing_holds_leave_with_1_and_what_would_do(finished, tmp_path, capsys):
    target = tmp_path / "d.json"
    status = status_of("deploy", finished, "--device", "pixel-8", "--budget", "latency_ms=0.0001", "--out",
                       tmp_path / "out", "--json", target)  # fmt: skip
    sentences, _ = said(capsys)
    assert status == 1
    assert len(sentences) == 1
    assert "What would do: latency_ms=" in sentences[0]
    assert read_json(target)["chosen"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "speed=3"], "there is no budget 'speed'"),
        (["--budget", "latency_ms=fast"], "is no number"),
        (["--budget", "latency_ms=-3"], "positive number"),
        (["--budget", "latency_ms=3", "lateny_ms=3"], "did you mean 'latency_ms'"),
        (["--budget", ""], "--budget is empty"),
        (["--plan", "five"], "Call it FILE.csv"),
        (["--threads", "2"], "--threads belong to the device `local`"),
        (["--records", "a.csv", "--plan", "b.csv"], "leave out the one or the other"),
        (["--records", "a.csv", "--threads", "2"], "would measure here"),
        (
            ["--plan", "b.csv", "--power", "meter", "--out", "o"],
            "--power and --out would do nothing: --plan only writes",
        ),
    ],
)
def test_wrong_usage_leaves_with_2(finished, arguments, message, capsys):
    assert status_of("deploy", finished, "--device", "pixel-8", *arguments) == 2
    sentences, out = said(capsys)
    assert len(sentences) == 1
    assert message in sentences[0]
    assert out == ""
    assert not (finished / "deploy").exists()


def test_a_deployment_that_is_told_to_stop_leaves_the_earlier_one(finished, tmp_path, capsys, monkeypatch):
    arguments = ["deploy", finished, "--device", "pixel-8", "--budget", "latency_ms=900", "--out", tmp_path / "out"]
    assert status_of(*arguments) == 0
    before = (tmp_path / "out" / "deployment.json").read_bytes()
    monkeypatch.setattr("metas_peft.deploy.walk.export", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert status_of(*arguments) == 143
    assert "Told to stop. What was there before is there again." in said(capsys)[0][-1]
    assert (tmp_path / "out" / "deployment.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_folder_and_two_folders_are_wrong_usage(finished, capsys):
    assert status_of("deploy", "--device", "pixel-8") == 2
    assert status_of("deploy", finished, finished, "--device", "pixel-8") == 2
    assert "One folder of a finished run" in said(capsys)[0][-1]


def test_missing_runs_and_devices_leave_with_1(finished, tmp_path, capsys):
    assert status_of("deploy", tmp_path, "--device", "pixel-8") == 1
    assert "holds no run" in said(capsys)[0][0]
    assert status_of("deploy", finished, "--device", "pixel-88") == 1
    assert "did you mean 'pixel-8'" in said(capsys)[0][0]
    assert status_of("deploy", finished, "--device", "my-phone", "--records", tmp_path / "none.csv") == 1
    assert "Cannot read" in said(capsys)[0][0]
    assert not (finished / "deploy").exists()


def test_a_plan_is_written_for_a_device_that_only_a_person_can_reach(finished, tmp_path, capsys):
    sheet = tmp_path / "five.csv"
    assert status_of("deploy", finished, "--device", "my-phone", "--plan", sheet, "--threads", "2") == 0
    sentences, out = said(capsys)
    assert out.strip() == str(sheet)
    assert "--records" in sentences[0]
    rows = list(csv.DictReader(sheet.open(encoding="utf-8")))
    assert [row["threads"] for row in rows] == ["2"] * 5
