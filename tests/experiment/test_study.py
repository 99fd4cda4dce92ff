"""The scripts of the source's study, with a tiny backbone and next to no data: they run, go on and summarise."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml

from metas_peft.conf.compose import load
from metas_peft.conf.plan import read_plan
from metas_peft.conf.runfile import RunFile
from metas_peft.search import Worker, open_search
from metas_peft.tasks.metrics import confusion, matthews_scores

from .conftest import SMALL

STUDY = Path(__file__).parent.parent.parent / "benchmarks" / "study"


def script(name):
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDY / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(backbone, tmp_path, surrogate_file):
    small = [o for o in SMALL if "model.peft.r" not in o]
    return ["--output", str(tmp_path / "out"), "--record", str(tmp_path / "record"), f"model.name={backbone}",
            "dataset.source=null", f"surrogate.checkpoint_path={surrogate_file}", *small]  # fmt: skip


PRICED = {"EChorda", "DiGASE", "static-lora"}


@pytest.mark.parametrize(
    ("matrix", "dataset", "seeds", "fair"),
    [
        ("sst2", "sst2", 5, {*PRICED, "uniform-width", "drop-top", "drop-alternate"}),
        ("described", "sst2", 2, {*PRICED, "uniform-width", "drop-top", "drop-alternate"}),
        ("cola", "cola", 3, PRICED),
    ],
)
def test_matrices_have_the_seeds_and_rivals_of_the_study(matrix, dataset, seeds, fair):
    cells = read_plan(STUDY / f"{matrix}.yaml")
    configs = [load(RunFile(c.name, c.data)) for c in cells]
    assert [(c.dataset.name, c.training.seed) for c in configs] == [(dataset, seed) for seed in range(seeds)]
    for config in configs:
        assert (config.front, config.target, config.retarget) == ("nested", "pixel-8", ("local",))
        described = {b for b in config.evaluation.baselines if b.endswith("-as-described")}
        assert set(config.evaluation.baselines) - described == fair
        assert len(described) == (4 if matrix == "described" else 0)
        assert (config.dataset.train_limit, config.budgets.energy_j) == (7000, None)


def test_one_run_is_compared_with_twenty_members_alone_and_adalora():
    (cell,) = read_plan(STUDY / "one_run.yaml")
    config = load(RunFile(cell.name, cell.data))
    assert len(config.evaluation.operating_points) == 20
    assert config.evaluation.baselines == ("MetaS-PEFT-apart", "AdaLoRA")


def test_study_of_methods_is_summarised_and_not_repeated(arguments, tmp_path, monkeypatch):
    methods = script("methods")
    matrix = yaml.safe_load((STUDY / "cola.yaml").read_text()) | {"tasks": ["builtin"], "iterations": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(matrix))
    asked = [str(tmp_path / "tiny.yaml"), *arguments, "retarget=[]", "evaluation.operating_points=[0.8, 0.4]",
             "hardware_profiling.real_measurements_required=20"]  # fmt: skip
    methods.main(asked)
    summary = json.loads((tmp_path / "record" / "study_tiny_with_overrides.json").read_text())
    assert (summary["finished"], summary["planned"]) == (2, 2)
    (cell,) = summary["comparison"]["cells"]
    assert {m["method"] for m in cell["methods"]} == {"MetaS-PEFT", "EChorda-style", "DiGASE-style", "static LoRA"}
    assert all(m["seeds"] == [0, 1] for m in cell["methods"])
    assert [m["measurements"] for m in cell["methods"]] == [5, 0, 20, 0]
    for point, methods_there in summary["at_points"].items():
        assert set(methods_there) == {"MetaS-PEFT", "EChorda", "DiGASE"}  # the whole model is inside no point
        rival = methods_there["DiGASE"]
        own = methods_there["MetaS-PEFT"]
        assert max(rival["flops_fraction"], own["flops_fraction"]) <= float(point)
        gain = rival["better_by"]
        assert gain["metric"] == "accuracy"
        assert gain["mean"] == pytest.approx(own["mean_quality"] - rival["mean_quality"])
        assert gain["low"] <= gain["mean"] <= gain["high"]
    verdicts = {h["verdict"] for h in summary["hypotheses"]}
    assert verdicts <= {"confirmed", "refuted", "undecided", "not testable here"}
    assert len(summary["hypotheses"]) == 7
    kept = sorted((tmp_path / "record" / "study_with_overrides" / "tiny").glob("*/*"))
    assert [path.name for path in kept] == 2 * ["answers.npz", "config.yaml", "results.json"]
    shutil.rmtree(tmp_path / "out")  # another machine
    monkeypatch.setattr(methods.experiment, "run", None)  # nothing is run again
    methods.main(asked)
    with pytest.raises(SystemExit, match=r"was run with other settings \(training changed\)"):
        methods.main([*asked, "training.joint_steps=1"])


@pytest.fixture
def matthews_runs(tmp_path):
    """Two kept cells of CoLA: three sentences in four are right ones, and the rival calls all of them right."""
    rng = np.random.default_rng(0)
    folders = []
    for seed in range(2):
        labels = (np.arange(200) % 4 > 0).astype(int)
        ours = np.where(rng.random(200) < 0.2, 1 - labels, labels)
        answers = {"labels": labels, "dense": labels[None], "MetaS-PEFT": ours[None], "EChorda": np.ones((1, 200), int)}
        quality = {n: matthews_scores(confusion(answers[n][0], labels, 2)) for n in ("MetaS-PEFT", "EChorda")}
        fronts = {
            n: [{"quality": s["matthews_correlation"], "flops_fraction": 0.5}] for n, s in quality.items()
        }  # fmt: skip
        folders.append(tmp_path / str(seed))
        folders[-1].mkdir()
        np.savez(folders[-1] / "answers.npz", **answers)
        (folders[-1] / "results.json").write_text(json.dumps({
            "quality_metric": "matthews_correlation", "front": fronts["MetaS-PEFT"],
            "baselines": {"EChorda": {"front": fronts["EChorda"]}},
        }))  # fmt: skip
    return folders


def test_gain_at_a_point_is_of_the_headline_metric(matthews_runs):
    (found,) = script("methods").at_points(matthews_runs, [0.5]).values()
    gain = found["EChorda"]["better_by"]
    assert gain["metric"] == "matthews_correlation"
    assert gain["mean"] == pytest.approx(found["MetaS-PEFT"]["mean_quality"] - found["EChorda"]["mean_quality"])
    assert 0.3 < gain["low"] < gain["mean"] < gain["high"]  # of accuracy it is about 0.05


def test_gain_is_left_out_where_the_metric_cannot_be_drawn_again():
    rows = [np.zeros(4), np.zeros(4)]
    assert script("methods").gain(rows, rows, rows, "perplexity") is None


def compared(device="pixel-8", measurements=200):
    """A cell of a comparison, as far as parity looks at it."""
    counts = {"MetaS-PEFT": 5, "EChorda-style": measurements}
    return {
        "task": "sst2", "device": device, "origin": dict.fromkeys(("energy_j", "latency_ms"), ["simulated"]),
        "methods": [{"method": name, "measurements": count} for name, count in counts.items()],
        "pairs": [{"theirs": "EChorda-style", "ratio": {"value": 1.03, "low": 0.99, "high": 1.1}}],
    }  # fmt: skip


def finished():
    """What a finished run says of its surrogate."""
    origin = {"energy": "simulated", "latency": "simulated", "power": "simulated"}
    local = {"energy": "modelled", "latency": "measured", "power": "modelled"}
    errors = {"energy": 1.0, "latency": 2.0, "power": 3.0, "against": "measurement"}
    return {
        "target_device": "pixel-8", "controller": None, "dense": {"origin": origin}, "surrogate_error": errors,
        "retargets": {"local": {"dense": {"origin": local}, "surrogate_error": errors}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("measurements", "sentence", "verdict"),
    [(200, "reaches with 200.", "confirmed"), (20, "reaches with 20.", "confirmed"),
     (None, "reaches with an unknown number.", "not testable here")],
)  # fmt: skip
def test_parity_is_with_the_measurements_that_the_rival_made(measurements, sentence, verdict):
    found = script("methods").parity(compared(measurements=measurements), is_whole=True)
    assert found["hypothesis"].endswith(sentence)
    assert "pixel-8 (simulated): 5 target measurements" in found["hypothesis"]
    assert found["verdict"] == verdict


def test_parity_is_looked_at_only_where_the_rival_measured():
    found = script("methods").hypotheses([compared("local", 0), compared()], [finished()], is_whole=True)
    assert [h["hypothesis"][:13] for h in found if "the volume that EChorda" in h["hypothesis"]] == ["sst2, pixel-8"]


@pytest.mark.parametrize(
    ("device", "metric", "verdict", "why"),
    [
        ("pixel-8", "energy", "not testable here", "simulator"),
        ("pixel-8", "latency", "not testable here", "simulator"),
        ("local", "energy", "not testable here", "modelled"),
        ("local", "latency", "undecided", "Measured"),
        ("local", "power", "not testable here", "modelled"),
    ],
)
def test_errors_of_the_surrogate_are_judged_only_where_they_are_measured(device, metric, verdict, why):
    found = script("methods").hypotheses([], [finished()], is_whole=True)
    said = next(h for h in found if f"{metric} error" in h["hypothesis"] and device in h["hypothesis"])
    assert (said["verdict"], why in said["because"]) == (verdict, True)
    assert said["found"]["mean_percent"] > 0  # the number stays


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [([2.0, 2.1, 2.2], "confirmed"), ([4.0, 4.1, 4.2], "refuted"), ([5.8, 3.4, 0.5, 1.4, 1.3], "undecided")],
)
def test_interval_over_seeds_judges_an_error_and_not_its_mean(errors, verdict):
    runs = [finished() for _ in errors]
    for run, error in zip(runs, errors, strict=True):
        run["retargets"]["local"]["surrogate_error"] = {"latency": error, "against": "measurement"}
    found = script("methods").hypotheses([], runs, is_whole=True)
    said = next(h for h in found if "latency error" in h["hypothesis"] and "(local)" in h["hypothesis"])
    assert said["verdict"] == verdict
    expected = scipy.stats.t.interval(0.95, len(errors) - 1, np.mean(errors), scipy.stats.sem(errors))
    assert [said["found"]["low"], said["found"]["high"]] == pytest.approx([max(0, expected[0]), expected[1]])


@pytest.mark.parametrize(
    ("source", "kept"), [("local:/home/me/data/sst2", "local:sst2"), ("SetFit/sst2", "SetFit/sst2"), ("", "")]
)
def test_record_does_not_say_where_somebody_keeps_the_data(source, kept):
    assert script("methods").without_folder(source) == kept


def test_source_searches_are_summarised(arguments, tmp_path):
    searches = script("searches")
    changed = [a for a in arguments if not a.startswith(("training.num_epochs", "dataset.batch_size"))]
    searches.main([*changed[:4], "--trials", "1", *changed[4:], "training.num_epochs=1", "model.peft.r=2",
                   "hardware_profiling.real_measurements_required=20"])  # fmt: skip
    found = json.loads((tmp_path / "record" / "study_searches_with_overrides.json").read_text())["searches"]
    assert set(found) == set(searches.FILES)
    for summary in found.values():
        assert summary["states"]["complete"] == 1
        assert summary["collapse"]["its_cheapest_member"]["origin"]["energy"] == "simulated"
    ours, theirs = searches.FILES
    assert len(lines := (tmp_path / "record" / "study_searches_with_overrides.jsonl").read_text().splitlines()) == 2
    assert {json.loads(line)["search"] for line in lines} == {ours, theirs}
    assert found[theirs]["objectives"] == {"energy_j": "minimize"}
    assert len(found[ours]["best"][0]["params"]) == 8


def test_searches_go_on_from_their_record_on_another_machine(tmp_path):
    searches = script("searches")
    search = open_search(load(searches.RUNS / "proposed-iter1-Llama-2-7B-SST-2.yaml", [
        *searches.SCALE, f"output_dir={tmp_path / 'elsewhere'}", "optuna.n_trials=5"
    ]))  # fmt: skip
    rows = [
        {
            "search": "ours", "number": number, "values": [number / 10], "settings": searches.settings_of(search),
            "params": {path: d.choices[0] if hasattr(d, "choices") else d.low for path, d in search.space.items()},
        }
        for number in (0, 1, 3)  # the worker of trial 2 was cut off
    ]  # fmt: skip
    path = tmp_path / "record.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = searches.Record(path, tmp_path / "lock")
    record.bring_back(search, "ours")
    record.bring_back(search, "ours")  # of no effect: the study has trials
    assert {t.number: t.values for t in search.trials() if t.values} == {r["number"]: r["values"] for r in rows}
    ran = []

    def evaluate(config, folder):
        ran.append(folder.name)
        dense = {"quality": 0.9, "energy_j": 1.0}
        results = {"seconds": {"total": 7.0}, "dense": dense, "chance_quality": 0.5, "front": []}
        (folder / "results.json").write_text(json.dumps(results))
        return {"hypervolume": 0.5}

    Worker(search, evaluate).run()
    assert ran == ["trial-0002", "trial-0004"]
    record.note(search, "ours")
    assert {row["number"]: row["values"] for row in record.rows("ours")} == {
        0: [0.0], 1: [0.1], 2: [0.5], 3: [0.3], 4: [0.5]
    }  # fmt: skip
    assert [row["seconds"] for row in record.rows("ours") if row["number"] in (2, 4)] == [7.0, 7.0]


def test_trials_of_other_settings_do_not_come_back(tmp_path):
    searches = script("searches")
    options = [*searches.SCALE, f"output_dir={tmp_path}", "optuna.n_trials=2"]
    search = open_search(load(searches.RUNS / "proposed-iter1-Llama-2-7B-SST-2.yaml", options))
    (tmp_path / "record.jsonl").write_text(json.dumps({"search": "ours", "number": 0, "settings": "others"}) + "\n")
    with pytest.raises(SystemExit, match=r"trials \[0\] of ours with other settings"):
        searches.Record(tmp_path / "record.jsonl", tmp_path / "lock").bring_back(search, "ours")
    assert not search.trials()
