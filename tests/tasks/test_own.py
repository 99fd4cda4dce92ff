"""Sets of the user's own: columns, labels of any kind, sources, refusals."""

import json

import pytest

from metas_peft.core.errors import DatasetError, DatasetUnavailableError, UnknownNameError
from metas_peft.tasks import DatasetRequest, open_task

ROWS = [{"review": f"text {i}", "stars": ("good", "bad", "so-so")[i % 3], "id": i} for i in range(30)]


@pytest.fixture
def reviews(tmp_path):
    """A JSON-lines file with columns of its own names."""
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def load(name, *, path=None, source=None, text=None, label=None, **limits):
    task = open_task(name, path=path, source=source, text_column=text, label_column=label)
    return task, task.load(DatasetRequest(path=path, source=source, **limits))


def test_file_with_named_columns_is_a_task(reviews):
    task, data = load("reviews", path=reviews, text="review", label="stars")
    assert data.label_names == ("bad", "good", "so-so")
    assert data.quality_metric == "accuracy"
    assert len(data.train) + len(data.holdout) + len(data.validation) == 30
    by_text = {row["review"]: row["stars"] for row in ROWS}
    for part in (data.train, data.holdout, data.validation):
        assert [data.label_names[i] for i in part.labels] == [by_text[t] for t in part.texts]
    assert task.score(data.validation.labels, data.validation.labels)["accuracy"] == 1.0


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_folder_with_splits_is_a_task(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet

    for split, n in (("train", 20), ("test", 10)):
        texts, labels = [f"{split} {i}" for i in range(n)], [i % 2 + 1 for i in range(n)]
        path = tmp_path / f"{split}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), path)
        elif kind == "csv":
            path.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(texts, labels, strict=True)))
        else:
            rows = zip(texts, labels, strict=True)
            path.write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in rows))
    _, data = load("mine", path=tmp_path, train_limit=10)
    assert (len(data.train) + len(data.holdout), len(data.validation)) == (10, 10)
    # Numbers that do not begin at 0 are names, not indices.
    assert data.label_names == ("1", "2")
    assert data.validation.labels == tuple(i % 2 for i in range(10))


def test_ratios_say_how_a_file_is_split(reviews):
    _, data = load("reviews", path=reviews, text="review", label="stars", evaluation_ratio=0.3, holdout_ratio=0.5)
    assert (len(data.train), len(data.holdout), len(data.validation)) == (11, 10, 9)
    with pytest.raises(DatasetError, match="between 0 and 1"):
        DatasetRequest(holdout_ratio=1.0)


def test_numbers_are_ordered_as_numbers(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{i % 12}\n" for i in range(48)))
    _, data = load("many", path=path)
    assert data.label_names == tuple(str(i) for i in range(12))


def test_set_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch, write_parquet):
    snapshot = tmp_path / "hub" / "datasets--me--films" / "snapshots" / "abc"
    write_parquet(snapshot / "data" / "train-00000-of-00001.parquet")
    write_parquet(snapshot / "data" / "validation-00000-of-00001.parquet")
    refs = tmp_path / "hub" / "datasets--me--films" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, source in (("me/films", None), ("films", "huggingface:me/films")):
        _, data = load(name, source=source)
        assert (data.label_names, data.source) == (("0", "1"), "huggingface:me/films")


def test_folder_of_its_name_under_the_data_variable_is_found(tmp_path, monkeypatch, write_parquet):
    write_parquet(tmp_path / "films" / "train.parquet")
    write_parquet(tmp_path / "films" / "dev.parquet")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    _, data = load("films", source="local")
    assert len(data.validation) == 4


def test_columns_of_a_known_task_can_be_named(tmp_path, write_parquet):
    write_parquet(tmp_path / "train.parquet", text_column="phrase")
    write_parquet(tmp_path / "validation.parquet", text_column="phrase")
    task, data = load("sst2", path=tmp_path, text="phrase")
    assert data.label_names == ("negative", "positive")
    assert task.name == "sst2"
    with pytest.raises(DatasetError, match="has no columns to name"):
        open_task("builtin", text_column="phrase")


def test_misspelt_task_is_still_named():
    with pytest.raises(UnknownNameError, match="did you mean 'sst2'"):
        open_task("sst-3")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", "label": 0}, {"text": "b", "label": 0}], "1 different labels"),
        ([{"text": "a", "label": -1}, {"text": "b", "label": 0}], "hidden test set"),
        ([{"text": "a", "label": "Yes"}, {"text": "b", "label": "yes"}], "differ only in capitals"),
        ([{"text": "a", "label": None}, {"text": "b", "label": 1}], "no label"),
        ([{"body": "a", "label": 0}, {"body": "b", "label": 1}], "no text column 'text' or 'sentence'"),
        ([{"text": "a", "y": 0}, {"text": "b", "y": 1}], "no label column 'label'"),
    ],
)
def test_sets_that_are_no_classification_are_refused(tmp_path, rows, words):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DatasetError, match=words):
        load("x", path=path)


def test_set_that_is_nowhere_says_where_it_was_looked_for():
    with pytest.raises(DatasetUnavailableError, match=r"path=FOLDER.*huggingface:OWNER/NAME"):
        load("nowhere", source="local")
    with pytest.raises(DatasetUnavailableError, match="cannot be reached"):
        load("me/films")
