"""Local files: formats, folders, and the row named in every refusal."""

import json

import pytest

from metas_peft.core.errors import DatasetError
from metas_peft.tasks import load_task
from metas_peft.tasks.tables import read_table

ROWS = [('a quoted "word", and a comma', 1), ("plain", 0), ("plain", 0), ("more", 1), ("last", 0)]


def _write(folder, kind):
    path = folder / f"data.{kind}"
    if kind == "csv":
        import csv

        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *ROWS])
    elif kind == "tsv":
        path.write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *ROWS]))
    else:
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_single_file_is_read_and_a_tenth_held_back(tmp_path, kind):
    data = load_task("sst2", path=_write(tmp_path, kind))
    texts = data.train.texts + data.holdout.texts + data.validation.texts
    assert sorted(texts) == sorted(text for text, _ in ROWS)
    assert len(data.validation) == 1
    assert "held back" in data.source
    # Copies of a text never fall on two sides.
    parts = [set(part.texts) for part in (data.train, data.holdout, data.validation)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_labels_may_be_names(tmp_path):
    (tmp_path / "train.csv").write_text("sentence,label\ngood,Positive\nbad,negative\nfine,1\n")
    (tmp_path / "dev.csv").write_text("sentence,label\ngood,positive\n")
    data = load_task("sst2", path=tmp_path)
    assert dict(zip(data.train.texts + data.holdout.texts, data.train.labels + data.holdout.labels, strict=True)) == {
        "good": 1, "bad": 0, "fine": 1,
    }  # fmt: skip


def test_glue_layout_is_found_below_the_folder(tmp_path):
    folder = tmp_path / "sst2" / "glue_tsv" / "SST-2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text('sentence\tlabel\nan "open quote\t1\nbad \t0\n')
    (folder / "dev.tsv").write_text("sentence\tlabel\nso so\t0\n")
    data = load_task("sst2", path=tmp_path)
    assert sorted(data.train.texts + data.holdout.texts) == ['an "open quote', "bad"]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "has no rows"),
        (["a", "b", "c"], [0, 2, 1], r"train.parquet, row 2: label 2, expected one of 0 \(negative\), 1 \(positive\)"),
        (["a", "b", "c"], [0, 1, -1], "row 3: label -1.*hidden test set"),
        (["a", "b"], [0.0, 0.5], "row 2: label 0.5"),
        (["a", "b"], [0.0, float("nan")], "row 2: label nan"),
        (["a", "b"], ["good", "negative"], "row 1: label 'good'"),
        (["a", " "], [0, 1], "row 2: an empty text"),
        (["a", None], [0, 1], "row 2: an empty text"),
        (["same", "Same"], [0, 1], "2 examples with 1 different texts"),
    ],
)
def test_bad_rows_are_named(tmp_path, write_parquet, texts, labels, message):
    write_parquet(tmp_path / "train.parquet", texts, labels)
    write_parquet(tmp_path / "validation.parquet")
    with pytest.raises(DatasetError, match=message):
        load_task("sst2", path=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "phrase,label\na,1\n", "no text column 'sentence' or 'text'; it has 'phrase', 'label'"),
        ("train.csv", "sentence,mark\na,1\n", "no label column 'label'"),
        ("train.csv", "sentence,label\na,1,2\n", "line 2: 3 fields, but the first line names 2"),
        ("train.csv", 'sentence,label\n"a,1\n', "line 2: .*quoting"),
        ("train.tsv", "", "is empty; a first line"),
        ("train.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "line 2: not JSON"),
        ("train.jsonl", "[1]\n", "line 1: list; an object was expected"),
        ("train.parquet", "no parquet", "cannot be read as parquet"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    (tmp_path / "validation.csv").write_text("sentence,label\na,1\n")
    with pytest.raises(DatasetError, match=message):
        load_task("sst2", path=tmp_path)


def test_file_of_copies_is_split_between_its_texts(tmp_path):
    (tmp_path / "all.csv").write_text("text,label\n" + "a,1\n" * 2 + "b,0\n" * 2 + "c,0\n" * 2)
    data = load_task("sst2", path=tmp_path / "all.csv")
    assert [len(part) for part in (data.train, data.holdout, data.validation)] == [2, 2, 2]


def test_file_of_one_text_cannot_be_split(tmp_path):
    (tmp_path / "all.csv").write_text("text,label\na,1\na,1\nA,0\n")
    with pytest.raises(DatasetError, match="3 examples with 1 different texts"):
        load_task("sst2", path=tmp_path / "all.csv")


def test_folder_without_splits_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DatasetError, match="train.parquet and validation.parquet .* holds notes.txt"):
        load_task("sst2", path=tmp_path)


def test_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "data.xlsx").write_text("")
    with pytest.raises(DatasetError, match=r"\.csv, \.json, \.jsonl, \.parquet, \.tsv"):
        read_table(tmp_path / "data.xlsx")


def test_shards_that_disagree_are_refused(tmp_path, write_parquet):
    write_parquet(tmp_path / "train-00000-of-00002.parquet")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", text_column="text")
    write_parquet(tmp_path / "validation.parquet")
    with pytest.raises(DatasetError, match="Files of one split must agree"):
        load_task("sst2", path=tmp_path)


def test_half_a_split_is_not_taken_for_the_whole(tmp_path, write_parquet):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", ["a", "b"], [0, 1])
    write_parquet(tmp_path / "validation.parquet", ["c", "d"], [0, 1])
    with pytest.raises(DatasetError, match=r"holds 1 of the 2 files that train-00000-of-00002\.parquet is one of"):
        load_task("sst2", path=tmp_path)


def test_long_documents_of_a_csv_file_are_read(tmp_path):
    long = "word " * 40_000
    (tmp_path / "long.csv").write_text("sentence,label\n" + "".join(f"{long}{i},{i % 2}\n" for i in range(20)))
    data = load_task("sst2", path=tmp_path / "long.csv")
    assert max(map(len, data.train.texts)) > 199_000


def test_limits_cut_both_parts(tmp_path, write_parquet):
    write_parquet(tmp_path / "train.parquet", [f"t{i}" for i in range(300)], [i % 2 for i in range(300)])
    write_parquet(tmp_path / "validation.parquet", [f"v{i}" for i in range(90)], [0] * 90)
    data = load_task("sst2", path=tmp_path, train_limit=100, evaluation_limit=30, seed=3)
    assert (len(data.train), len(data.holdout), len(data.validation)) == (90, 10, 30)
    again = load_task("sst2", path=tmp_path, train_limit=100, evaluation_limit=30, seed=3)
    other = load_task("sst2", path=tmp_path, train_limit=100, evaluation_limit=30, seed=4)
    assert again == data
    assert other.train != data.train
    assert other.validation == data.validation
