"""The command line as users meet it: exit statuses, streams, and how fast it answers."""

import json
import os
import signal
import subprocess
import sys
import types

import pytest
from optuna.trial import TrialState

import metas_peft
from metas_peft import cli
from metas_peft.conf.compose import load
from metas_peft.core.errors import MeterUnavailableError
from metas_peft.core.files import write_json
from metas_peft.search import open_search

RESULTS = {
    "schema_version": 1,
    "run_id": "mine",
    "method": "MetaS-PEFT",
    "backbone": "minilm",
    "task": "sst2",
    "task_origin": "synthetic",
    "target_device": "pixel-8",
    "quality_metric": "accuracy",
    "measurements": {"training": 0, "calibration": 5, "evaluation": 7},
    "dense": {
        "quality": 0.91,
        "energy_j": 0.2,
        "latency_ms": 20.0,
        "peak_power_w": 8.0,
        "flops": 1e9,
        "origin": {"energy": "simulated", "latency": "simulated", "power": "simulated"},
    },
    "front": [
        {
            "key": "0123456789",
            "name": "50 %",
            "quality": 0.905,
            "energy_j": 0.1,
            "latency_ms": 11.0,
            "peak_power_w": None,
            "flops": 5e8,
            "origin": {"energy": "simulated", "latency": "simulated", "power": "simulated"},
        }
    ],
    "hypervolume": {"useful": 0.1234, "chance": 0.5, "budgets": None},
    "hypervolume_ratio": {
        "EChorda": {"ratio": 1.04, "low": 0.99, "high": 1.1},
        "drop-top": {"ratio": None, "low": 0.1, "high": None},
    },
    "baselines": {
        "EChorda": {
            "label": "EChorda-style",
            "setting": "equal treatment",
            "target_measurements": 200,
            "hypervolume": {"useful": 0.1187},
            "front": [],
        },
        "drop-top": {
            "label": "top layers dropped",
            "setting": "equal treatment",
            "target_measurements": 0,
            "hypervolume": {"useful": 0.0},
            "front": [],
        },
    },
    "budgets": {"limits": {}, "met": {}, "notes": ["No member meets all budgets together."]},
    "retargets": {
        "local": {
            "dense": {
                "quality": 0.91,
                "energy_j": 0.2,
                "latency_ms": 46.3,
                "peak_power_w": None,
                "flops": 1e9,
                "origin": {"energy": "modelled", "latency": "measured", "power": None},
            },
            "front": [
                {
                    "key": "0123456789",
                    "name": "50 %",
                    "quality": 0.905,
                    "energy_j": 0.05,
                    "latency_ms": 12.34,
                    "peak_power_w": None,
                    "flops": 5e8,
                    "origin": {"energy": "modelled", "latency": "measured", "power": None},
                }
            ],
            "measurements": {"training": 0, "calibration": 5, "evaluation": 2},
        }
    },
    "surrogate_error": {"energy": 2.34, "latency": 3.0, "power": 4.0, "n": 6},
}


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return left.value.code or 0


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A run file, in a folder of its own, with an experiment that is over at once."""
    monkeypatch.chdir(tmp_path)
    experiment = types.ModuleType("metas_peft.experiment")

    def run(config, folder):
        if config.training.seed == 13:
            raise MeterUnavailableError("No meter. Choose another.")
        if config.training.seed == 14:
            raise KeyError("a slip")
        if config.training.seed == 15:
            raise KeyboardInterrupt
        if config.training.seed == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        print("chatter")
        write_json(folder / "results.json", RESULTS | {"run_id": config.run_id})
        return folder

    experiment.run = run
    monkeypatch.setattr("metas_peft.report.write_report", lambda folder: (folder / "report.html").write_text(""))
    monkeypatch.setitem(sys.modules, "metas_peft.experiment", experiment)
    monkeypatch.setattr(metas_peft, "experiment", experiment, raising=False)
    (tmp_path / "mine.yaml").write_text("device: pixel-8\n")
    return "mine.yaml"


def in_new_process(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize("name", ["metas_peft", "metas_peft.cli", "metas_peft.conf", "metas_peft.conf.compose"])
def test_import_leaves_torch_alone(name):
    loaded = in_new_process("-c", f"import sys, {name}; print(*sys.modules)").stdout.split()
    assert name in loaded
    assert not {"torch", "transformers", "peft", "datasets", "sklearn"} & set(loaded)


def test_bare_import_brings_nothing_else():
    loaded = in_new_process("-c", "import sys, metas_peft; print(*sys.modules)").stdout.split()
    assert [m for m in loaded if m.startswith("metas_peft")] == ["metas_peft"]
    assert not {"numpy", "typer", "rich", "hydra"} & set(loaded)


def test_help_is_quick_and_light():
    # Processor time, not wall time: other work on the machine must not decide.
    code = (
        "import sys, time\nfrom metas_peft.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(time.process_time(), *sys.modules, file=sys.stderr)"
    )
    done = in_new_process("-c", code)
    seconds, *loaded = done.stderr.split()
    assert "run" in done.stdout
    assert float(seconds) < 0.3
    assert not {"torch", "numpy", "hydra", "omegaconf", "metas_peft.conf"} & set(loaded)


def test_package_runs_as_a_module():
    assert in_new_process("-m", "metas_peft", "--version").stdout.strip() == metas_peft.__version__


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = metas_peft.nonsense


def test_only_working_commands_are_listed(capsys):
    assert status_of("--help") == 0
    listed = [
        line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert listed == [
        "run", "plan", "sweep", "compare", "report", "export", "bench", "deploy", "predict", "devices", "profile",
        "surrogate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "demo", "--nonsense"],
        ["run", "demo", "training.sed=3"],
        ["run", "demo", "training.seed=x"],
        ["run", "demo", "nonsense"],
        ["run", "demo", "training.seed=1,2"],
        ["devices", "nonsense"],
    ],
)
def test_wrong_usage_leaves_with_2_and_one_message(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status_of(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yaml"], "No run file at absent.yaml"),
        (["run", "demo", "device=pixel8x"], "did you mean 'pixel-8'"),
        (["run", "demo", "method=propose"], "did you mean 'MetaS-PEFT'"),
        (["report", "."], "holds no results.json"),
    ],
)
def test_failure_leaves_with_1_and_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status_of(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("metas: ")
    assert err.count("\n") == 1
    assert message in err


def test_run_prints_tables_and_nothing_else_to_standard_output(run_file, capsys):
    assert status_of("run", run_file) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "mine: MetaS-PEFT, minilm on sst2 (synthetic data), for pixel-8"
    assert "Members of the front on pixel-8" in out
    assert "Members of the front on local" in out
    assert "simulated" in out
    assert lines.index("Hyper-volume: useful 0.1234, chance 0.5000") < lines.index(
        "Surrogate error on the target: energy 2.3 %, latency 3.0 %, power 4.0 %"
    )
    assert "Measurements on the target: 0 while training, 5 for calibration, 7 for evaluation" in lines
    assert "No member meets all budgets together." in lines
    assert lines[-1] == "Report: outputs/mine/report.html"
    assert "chatter" in err
    assert "chatter" not in out


def test_rival_of_a_run_is_shown_with_what_it_asked_of_the_target(run_file, capsys):
    assert status_of("run", run_file) == 0
    (rival,) = [line.split() for line in capsys.readouterr().out.splitlines() if "EChorda-style" in line]
    assert "200" in rival
    assert "0.1187" in rival


def test_run_shows_the_figures_that_the_run_file_names(run_file, capsys):
    assert status_of("run", run_file, "evaluation.metrics=[accuracy,energy]", "evaluation.primary_metric=energy_j") == 0
    out = capsys.readouterr().out
    assert "Energy" in out
    for absent in ("Latency", "Peak power", "FLOPs", "EChorda", "Surrogate error", "Hyper-volume"):
        assert absent not in out
    assert "Least energy: 0.1 J (simulated) by 50 %" in out


def test_run_writes_its_log_into_its_folder(run_file, tmp_path, capsys):
    assert status_of("run", run_file) == 0
    assert (tmp_path / "outputs" / "mine" / "log.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml", "outputs"]


def test_json_on_standard_output_replaces_the_table(run_file, capsys):
    assert status_of("run", run_file, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == RESULTS


def test_json_in_a_file_goes_beside_the_table(run_file, tmp_path, capsys):
    assert status_of("run", run_file, "--json", "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text()) == RESULTS
    assert "Report:" in capsys.readouterr().out


def test_multirun_shows_every_job(run_file, capsys):
    assert status_of("run", run_file, "training.seed=1,2", "-m", "--json", "-") == 0
    assert [r["run_id"] for r in json.loads(capsys.readouterr().out)] == [
        "mine-training.seed=1",
        "mine-training.seed=2",
    ]


def test_showing_and_sweeping_at_once_is_refused(run_file, capsys):
    assert status_of("run", run_file, "training.seed=1,2", "--multirun", "--cfg", "job") == 2
    assert "leave out the one or the other" in capsys.readouterr().err


def test_cfg_prints_a_section_and_runs_nothing(run_file, tmp_path, capsys):
    assert status_of("run", run_file, "training.seed=4", "--cfg", "job", "--package", "training") == 0
    assert "seed: 4" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


def test_error_of_a_run_is_one_sentence(run_file, capsys):
    assert status_of("run", run_file, "training.seed=13") == 1
    assert capsys.readouterr().err == "metas: No meter. Choose another.\n"


def test_slip_of_ours_says_how_to_see_it(run_file, capsys):
    assert status_of("run", run_file, "training.seed=14") == 1
    assert "KeyError: 'a slip'. This should not happen" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]])
def test_debug_shows_the_traceback(run_file, arguments):
    with pytest.raises(MeterUnavailableError):
        cli.main([*arguments, run_file, "training.seed=13"])


def test_interruption_leaves_with_130(run_file, capsys):
    assert status_of("run", run_file, "training.seed=15") == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_worker_that_is_told_to_stop_gives_its_trial_back(run_file, tmp_path, capsys):
    (tmp_path / run_file).write_text(
        "device: pixel-8\noptuna: {n_trials: 2, search_space: {r: {type: int, low: 2, high: 8}}}\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    assert status_of("sweep", run_file, "training.seed=16") == 143
    assert "Told to stop. The same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    (trial,) = open_search(load(run_file, ["training.seed=16"])).trials()
    assert trial.state is TrialState.WAITING
    assert trial.user_attrs["attempts"] == 0


def test_devices_lists_the_catalogue(capsys):
    assert status_of("devices", "--json", "-") == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert len(devices) >= 12
    assert "Google-Pixel-8-EdgeTPU" in next(d for d in devices if d["device"] == "pixel-8")["aliases"]


def test_devices_table_names_this_computer(capsys):
    assert status_of("devices") == 0
    assert "this computer" in capsys.readouterr().out


def test_devices_check_says_of_every_meter_whether_and_why_not(capsys):
    assert status_of("devices", "check", "--json", "-") == 0
    meters = json.loads(capsys.readouterr().out)["meters"]
    assert len(meters) >= 4
    assert all(m["works"] or m["why_not"] for m in meters)
