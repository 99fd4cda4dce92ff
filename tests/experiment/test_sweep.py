"""A search whose trials are whole runs."""

import dataclasses

import pytest

from metas_peft.cli.sweep import _evaluate, show
from metas_peft.conf import values
from metas_peft.core.files import read_json
from metas_peft.report.scalars import scalars
from metas_peft.search import Worker, open_search, summarise

SPACE = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}


def test_search_over_runs_is_judged_on_the_held_out_examples(settings, tmp_path, capsys):
    config = values.replace(
        settings("optuna.n_trials=2", f"output_dir={tmp_path}", run_id="searched"),
        {"optuna.search_space": {name: {**span, "choices": []} for name, span in SPACE.items()}},
    )
    search = open_search(dataclasses.replace(config, given=config.given - {"evaluation.baselines"}))
    assert Worker(search, _evaluate).run() == 2
    summary = summarise(search)
    show(summary)
    assert "learning_rate" in capsys.readouterr().out
    folders = sorted((search.folder / "trials").iterdir())
    assert len(folders) == 2
    for folder, trial in zip(folders, summary["trials"], strict=True):
        results = read_json(folder / "results.json")
        assert results["evaluation_split"] == "holdout"
        assert results["n_validation"] == 9  # a tenth of the 90 training examples
        assert results["baselines"] == {}
        assert trial["values"]["hypervolume"] == scalars(results)["hypervolume"]
    # The best one keeps its models, the other one its results.
    assert sum((folder / "models").is_dir() for folder in folders) == 1


def test_volume_is_measured_from_the_dense_quality_that_is_asked_for(main_run):
    results = read_json(main_run / "results.json")
    own = results["dense"]["quality"]
    assert scalars(results, own)["hypervolume"] == pytest.approx(results["hypervolume"]["useful"], rel=1e-9)
    best = max(m["quality"] for m in results["front"])
    assert scalars(results, best + 0.06)["hypervolume"] == 0.0  # every member lies below the floor
    assert scalars(results, best - 0.2)["hypervolume"] > scalars(results, best)["hypervolume"] > 0


def test_scalars_are_those_of_the_best_and_the_cheapest_member(main_run):
    results = read_json(main_run / "results.json")
    found = scalars(results)
    assert found["quality"] == max(m["quality"] for m in results["front"])
    assert found["energy_j"] == min(m["energy_j"] for m in results["front"])
    assert found["hypervolume"] == results["hypervolume"]["useful"]
    assert all(value is not None for value in found.values())
