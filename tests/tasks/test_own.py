"""Sets of the user's own: columns, labels of any kind, sources, refusals."""

import json

import pytest

from metas_peft.core.errors import DatasetError, DatasetUnavailableError, UnknownNameError
from metas_peft.tasks import DatasetRequest, hub, open_task

ROWS = [{"review": f"text {i}", "stars": ("good", "bad", "so-so")[i % 3], "id": i} for i in range(30)]


@pytest.fixture
def reviews(tmp_path):
    """A JSON-lines file with columns of its own names."""
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def load(name, *, path=None, source=None, config=None, text=None, label=None, **limits):
    task = open_task(name, path=path, source=source, config=config, text_column=text, label_column=label)
    return task, task.load(DatasetRequest(path=path, source=source, config=config, **limits))


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The folder of the repository me/films in the hub's cache, empty so far."""
    repository = tmp_path / "hub" / "datasets--me--films"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / "abc"


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


def test_set_of_the_hub_is_read_from_its_cache(snapshot, write_parquet):
    write_parquet(snapshot / "data" / "train-00000-of-00001.parquet")
    write_parquet(snapshot / "data" / "validation-00000-of-00001.parquet")
    for name, source in (("me/films", None), ("films", "huggingface:me/films")):
        _, data = load(name, source=source)
        assert (data.label_names, data.source) == (("0", "1"), "huggingface:me/films")


@pytest.mark.parametrize(("name", "source"), [("me/films", None), ("films", "huggingface:me/films")])
@pytest.mark.parametrize("folder", ["short", "data/short"])
def test_configuration_of_a_repository_is_another_set(snapshot, write_parquet, name, source, folder):
    for split in ("train", "test"):
        write_parquet(snapshot / f"{split}.parquet")
        write_parquet(snapshot / folder / f"{split}-00000-of-00001.parquet", [f"{split} a", f"{split} b"], [3, 4])
    _, data = load(name, source=source, config="short")
    assert (data.name, data.source) == (f"{name}/short", "huggingface:me/films (short)")
    assert data.validation.texts == ("test a", "test b")
    assert load(name, source=source)[1].label_names == ("0", "1")
    with pytest.raises(DatasetUnavailableError, match="cannot be reached"):
        load(name, source=source, config="long")


def test_prompts_of_a_configuration_are_read_too(snapshot):
    (snapshot / "long").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"prompt": f"{split} {i}", "answer": "yes"} for i in range(4)]
        (snapshot / "long" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task("me/films", config="long", answer_column="answer")
    data = task.load(DatasetRequest(config="long"))
    assert (data.name, len(data.validation)) == ("me/films/long", 4)


def test_other_configuration_of_a_known_task_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr("metas_peft.tasks.sources.load_cached", lambda source, evaluation: asked.append(source))
    with pytest.raises(DatasetUnavailableError):
        open_task("gsm8k", config="socratic").load(DatasetRequest(config="socratic"))
    assert [(source.repo, source.config) for source in asked] == [("openai/gsm8k", "socratic")]


def test_training_rows_alone_are_split_as_a_file_is(snapshot, monkeypatch, tmp_path, write_parquet):
    import datasets

    texts, labels = [f"text {i}" for i in range(20)], [i % 2 for i in range(20)]
    rows = datasets.Dataset.from_dict({"text": texts, "label": labels})
    path = write_parquet(tmp_path / "file" / "all.parquet", texts, labels)
    _, expected = load("films", path=path, evaluation_ratio=0.3)
    with monkeypatch.context() as online:
        online.setattr(hub, "_ask", lambda source: None)
        online.setattr(datasets, "load_dataset", lambda repo, config: datasets.DatasetDict(train=rows))
        _, downloaded = load("me/films", evaluation_ratio=0.3)
    # Without the hub the cached copy must do.
    write_parquet(snapshot / "data" / "train-00000-of-00001.parquet", texts, labels)
    _, cached = load("me/films", evaluation_ratio=0.3)
    for data in (downloaded, cached):
        assert data.source == "huggingface:me/films (6 rows held back)"
        assert (data.train, data.holdout, data.validation) == (expected.train, expected.holdout, expected.validation)


def test_splits_that_nobody_evaluates_on_are_refused_not_ignored(snapshot, monkeypatch, write_parquet):
    import datasets

    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    write_parquet(snapshot / "train.parquet")
    write_parquet(snapshot / "matched.parquet")
    with pytest.raises(DatasetUnavailableError, match="cannot be reached"):
        load("me/films")
    monkeypatch.setattr(hub, "_ask", lambda source: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda repo, config: datasets.DatasetDict(train=part, matched=part))
    with pytest.raises(DatasetUnavailableError, match="has the splits train, matched; 'train' and one of"):
        load("me/films")


@pytest.mark.parametrize(
    ("config", "said", "words"),
    [
        (None, "Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']\nExample: x",
         "has the configurations 'cola', 'sst2', but no configuration was named; choose one with dataset.config=NAME"),
        ("kola", "BuilderConfig 'kola' not found. Available: ['cola', 'sst2']", "but 'kola' is none of them"),
        (None, "no luck", "cannot be downloaded: no luck"),
    ],
)  # fmt: skip
def test_repository_of_several_configurations_says_which(monkeypatch, config, said, words):
    def refuse(repo, config):
        raise ValueError(said)

    monkeypatch.setattr(hub, "_ask", lambda source: None)
    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DatasetUnavailableError, match=words):
        load("me/films", config=config)


