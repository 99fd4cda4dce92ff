import dataclasses
import json
import math
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metas_peft.core.cost import Cost, Origin, PaperCost
from metas_peft.core.errors import InvalidRecordError, OutputError
from metas_peft.core.records import Conditions, ProfileRecord, Trial
from metas_peft.core.store import SCHEMA_VERSION, RecordStore, check_table, schema_version
from metas_peft.core.workload import Workload


def record(latency_ms: float | None = 12.5, **changes) -> ProfileRecord:
    return dataclasses.replace(
        ProfileRecord(
            device="local",
            model_id="minilm",
            subnet_key="0123456789",
            workload=Workload(seq_len=64),
            paper=PaperCost(1e9, 9e7, 1e6, 0.0, 63.0),
            cost=Cost(0.5, latency_ms, None),
            origin=Cost(Origin.MODELLED, Origin.MEASURED if latency_ms else None, None),
            kept_layers=6,
            kept_heads=72,
            kept_ranks=0,
            kept_ffn=72,
            n_layers=6,
        ),
        **changes,
    )


def row(**changes) -> dict:
    return {"device": "d", "batch_size": 1, "latency_ms": 5.0, "flops": 1e9, "weight_bytes": 1e6} | changes


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return RecordStore(path)


def test_records_come_back_as_they_were(tmp_path):
    store = RecordStore(tmp_path / "records")
    whole = record(
        threads=2,
        known_to_pct=1.5,
        n_invalid=1,
        conditions=Conditions(temperature_before_c=-3.0, is_throttled=False, anchor_key="abc", meter_gap_pct=-2.0),
        trials=(Trial(0, 12.0, 11.0), Trial(1, 90.0, 12.0, "pre-empted")),
    )
    plain = record(13.0)
    store.append([whole])
    store.append([plain], {"label": "second"})
    assert store.read().profile_records() == [whole, plain]
    assert [r["label"] for r in store.read().rows()] == [None, "second"]
    assert len(store.parts()) == 2


def test_null_stays_null(tmp_path):
    store = RecordStore(tmp_path)
    store.append([record()])
    (found,) = store.read().rows()
    assert found["peak_power_w"] is None
    assert found["threads"] is None
    assert found["trials"] is None


def test_store_of_nothing_is_refused(tmp_path):
    assert RecordStore(tmp_path).append([]) is None
    with pytest.raises(InvalidRecordError, match="holds no records"):
        RecordStore(tmp_path).read()


def test_one_file_is_a_store_that_is_only_read(tmp_path):
    store = write(tmp_path / "one.parquet", [row(), row(latency_ms=6.0)])
    assert len(store.read()) == 2
    with pytest.raises(OutputError, match="single file"):
        store.append([record()])


def test_half_written_and_foreign_files_are_not_read(tmp_path):
    store = RecordStore(tmp_path)
    store.append([record()])
    (tmp_path / ".part-half.parquet").write_bytes(b"PAR1")
    (tmp_path / "notes.txt").write_text("hello")
    assert len(store.read()) == 1


def test_interrupted_write_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    store.append([record()])

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        store.append([record(14.0)])
    monkeypatch.undo()
    assert len(store.read()) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_truncated_part_is_named(tmp_path):
    store = RecordStore(tmp_path)
    part = store.append([record()])
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(InvalidRecordError, match=part.name):
        store.read()


def test_part_carries_its_version_and_a_later_one_is_refused(tmp_path):
    store = RecordStore(tmp_path)
    part = store.append([record()])
    assert schema_version(part) == SCHEMA_VERSION == 1
    later = pq.read_table(part).replace_schema_metadata({b"metas_peft.schema_version": b"2"})
    pq.write_table(later, tmp_path / "later.parquet")
    with pytest.raises(InvalidRecordError, match="version 2"):
        store.read()


def test_unknown_columns_are_kept_over_parts_that_do_not_share_them(tmp_path):
    store = RecordStore(tmp_path)
    write(tmp_path / "a.parquet", [row(colour="red")])
    write(tmp_path / "b.parquet", [row(latency_ms=7, weight=2.5)])
    rows = store.read().rows()
    assert [(r["colour"], r["weight"]) for r in rows] == [("red", None), (None, 2.5)]


def test_parts_that_disagree_about_an_unknown_column_are_refused(tmp_path):
    write(tmp_path / "a.parquet", [row(colour="red")])
    write(tmp_path / "b.parquet", [row(latency_ms=7.0, colour=[1.0])])
    with pytest.raises(InvalidRecordError, match="colour"):
        RecordStore(tmp_path).read()


