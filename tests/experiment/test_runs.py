"""Runs that are repeated, interrupted, refused or of another method."""

import json
import re
import shutil
from pathlib import Path

import pytest

from metas_peft import devices, experiment
from metas_peft.cli.results import show_results
from metas_peft.conf import METHODS as METHOD_TABLE
from metas_peft.conf.compose import load
from metas_peft.core.errors import BudgetInfeasibleError, CheckpointError, TrainingDivergedError, UsageError
from metas_peft.core.files import read_json
from metas_peft.experiment.stages import Stages
from metas_peft.report import write_report

from .conftest import numbers, results_of

STAGES = [
    "surrogate", "calibrate-pixel-8", "dense", "tune-MetaS-PEFT", "tune-EChorda", "tune-static-lora", "tune-drop-top",
    "dense-model", "evaluate", "measure-pixel-8", "controller", "calibrate-jetson-nano", "measure-jetson-nano",
]  # fmt: skip


class Interrupted(Exception):
    """What a test raises where a user would press a key."""


def test_stages_of_a_run_are_known(main_run):
    marks = {p.stem for p in (main_run / "stages").glob("*.json")} - {"settings"}
    assert marks == set(STAGES)


def test_members_carry_tokeniser_and_names_of_classes(main_run):
    from transformers import AutoTokenizer, pipeline

    import metas_peft
    from metas_peft.tasks import load_task

    names = load_task("builtin").label_names
    folders = [*(main_run / "models").iterdir(), *(main_run / "dense" / "models").iterdir()]
    assert len(folders) == 4
    for folder in folders:
        model = metas_peft.load(folder)
        assert tuple(model.config.id2label.values()) == tuple(names)
        answer = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
        assert answer("a fine film")[0]["label"] in names


def test_same_settings_in_another_folder_give_the_same_numbers(main_run, settings, tmp_path):
    again = experiment.run(settings("retarget=[jetson-nano]"), tmp_path / "again", progress=False)
    assert numbers(results_of(again)) == numbers(results_of(main_run))
    for file in (main_run / "models").glob("*/*.safetensors"):
        assert (again / "models" / file.parent.name / file.name).read_bytes() == file.read_bytes()
    assert (again / "controller.json").read_text() == (main_run / "controller.json").read_text()
    assert (again / "adapter" / "adapter_model.safetensors").read_bytes() == (
        main_run / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_run_interrupted_in_every_stage_gives_the_same_numbers(main_run, settings, tmp_path, monkeypatch):
    """Each stage is stopped once when all its files are written but its mark is not: the worst moment."""
    config, folder = settings("retarget=[jetson-nano]"), tmp_path / "interrupted"
    run_stage, reached = Stages.run, []

    def stopping(self, name, compute, **how):
        def stopped(path):
            compute(path)
            reached.append(name)
            raise Interrupted(name)

        return run_stage(self, name, compute if name in reached else stopped, **how)

    monkeypatch.setattr(Stages, "run", stopping)
    for _ in STAGES:
        with pytest.raises(Interrupted):
            experiment.run(config, folder, progress=False)
        assert not (folder / "results.json").exists()
    experiment.run(config, folder, progress=False)
    assert reached == STAGES
    assert numbers(results_of(folder)) == numbers(results_of(main_run))


def test_finished_run_is_found_done(main_run, settings, monkeypatch):
    before = (main_run / "results.json").read_text()

    def refuse(self, name, compute, **how):
        mark = read_json(self._folder / f"{name}.json")
        self.seconds[name] = mark["seconds"]
        return self._folder / name, mark["facts"]

    monkeypatch.setattr(Stages, "run", refuse)
    experiment.run(settings("retarget=[jetson-nano]"), main_run, progress=False)
    after = json.loads((main_run / "results.json").read_text())
    assert numbers(after) == numbers(json.loads(before))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.path_steps=17", "training.path_steps was 16, is 17"),
        ("dataset.train_limit=91", "dataset.train_limit was 90, is 91"),
        ("device=iphone-15", "device was pixel-8, is iphone-15"),
        ("training.seed=1", "training.seed was 0, is 1"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_key(main_run, settings, override, key):
    before = (main_run / "results.json").read_bytes()
    with pytest.raises(UsageError, match=key):
        experiment.run(settings("retarget=[jetson-nano]", override), main_run, progress=False)
    assert (main_run / "results.json").read_bytes() == before


def test_folder_may_be_moved_and_renamed(main_run, settings, tmp_path):
    moved = shutil.copytree(main_run, tmp_path / "elsewhere")
    experiment.run(settings("retarget=[jetson-nano]", f"output_dir={tmp_path}"), moved, progress=False)
    assert numbers(results_of(moved)) == numbers(results_of(main_run))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("stages/dense/trained.safetensors", "absent"),
        ("stages/dense/trained.safetensors", "cut"),
        ("stages/evaluate/answers.npz", "absent"),
        ("stages/evaluate/answers.npz", "cut"),
        ("stages/dense.json", "cut"),  # absent, it means that the stage was not finished
        ("surrogate.safetensors", "absent"),
        ("surrogate.safetensors", "cut"),
    ],
)
def test_damaged_file_of_a_finished_stage_is_named(main_run, settings, tmp_path, file, damage):
    copy = shutil.copytree(main_run, tmp_path / "damaged")
    data = (copy / file).read_bytes()
    (copy / file).unlink()
    if damage == "cut":
        (copy / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=file.rpartition("/")[2].replace(".", r"\.")):
        experiment.run(settings("retarget=[jetson-nano]"), copy, progress=False)