def test_folder_of_its_name_under_the_data_variable_is_found(tmp_path, monkeypatch, write_parquet):
    write_parquet(tmp_path / "films" / "train.parquet")
    write_parquet(tmp_path / "films" / "dev.parquet")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    _, data = load("films", source="local")
    assert len(data.validation) == 4


def test_folder_stands_in_for_the_repository_of_its_name_alone(tmp_path, monkeypatch, snapshot, write_parquet):
    for split in ("train", "dev"):
        write_parquet(snapshot / f"{split}.parquet", ["on", "the", "hub"], [0, 1, 0])
        for folder in ("films", "me/films", "me/films/short"):
            write_parquet(tmp_path / folder / f"{split}.parquet")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    assert load("films", source="huggingface:me/films")[1].source == "huggingface:me/films"
    data = load("me/films", source="huggingface:me/films")[1]
    assert data.source == f"local:{tmp_path / 'me' / 'films'}"
    assert "asks for huggingface:me/films; the copy of me/films" in data.notes[0]
    assert load("me/films", config="short")[1].source == f"local:{tmp_path / 'me' / 'films' / 'short'}"


def test_columns_of_a_known_task_can_be_named(tmp_path, write_parquet):
    write_parquet(tmp_path / "train.parquet", text_column="phrase")
    write_parquet(tmp_path / "validation.parquet", text_column="phrase")
    task, data = load("sst2", path=tmp_path, text="phrase")
    assert data.label_names == ("negative", "positive")
    assert task.name == "sst2"
    with pytest.raises(DatasetError, match="has no columns to name"):
        open_task("builtin", text_column="phrase")


def test_whole_numbers_are_the_same_classes_however_a_file_spells_them(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}.0\n" for i in range(20)))
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"other {i},{i % 2}\n" for i in range(4)))
    _, data = load("x", path=tmp_path)
    assert data.label_names == ("0", "1")
    assert sorted(data.validation.labels) == [0, 0, 1, 1]


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
        ([{"text": "a", "label": " "}, {"text": "b", "label": 1}], "no label"),
        ([{"text": "a", "label": float("nan")}, {"text": "b", "label": 1}], "no label"),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1.0}], "holds 0.5, which names no class"),
        ([{"text": "a", "label": [0, 1]}, {"text": "b", "label": [1]}], r"holds \[0, 1\], which names no class"),
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
