"""What every task promises, asked of all of them."""

import subprocess
import sys

import pytest

from metas_peft.core.errors import DatasetError, UnknownNameError
from metas_peft.tasks import TASKS, DatasetRequest, Task, TaskData, TextExamples, load_task
from metas_peft.tasks.classification import TextClassification

NAMES = ["builtin", "cola", "imdb", "sst2"]  # of classes; test_prompts.py asks those of prompts and answers
PROMPTS = ["alpaca-cleaned", "dolly-15k", "gsm8k", "math", "natural_instructions"]
HEADLINES = {"builtin": "accuracy", "cola": "matthews_correlation", "imdb": "accuracy", "sst2": "accuracy"}


@pytest.fixture(params=NAMES)
def task(request) -> Task:
    return TASKS[request.param]


@pytest.fixture
def loaded(task, tmp_path, write_parquet) -> TaskData:
    """The task's data: its own, or four rows in a folder for those that read files."""
    if not isinstance(task, TextClassification):
        return load_task(task.name)
    write_parquet(tmp_path / task.name / "train.parquet")
    write_parquet(tmp_path / task.name / f"{task.evaluation[0]}.parquet")
    return load_task(task.name, path=tmp_path)


def test_registry_holds_exactly_these():
    assert sorted(TASKS) == sorted([*NAMES, *PROMPTS])


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("SST-2", "sst2"),
        ("stanfordnlp/sst2", "sst2"),
        ("SetFit/sst2", "sst2"),
        ("synthetic", "builtin"),
        ("CoLA", "cola"),
        ("Natural-Instructions", "natural_instructions"),
        ("openai/gsm8k", "gsm8k"),
        ("yahma/alpaca-cleaned", "alpaca-cleaned"),
        ("databricks-dolly-15k", "dolly-15k"),
    ],
)
def test_registry_knows_other_spellings(alias, name):
    assert TASKS.resolve(alias) == name


def test_registry_names_the_nearest_task():
    with pytest.raises(UnknownNameError, match="did you mean 'sst2'"):
        load_task("sst3")


def test_task_has_labels_in_range_and_a_headline(task, loaded):
    assert loaded.quality_metric == HEADLINES[task.name]
    assert 0 <= loaded.chance_quality <= 1
    for part in (loaded.train, loaded.holdout, loaded.validation):
        assert len(part)
        assert set(part.labels) <= set(range(len(loaded.label_names)))


def test_task_scores_the_headline_first_and_one_when_all_is_right(task, loaded):
    scores = task.score(loaded.validation.labels, loaded.validation.labels)
    assert next(iter(scores.items())) == (loaded.quality_metric, 1.0)


def test_task_refuses_to_score_nothing(task):
    with pytest.raises(DatasetError, match="one index per example"):
        task.score([], [])


def test_task_loads_the_same_twice(task, loaded):
    if task.name == "builtin":
        assert load_task(task.name) == loaded
    assert not set(loaded.train.texts) & set(loaded.holdout.texts)


def test_examples_refuse_texts_without_labels():
    with pytest.raises(DatasetError, match="2 texts came with 1 labels"):
        TextExamples(("a", "b"), (1,))


def test_request_refuses_a_limit_below_two():
    with pytest.raises(DatasetError, match="train_limit is 1"):
        DatasetRequest(train_limit=1)


def test_tasks_import_neither_torch_nor_sklearn():
    code = "import sys, metas_peft.tasks; print([m for m in ('torch', 'sklearn', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
