"""Other people's files: names, units, origins, and what is wrong with them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metas_peft.core.errors import InvalidRecordError, UsageError
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM
from metas_peft.devices import Specimen, open_device
from metas_peft.devices.configurations import draw_configurations
from metas_peft.devices.importing import BARE_NAMES, ImportRules, import_files
from metas_peft.devices.profiling import profile
from metas_peft.devices.sheet import read_configurations, write_sheet

HEADER = "device,batch_size,flops,weight_bytes"
HEAD = "device,batch_size,latency_ms,flops,weight_bytes\n"


def import_file(path, store, rules, **options):
    """The records of one file, added."""
    (found,) = import_files([path], store, rules, **options)
    return found.records


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "store")


def write(tmp_path, text, name="theirs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def only_row(store):
    (row,) = store.read().rows()
    return row


@pytest.mark.parametrize(
    ("column", "unit", "value", "ours", "expected"),
    [
        ("latency", "s", 0.25, "latency_ms", 250.0),
        ("latency", "us", 1500, "latency_ms", 1.5),
        ("latency_ms", "ns", 2e6, "latency_ms", 2.0),
        ("energy", "mJ", 80, "energy_j", 0.08),
        ("energy", "mWh", 1, "energy_j", 3.6),
        ("power", "mW", 2500, "peak_power_w", 2.5),
        ("mean_power", "kW", 0.3, "mean_power_w", 300.0),
        ("flops", "GMAC", 1.5, "flops", 3e9),
        ("weight", "MiB", 2, "weight_bytes", 2097152.0),
    ],
)
def test_units_become_ours(tmp_path, store, column, unit, value, ours, expected):
    row = {"device": "d", "batch_size": 1, "latency_ms": 9.0, "flops": 1e9, "weight_bytes": 1e6}
    row.pop(ours, None)
    row[column] = value
    path = write(tmp_path, json.dumps([row]), "theirs.json")
    import_file(path, store, ImportRules(units={column: unit}))
    assert only_row(store)[ours] == pytest.approx(expected)


def test_mapped_columns_with_units_and_constants(tmp_path, store):
    path = write(tmp_path, "Name,t_med,E,FLOPs,bytes,colour\nx,0.5,120,2e9,1e6,red\n")
    rules = ImportRules(
        names={"Name": "model_id", "t_med": "latency", "E": "energy_j", "FLOPs": "flops", "bytes": "weight_bytes"},
        units={"t_med": "s", "energy": "mJ"},
        constants={"device": "their-phone", "batch_size": "1", "seq_len": "128"},
    )
    found = import_file(path, store, rules)
    assert len(found) == 1
    row = only_row(store)
    assert (row["model_id"], row["latency_ms"], row["device"]) == ("x", 500.0, "their-phone")
    assert row["energy_j"] == pytest.approx(0.12)
    assert (row["batch_size"], row["seq_len"], row["colour"]) == (1, 128, "red")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_kind_of_file_is_read(tmp_path, store, suffix):
    rows = [
        {"device": "d", "batch_size": 1, "latency_ms": 1.5, "flops": 1e9, "weight_bytes": 1e6, "energy_j": None},
        {"device": "d", "batch_size": 2, "latency_ms": 2.5, "flops": 2e9, "weight_bytes": 1e6, "energy_j": 0.5},
    ]
    path = tmp_path / f"theirs.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(r) for r in rows))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        mark = "," if suffix == "csv" else "\t"
        lines = [mark.join(rows[0]), *(mark.join("" if v is None else str(v) for v in r.values()) for r in rows)]
        path.write_text("\n".join(lines))
    import_file(path, store, ImportRules())
    assert [(r["batch_size"], r["latency_ms"], r["energy_j"]) for r in store.read().rows()] == [
        (1, 1.5, None),
        (2, 2.5, 0.5),
    ]


def test_column_without_a_unit_is_refused_with_what_to_say(tmp_path, store):
    path = write(tmp_path, f"{HEADER},latency\nd,1,1e9,1e6,0.5\n")
    with pytest.raises(InvalidRecordError, match="--unit latency=ms"):
        import_file(path, store, ImportRules())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (ImportRules(units={"latency_ms": "sec"}), "unknown unit"),
        (ImportRules(units={"latency_ms": "J"}), "latency_ms is a time, not a energy"),
        (ImportRules(units={"energy_j": "mJ"}), "no column 'energy_j'"),
        (ImportRules(units={"batch_size": "s"}), "plain number"),
        (ImportRules(names={"latncy": "latency_ms"}), "did you mean 'latency_ms'"),
        (ImportRules(names={"flops": "latency_m"}), "is no column of a record"),
        (ImportRules(names={"flops": "latency_ms"}), "two columns would be called latency_ms"),
        (ImportRules(constants={"device": "x"}), "has this column"),
        (ImportRules(constants={"seq_len": "long"}), "a whole number was expected"),
    ],
)
def test_rule_that_makes_no_sense_is_wrong_usage(tmp_path, store, rules, message):
    path = write(tmp_path, f"{HEADER},latency_ms\nd,1,1e9,1e6,5\n")
    with pytest.raises(UsageError, match=message):
        import_file(path, store, rules)


@pytest.mark.parametrize(
    ("own", "expected"),
    [("measured", "imported"), ("modelled", "modelled"), ("simulated", "simulated"), ("", "imported")],
)
def test_somebody_elses_numbers_are_imported_at_best(tmp_path, store, own, expected):
    path = write(tmp_path, f"{HEADER},latency_ms,energy_j,origin\nd,1,1e9,1e6,5,0.1,{own}\n")
    import_file(path, store, ImportRules())
    assert only_row(store)["origin"] == expected


def test_origin_that_does_not_exist_is_refused(tmp_path, store):
    path = write(tmp_path, f"{HEADER},latency_ms,origin\nd,1,1e9,1e6,5,felt\n")
    with pytest.raises(InvalidRecordError, match="'felt'"):
        import_file(path, store, ImportRules())


def test_part_of_this_project_keeps_its_origin(tmp_path, store):
    ours = RecordStore(tmp_path / "ours")
    profile(
        open_device("pixel-8"), [Specimen(s, MINILM) for s in draw_configurations(MINILM, 2, seed=0)], Workload(), ours
    )
    import_file(ours.parts()[0], store, ImportRules())
    assert store.read().profile_records() == ours.read().profile_records()


def test_wrong_rows_are_named_or_left_out(tmp_path, store):
    path = write(tmp_path, f"{HEADER},latency_ms,energy_j\nd,1,1e9,1e6,5,0.1\nd,1,1e9,1e6,-5,0.1\nd,2,1e9,1e6,7,x\n")
    with pytest.raises(InvalidRecordError, match="row 2 of theirs.csv, column latency_ms: is -5"):
        import_file(path, store, ImportRules())
    assert not store.parts()
    found = import_file(path, store, ImportRules(), skip_invalid=True)
    assert (len(found), len(found.left_out)) == (1, 2)
    assert only_row(store)["latency_ms"] == 5.0


def test_same_file_twice_is_refused_and_what_was_added_to_it_is_not(tmp_path, store):
    text = f"{HEADER},latency_ms\nd,1,1e9,1e6,5\n"
    import_file(write(tmp_path, text), store, ImportRules())
    with pytest.raises(InvalidRecordError, match="in .*store already"):
        import_file(write(tmp_path, text), store, ImportRules())
    grown = write(tmp_path, text + "d,2,1e9,1e6,9\n")
    found = import_file(grown, store, ImportRules(), skip_invalid=True)
    assert (len(found), len(found.left_out)) == (1, 1)
    assert sorted(r["latency_ms"] for r in store.read().rows()) == [5.0, 9.0]


@pytest.mark.parametrize(("name", "text"), [("a.xlsx", ""), ("a.json", "{"), ("a.csv", ""), ("a.parquet", "text")])
def test_file_that_cannot_be_read_is_named(tmp_path, store, name, text):
    with pytest.raises(InvalidRecordError, match=name.replace(".", r"\.")):
        import_file(write(tmp_path, text, name), store, ImportRules())


def test_bare_names_cover_what_people_write():
    wanted = {"latency": "latency_ms", "energy": "energy_j", "power": "peak_power_w", "power_w": "peak_power_w"}
    assert wanted.items() <= BARE_NAMES.items()


def test_sheet_is_filled_in_by_hand_and_read_back(tmp_path, store):
    subnets = draw_configurations(MINILM, 4, seed=0)
    sheet = tmp_path / "sheet.csv"
    write_sheet(
        sheet, [Specimen(s, MINILM) for s in subnets], Workload(seq_len=64), device="my-phone", runtime="app", threads=4
    )
    assert read_configurations(sheet) == subnets
    with pytest.raises(InvalidRecordError, match="no row has a latency"):
        import_file(sheet, store, ImportRules())
    lines = sheet.read_text().splitlines()
    names = lines[0].split(",")
    filled = []
    for number, line in enumerate(lines[1:3]):
        cells = line.split(",")
        cells[names.index("latency_ms")] = str(10.0 + number)
        cells[names.index("energy_j")] = "0.02"
        filled.append(",".join(cells))
    sheet.write_text("\n".join([lines[0], *filled, *lines[3:]]) + "\n")
    assert len(import_file(sheet, store, ImportRules())) == 2
    records = store.read().profile_records()
    assert [r.cost.latency_ms for r in records] == [10.0, 11.0]
    assert [r.subnet_key for r in records] == [s.key for s in subnets[:2]]
    assert (records[0].device, records[0].threads, records[0].workload) == ("my-phone", 4, Workload(seq_len=64))
    assert records[0].origin.energy_j == records[0].origin.latency_ms == "imported"
    assert records[0].origin.peak_power_w is None
    (same,) = open_device("pixel-8").measure([Specimen(subnets[1], MINILM)], Workload(seq_len=64), purpose="pool")
    assert records[1].paper == same.paper


def test_file_that_is_no_sheet_is_named(tmp_path):
    with pytest.raises(InvalidRecordError, match="not a sheet"):
        read_configurations(write(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(InvalidRecordError, match="Cannot read the sheet"):
        read_configurations(tmp_path / "none.csv")


# ---- several files, origins, numbers of rows


def test_nothing_is_added_when_one_of_the_files_is_refused(tmp_path, store):
    good = write(tmp_path, HEAD + "a,1,5,10,20\n", "good.csv")
    bad = write(tmp_path, HEAD + "a,1,-5,10,20\n", "bad.csv")
    with pytest.raises(InvalidRecordError, match="bad.csv"):
        import_files([good, bad], store, ImportRules())
    assert not store.parts()
    with pytest.raises(InvalidRecordError, match="in another file of this command"):
        import_files([good, write(tmp_path, good.read_text(), "again.csv")], store, ImportRules())
    assert not store.parts()


def test_same_file_imported_by_two_processes_at_once_is_there_once(tmp_path, store, monkeypatch):
    file = write(tmp_path, HEAD + "a,1,5,10,20\nb,1,6,10,20\n", "f.csv")
    # Neither sees what the other is about to write.
    monkeypatch.setattr(RecordStore, "already_there", lambda self, table: set())
    for _ in range(2):
        import_files([file], store, ImportRules())
    assert len(store.read()) == 2


def test_file_that_has_grown_by_rows_and_a_column_adds_its_new_rows(tmp_path, store):
    import_file(write(tmp_path, HEAD + "a,1,5,10,20\nb,1,6,10,20\n", "f.csv"), store, ImportRules())
    grown = HEAD.replace("\n", ",note\n") + "a,1,5,10,20,\nb,1,6,10,20,\nc,1,7,10,20,warm\n"
    import_file(write(tmp_path, grown, "f.csv"), store, ImportRules(), skip_invalid=True)
    found = sorted((r["device"], r.get("note")) for r in store.read().rows())
    assert found == [("a", None), ("b", None), ("c", "warm")]


def test_unit_that_is_given_twice_is_refused(tmp_path, store):
    file = write(tmp_path, HEAD.replace("latency_ms", "t") + "a,1,5,10,20\n", "f.csv")
    rules = ImportRules(names={"t": "latency_ms"}, units={"t": "s", "latency": "s"})
    with pytest.raises(UsageError, match="--unit t and --unit latency both give latency_ms a unit"):
        import_file(file, store, rules)


def test_text_of_another_encoding_is_refused(tmp_path, store):
    file = tmp_path / "f.csv"
    file.write_bytes((HEAD + "Téléphone,1,5,10,20\n").encode("cp1252"))
    with pytest.raises(InvalidRecordError, match="the column device is no text in UTF-8"):
        import_file(file, store, ImportRules())
    with pytest.raises(InvalidRecordError, match=r"The sheet .*f\.csv is no text in UTF-8"):
        read_configurations(file)


@pytest.mark.parametrize("constants", [{"origin_energy": "measured", "origin_latency": "measured"}, {"machine": "x"}])
def test_rules_never_make_a_number_measured(tmp_path, store, constants):
    import_file(write(tmp_path, HEAD + "a,1,5,10,20\n", "f.csv"), store, ImportRules())
    other = RecordStore(tmp_path / "other")
    import_file(store.parts()[0], other, ImportRules(constants=constants))
    (row,) = other.read().rows()
    assert {row.get(name) for name in ("origin", "origin_energy", "origin_latency")} <= {"imported", None}


def test_rows_are_named_by_their_place_in_the_file(tmp_path, store):
    text = HEAD + "a,1,,10,20\nb,1,5,10,20\nc,1,inf,10,20\nd,1,-5,10,20\ne,1,nan,10,20\n"
    with pytest.raises(InvalidRecordError, match="row 3 of f.csv.*row 4 of f.csv.*row 5 of f.csv") as error:
        import_file(write(tmp_path, text, "f.csv"), store, ImportRules())
    assert "row 1" not in str(error.value)
    (found,) = import_files([tmp_path / "f.csv"], store, ImportRules(), skip_invalid=True)
    assert (len(found.records), len(found.records.left_out), found.waiting) == (1, 3, (1,))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("numbers.json", "[1, 2, 3]"),
        ("mixed.json", '[{"device": "a", "batch_size": 1}, {"device": 3, "batch_size": "x"}]'),
        ("head.csv", HEAD),
        ("empty.json", "[]"),
    ],
)
def test_odd_files_are_refused_in_a_sentence(tmp_path, store, name, text):
    with pytest.raises(InvalidRecordError, match=name):
        import_file(write(tmp_path, text, name), store, ImportRules())