@pytest.mark.parametrize("column", ["device", "batch_size", "latency_ms", "flops", "weight_bytes"])
def test_missing_needed_column_is_named(tmp_path, column):
    rows = [row()]
    del rows[0][column]
    with pytest.raises(InvalidRecordError, match=f"needed column {column} is missing"):
        write(tmp_path / "one.parquet", rows).read(skip_invalid=True)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency_ms", -3.0, "is -3, expected more than 0"),
        ("latency_ms", 0.0, "is 0, expected more than 0"),
        ("latency_ms", math.inf, "is inf, not finite"),
        ("latency_ms", math.nan, "is nan, not finite"),
        ("latency_ms", None, "is empty, but needed"),
        ("energy_j", -1.0, "is -1, expected more than 0"),
        ("flops", -1.0, "is -1, expected 0 or more"),
        ("kept_heads", -1, "is -1, expected 0 or more"),
        ("phase", "training", "is 'training'; Known: decode, prefill"),
        ("origin", "guessed", "is 'guessed'"),
        ("peak_power_w", "n/a", "is 'n/a', expected a number"),
    ],
)
def test_wrong_cell_is_named_by_row_and_column_and_can_be_skipped(tmp_path, column, value, message):
    rows = [row(latency_ms=1.0), row(latency_ms=2.0), row(latency_ms=3.0)]
    for r in rows:
        r.setdefault(column, None)
    rows[1][column] = value
    store = write(tmp_path / "one.parquet", rows)
    with pytest.raises(InvalidRecordError) as caught:
        store.read()
    assert f"row 2 of one.parquet, column {column}: {message}" in str(caught.value)
    found = store.read(skip_invalid=True)
    assert [r["latency_ms"] for r in found.rows()] == [1.0, 3.0]
    assert len(found.left_out) == 1
    assert column in found.left_out[0]


def test_what_may_be_negative_is_accepted(tmp_path):
    rows = [row(energy_above_idle_j=-0.1, temperature_before_c=-5.0, meter_gap_pct=-3.0)]
    assert write(tmp_path / "one.parquet", rows).read().rows()[0]["energy_above_idle_j"] == -0.1


def test_fractional_batch_and_empty_length_of_public_files_are_accepted(tmp_path):
    (found,) = write(tmp_path / "one.parquet", [row(batch_size=7.45, seq_len=None)]).read().rows()
    assert found["batch_size"] == 7.45
    assert found["seq_len"] is None


def test_whole_numbers_written_as_fractions_become_whole(tmp_path):
    (found,) = write(tmp_path / "one.parquet", [row(batch_size=8.0)]).read().rows()
    assert (found["batch_size"], type(found["batch_size"])) == (8, int)


def test_repeated_row_is_named_even_in_another_part(tmp_path):
    rows = [row(latency_ms=1.0, note=[1, 2]), row(latency_ms=2.0, note=[1, 2])]
    write(tmp_path / "a.parquet", rows)
    write(tmp_path / "b.parquet", [row(latency_ms=3.0, note=[1, 2]), rows[1]])
    with pytest.raises(InvalidRecordError, match="row 2 of b.parquet repeats row 2 of a.parquet"):
        RecordStore(tmp_path).read()
    assert [r["latency_ms"] for r in RecordStore(tmp_path).read(skip_invalid=True).rows()] == [1.0, 2.0, 3.0]


def test_same_configuration_measured_twice_is_no_repetition(tmp_path):
    store = RecordStore(tmp_path)
    store.append([record()])
    store.append([record()])
    assert len(store.read()) == 2


def test_rows_without_counts_are_records_all_the_same(tmp_path):
    whole = record().as_row() | {"act_bytes": None}
    del whole["n_layers"], whole["trials"]
    (found,) = write(tmp_path / "one.parquet", [whole]).read().profile_records()
    assert (found.n_layers, found.paper.act_bytes) == (0, 0.0)


def test_long_lists_of_problems_are_cut(tmp_path):
    store = write(tmp_path / "one.parquet", [row(latency_ms=-1.0 - i) for i in range(50)])
    with pytest.raises(InvalidRecordError, match="and 47 more"):
        store.read()
    assert len(store.read(skip_invalid=True).left_out) == 50


def test_failed_measurement_is_kept_and_marked(tmp_path):
    store = RecordStore(tmp_path)
    store.append([record(), record(None, cost=Cost(None, None, None), is_valid=False, why_invalid="out of memory")])
    found = store.read()
    assert len(found) == 2
    assert len(found.profile_records()) == 1
    assert found.profile_records(valid_only=False)[1].why_invalid == "out of memory"


def test_record_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(InvalidRecordError, match="latency_ms: is -1"):
        RecordStore(tmp_path).append([record(-1.0)])
    assert not list(tmp_path.iterdir())


def test_rows_without_what_a_record_needs_are_rows_only(tmp_path):
    found = check_table(pa.Table.from_pylist([row()]), tmp_path / "theirs.csv")
    assert found.rows() == [row()]
    with pytest.raises(InvalidRecordError, match="no column act_bytes"):
        found.profile_records()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_store import record
from metas_peft.core.store import RecordStore
store = RecordStore(Path(sys.argv[1]))
for number in range(20):
    store.append([record(1.0 + number)], {"label": sys.argv[2]})
    if number % 5 == 0:
        len(store.read())  # readers see whole parts only
"""


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    here = str(__import__("pathlib").Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "records")]
    writers = [subprocess.Popen([*command, name, here], stderr=subprocess.PIPE, text=True) for name in "ab"]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    rows = RecordStore(tmp_path / "records").read().rows()
    assert sorted((r["label"], r["latency_ms"]) for r in rows) == [(n, 1.0 + i) for n in "ab" for i in range(20)]


def test_importing_the_store_needs_no_parquet_library():
    code = "import sys, metas_peft.core.store; sys.exit('pyarrow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_record_survives_json():
    """Runs keep their records as JSON between stages."""
    whole = record(conditions=Conditions(anchor_key="abc"), trials=(Trial(0, 12.0, 11.0, "pre-empted"),))
    assert ProfileRecord.from_row(json.loads(json.dumps(whole.as_row(), allow_nan=False))) == whole
