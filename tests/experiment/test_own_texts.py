"""A run on a set of the user's own: named classes in a file with columns of its own names."""

import json

import metas_peft
from metas_peft import experiment
from metas_peft.tasks import load_task

from .conftest import results_of


def test_set_of_ones_own_is_run_and_named(settings, tmp_path):
    texts = load_task("builtin").train.texts[:120]
    path = tmp_path / "reviews.jsonl"
    kinds = ("short", "long")  # the tiny backbone has a head for two
    median = sorted(map(len, texts))[len(texts) // 2]
    rows = [{"review": t, "kind": kinds[len(t) > median]} for t in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("dataset.text_column=review", "dataset.label_column=kind")
    config = settings("dataset.name=reviews", f"dataset.path={path}", *columns, "evaluation.baselines=[]")
    folder = experiment.run(config, tmp_path / "run", progress=False)
    results = results_of(folder)
    assert (results["task"], results["task_origin"], results["quality_metric"]) == ("reviews", "real", "accuracy")
    member = next((folder / "models").iterdir())
    assert tuple(metas_peft.load(member).config.id2label.values()) == tuple(sorted({r["kind"] for r in rows}))
