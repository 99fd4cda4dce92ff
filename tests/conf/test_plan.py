"""Matrices of runs: names, settings, and what the source's own files say."""

from pathlib import Path

import pytest

from metas_peft.conf import METHODS, values, yaml12
from metas_peft.conf.compose import load
from metas_peft.conf.plan import plan, read_plan, role, write_plan
from metas_peft.conf.runfile import read_run
from metas_peft.core.errors import OutputError, RunFileError, UnknownKeyError, UnknownNameError

RUNS = Path(__file__).parent.parent / "data" / "runs"
SOURCE = {"methods": ["proposed", "comparative-1"], "backbones": ["Llama-2-7B"], "tasks": ["SST-2"]}
# What the written files leave out of the source's, and why that is right.
DIFFERENCES = {
    "model.architecture_notes": "free text about one backbone, which no matrix can know; it changes nothing in a run",
}


def flat(data, prefix=""):
    """Dotted path -> value."""
    found = {}
    for name, value in data.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_plan_reproduces_the_names_and_settings_of_the_sources_files(index, tmp_path):
    files = sorted(f for f in RUNS.glob("*.yaml") if "Llama" in f.name)
    paths = sorted(write_plan(plan(SOURCE), tmp_path, spec="study.yaml"))
    assert [p.name for p in paths] == [f.name for f in files]
    theirs = flat(dict(read_run(str(files[index])).data))
    ours = flat(dict(read_run(str(paths[index])).data))
    assert len(ours) > 40
    assert set(theirs) - set(ours) == set(DIFFERENCES)
    assert ours == {path: value for path, value in theirs.items() if path not in DIFFERENCES}
    for path, why in DIFFERENCES.items():
        assert path in theirs
        assert why


def test_plan_keeps_the_order_of_the_sources_files(tmp_path):
    (path,) = write_plan(plan(SOURCE | {"methods": ["proposed"]}), tmp_path, spec="study.yaml")
    theirs = list(yaml12.read(RUNS / path.name).data)
    assert list(yaml12.read(path).data) == theirs


def test_every_method_has_a_run_file_that_loads():
    cells = plan(SOURCE | {"methods": list(METHODS)})
    assert len(cells) == len(METHODS) == 22
    assert {c.method for c in cells} == set(METHODS)


def test_repetitions_differ_in_their_seed_alone():
    first, third = plan(SOURCE | {"methods": ["DiGASE"], "iterations": [1, 3]})
    assert (first.name, third.name) == ("comparative-2-iter1-Llama-2-7B-SST-2", "comparative-2-iter3-Llama-2-7B-SST-2")
    different = {k: v for k, v in flat(third.data).items() if flat(first.data)[k] != v}
    assert different == {"run_id": third.name, "training.seed": 44}


def test_settings_beside_an_entry_beat_those_of_all():
    spec = {
        "methods": ["proposed", {"name": "EChorda", "training": {"learning_rate": 3e-4}}],
        "backbones": [{"name": "minilm", "precision": "float32"}],
        "tasks": [{"name": "CoLA", "batch_size": 32}, "sst2"],
        "device": "raspberry-pi-4",
        "settings": {"training": {"lr": 1e-3}, "dataset": {"batch_size": 64}},
    }
    cells = {(c.method, c.task): c.data for c in plan(spec)}
    assert len(cells) == 4
    assert cells["EChorda", "CoLA"]["training"]["learning_rate"] == 3e-4
    assert cells["MetaS-PEFT", "CoLA"]["training"]["learning_rate"] == 1e-3
    assert [cells["MetaS-PEFT", task]["dataset"]["batch_size"] for task in ("CoLA", "sst2")] == [32, 64]
    assert cells["EChorda", "sst2"]["hardware_profiling"]["target_device"] == "raspberry-pi-4"
    assert cells["EChorda", "CoLA"]["dataset"]["source"] == "huggingface:nyu-mll/glue"
    assert all(data["model"]["precision"] == "float32" for data in cells.values())


@pytest.mark.parametrize(
    ("method", "called"),
    [
        ("metas", "proposed"),
        ("static-lora", "comparative-3"),
        ("full", "baseline"),
        ("ablation-no-meta", "ablation-no-meta"),
    ],
)
def test_role_of_a_method_names_its_files(method, called):
    assert role(method) == called


def test_range_of_a_study_can_be_replaced_by_any_name_of_its_key():
    space = {
        "r": {"type": "categorical", "choices": [4, 8]},
        "training.learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-3},
        "lambda_energy": {"high": 2.0},
    }
    cell = plan({**SOURCE, "settings": {"optuna": {"search_space": space}}})[0]
    found = cell.data["optuna"]["search_space"]
    assert found["r"] == space["r"]
    assert "learning_rate" not in found
    assert found["lambda_energy"] == {"type": "loguniform", "low": 0.1, "high": 2.0}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": ["proposed"]}, UnknownKeyError, "unknown key 'method' of a matrix; did you mean 'methods'"),
        ({"methods": []}, RunFileError, "methods expects a list of names"),
        ({"methods": ["EChordia"]}, UnknownNameError, "did you mean 'EChorda'"),
        ({"tasks": ["SST-2", "SST-2"]}, RunFileError, "Two cells"),
        ({"iterations": 0}, RunFileError, "iterations expects"),
        ({"settings": {"training": {"epoch": 1}}}, UnknownKeyError, r"training.num_epochs"),
        ({"backbones": [{"name": "minilm", "rank": 1}]}, UnknownKeyError, "model.peft.r"),
        ({"device": "pixel-9000"}, UnknownNameError, "pixel-8"),
    ],
)
def test_mistakes_in_a_matrix_are_named(change, error, words):
    with pytest.raises(error, match=words):
        plan(SOURCE | change)


def test_mistake_in_a_matrix_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("methods: [proposed]\nbackbones: [minilm]\ntasks: [sst2]\nsettings:\n  training:\n    epoch: 1\n")
    with pytest.raises(UnknownKeyError, match=r"study.yaml, line 6: .*num_epochs"):
        read_plan(path)


def test_files_that_say_something_else_are_not_replaced(tmp_path):
    cells = plan(SOURCE)
    write_plan(cells, tmp_path, spec="a.yaml")
    write_plan(cells, tmp_path, spec="a.yaml")  # the same again is no conflict
    other = plan(SOURCE | {"settings": {"training": {"num_epochs": 1}}})
    with pytest.raises(OutputError, match="--force"):
        write_plan(other, tmp_path, spec="a.yaml")
    paths = write_plan(other, tmp_path, spec="a.yaml", force=True)
    assert all(load(path).training.num_epochs == 1 for path in paths)
    assert values.to_dict(load(paths[0]))["run_id"] == "proposed-iter1-Llama-2-7B-SST-2"