def test_loss_that_is_no_number_leaves_no_results_and_no_mark(settings, tmp_path):
    config = settings("evaluation.baselines=[]", "training.learning_rate=1e30", "training.lr_scheduler=constant",
                      "training.warmup_ratio=0")  # fmt: skip
    with pytest.raises(TrainingDivergedError, match="The loss became"):
        experiment.run(config, tmp_path / "run", progress=False)
    found = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert found == {
        "config.yaml", "surrogate.safetensors", "stages/settings.json", "stages/surrogate.json",
        "stages/calibrate-pixel-8.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "members", "measured"),
    [
        (("method=static-lora",), ["dense"], 0),
        (("method=baseline",), ["dense"], 0),
        (("method=drop-top",), ["2 of 3 layers", "1 of 3 layers"], 0),
        (("method=EChorda", "hardware_profiling.real_measurements_required=30"), ["80 %", "50 %", "30 %"], 30),
        (("method=DiGASE",), ["80 %", "50 %", "30 %"], 0),
        (("front=gates", "model.gating.granularity=[layer,head,ffn_block]"), ["80 %", "50 %", "30 %"], 5),
        (("method=ablation-no-calibration",), ["80 %", "50 %", "30 %"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_method_runs_from_a_file_to_results(run, settings, capsys, overrides, members, measured):
    folder = run("evaluation.baselines=[]", *overrides)
    results = results_of(folder)
    name = next((o.partition("=")[2] for o in overrides if o.startswith("method=")), "MetaS-PEFT")
    assert results["method"] == METHOD_TABLE[name].label
    assert [m["name"] for m in results["front"]] == members
    assert results["measurements"] == {
        "training": 0, "calibration": measured, "evaluation": len({m["key"] for m in results["front"]} | {"dense"})
        - (members == ["dense"]),
    }  # fmt: skip
    assert all(m["masked_vs_compact"] < 1e-4 for m in results["front"])
    assert (results["surrogate"] is None) == (METHOD_TABLE[name].cost_term != "surrogate")
    assert (results["calibration"] is None) == (results["surrogate"] is None)
    assert (folder / "adapter").exists() == (name != "baseline")
    assert results["adapter_bytes"] is not None or name == "baseline"
    show_results(write_report(folder).parent, results, settings("evaluation.baselines=[]", *overrides).evaluation)
    shown = capsys.readouterr().out
    assert all(member in shown for member in members)
    assert f"{measured} for calibration" in shown


def test_full_fine_tuning_trains_what_adapters_leave_alone(run):
    from safetensors.torch import load_file

    whole = load_file(run("evaluation.baselines=[]", "method=baseline") / "stages" / "dense" / "trained.safetensors")
    adapters = load_file(run("evaluation.baselines=[]", "method=static-lora") / "stages/dense/trained.safetensors")
    assert any("word_embeddings" in name for name in whole)
    assert not any("word_embeddings" in name for name in adapters)


def test_device_file_can_be_the_target(run, tmp_path_factory):
    catalogue = Path(devices.__file__).parent / "catalogue"
    text = (catalogue / "jetson-nano.yaml").read_text().replace("jetson-nano", "my-board")
    board = tmp_path_factory.mktemp("boards") / "my-board.yaml"
    board.write_text(re.sub(r"^aliases:.*\n(?:[ -].*\n)*", "aliases: []\n", text, flags=re.MULTILINE))
    pool = "surrogate.meta_training_devices=[rtx-a6000,jetson-orin-nx,macbook-m2,iphone-15,raspberry-pi-4]"
    results = results_of(run("evaluation.baselines=[]", f"device={board}", pool))
    assert results["target_device"] == "my-board"
    assert results["measurements"]["calibration"] == 5
    assert results["surrogate_error"]["against"] == "noise-free simulator"


def test_device_is_carried_over_to_once_and_the_target_not_at_all(run):
    results = results_of(run("evaluation.baselines=[]", "retarget=[Pixel-8-TPU,jetson-nano,Jetson_Nano]"))
    assert list(results["retargets"]) == ["jetson-nano"]
    assert results["measurements"]["calibration"] == 5
    assert sum(r["count"] for r in results["ledger"] if r["device"] == "jetson-nano") == 5 + 4


@pytest.mark.parametrize(
    ("file", "method", "measured"),
    [
        ("proposed-iter1-Llama-2-7B-SST-2.yaml", "MetaS-PEFT", 5),
        ("comparative-1-iter1-Llama-2-7B-SST-2.yaml", "EChorda-style", 200),
        ("baseline_bert_imdb.yaml", "full fine-tuning", 0),
    ],
)
def test_run_file_of_the_source_runs_with_overrides_only(file, method, measured, backbone, surrogate_file, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    config = load(Path(__file__).parents[1] / "data" / "runs" / file, [
        f"model.name={backbone}", "dataset.name=sst2", "dataset.source=builtin", "dataset.train_limit=80",
        "dataset.evaluation_limit=30", "dataset.max_length=24", "training.num_epochs=1", "training.gate_steps=3",
        "training.joint_steps=1", "controller.inputs=20", "evaluation.baselines=[]", "evaluation.seq_len=24",
        f"surrogate.checkpoint_path={surrogate_file}", "model.hidden_size=null", "model.num_layers=null",
        f"hardware_profiling.measurement_cache_dir={in_the_way}/profiles",
    ])  # fmt: skip
    folder = experiment.run(config, tmp_path / "run", progress=False)
    results = results_of(folder)
    assert results["method"] == method
    assert results["measurements"] == {"training": 0, "calibration": measured, "evaluation": len(
        {m["key"] for m in results["front"]} | {"dense"}) - (method == "full fine-tuning")}  # fmt: skip
    assert all(m["masked_vs_compact"] < 1e-4 for m in results["front"])
    assert (folder / "gates.safetensors").exists() == (method != "full fine-tuning")
    if measured == 200:
        # A cache folder that cannot be written is replaced by the run's own, and the report says so.
        assert any("cannot be written" in note for note in results["notes"])
        (kept,) = (folder / "profiles").glob("*.json")
        assert len(json.loads(kept.read_text())) == 200


def test_budget_is_met_by_a_member_or_refused_before_training(settings, main_run, tmp_path):
    limit = 0.9 * results_of(main_run)["dense"]["predicted"]["latency_ms"]
    config = settings("budgets.mode=meet", f"budgets.latency_ms={limit}", "evaluation.baselines=[]")
    results = results_of(experiment.run(config, tmp_path / "met", progress=False))
    (chosen,) = [note for note in results["notes"] if "predicted to hold the budgets has" in note]
    size = float(re.search(r"has ([\d.]+) %", chosen)[1]) / 100
    held = [m for m in results["front"] if m["predicted"]["latency_ms"] <= limit]
    assert max(m["flops_fraction"] for m in held) == pytest.approx(size, rel=0.01)
    impossible = settings("budgets.mode=meet", "budgets.latency_ms=0.001")
    with pytest.raises(BudgetInfeasibleError, match="the least predicted is"):
        experiment.run(impossible, tmp_path / "no", progress=False)
    assert not (tmp_path / "no" / "stages" / "dense").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budgets.mode=meet"], "there is no budget"),
        (["budgets.mode=meet", "budgets.latency_ms=5", "method=drop-top"], "a method that predicts costs"),
        (["budgets.mode=meet", "budgets.latency_ms=5", "method=MetaS-PEFT-as-described"], "as its source describes it"),
    ],
)
def test_budget_mode_that_cannot_work_is_refused(settings, tmp_path, overrides, message):
    with pytest.raises(UsageError, match=message):
        experiment.run(settings(*overrides), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
