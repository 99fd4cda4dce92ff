"""`metas surrogate`: files in, files and tables out, one sentence when something is wrong."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from metas_peft import cli
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device

POOL = ("jetson-nano", "macbook-m2", "raspberry-pi-4")


def run(*arguments: object) -> int:
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def store(folder: Path, device: str, n: int = 24, seed: int = 0) -> Path:
    specimens = [Specimen(s, MINILM) for s in random_prefixes(MINILM, n, seed=seed)]
    records = open_device(device).measure(specimens, Workload(seq_len=64), purpose=Purpose.POOL, seed=seed)
    RecordStore(folder).append(records)
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "records"
    for device in POOL:
        store(folder, device)
    return folder


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("five") / "records", "pixel-8", n=5, seed=3)


def test_evaluate_writes_errors_per_device_and_method(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "errors.json"
    arguments = ("--methods", "metas,roofline,constant", "--draws", 3, "--json", out)
    assert run("surrogate", "evaluate", "--pool", pool, *arguments) == 0
    found = json.loads(out.read_text())
    assert set(found["devices"]) == set(POOL)
    assert found["devices"]["macbook-m2"]["metas"]["latency"]["mape"] < 10
    assert found["settings"]["draws"] == 3
    assert "noise_floor" in found


def test_evaluate_on_unseen_devices_prints_a_table(
    pool: Path, five: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unseen = store(tmp_path / "unseen", "h200")
    arguments = ("--unseen", unseen, "--methods", "metas,constant", "--draws", 2)
    assert run("surrogate", "evaluate", "--pool", pool, *arguments) == 0
    shown = capsys.readouterr().out
    assert "h200" in shown
    assert "metas" in shown


def test_calibrate_then_predict(five: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted, out = tmp_path / "pixel.json", tmp_path / "predicted.json"
    assert run("surrogate", "calibrate", "--records", five, "--out", fitted) == 0
    assert "pixel-8" in capsys.readouterr().out
    passes = store(tmp_path / "passes", "pixel-8", n=9, seed=8)
    assert run("surrogate", "predict", "--calibration", fitted, "--passes", passes, "--json", out) == 0
    found = json.loads(out.read_text())
    assert found["kind"] == "metas"
    measured = {r.subnet_key: r.cost for r in RecordStore(passes).read().profile_records()}
    assert len(found["passes"]) == len(measured) == 9
    for row in found["passes"]:
        assert row["latency_ms"] == pytest.approx(measured[row["key"]].latency_ms, rel=0.25)
        low, high = row["interval_80"]["latency_ms"]
        assert low < row["latency_ms"] < high


def test_predict_from_a_spec_sheet_alone(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("surrogate", "predict", "--passes", five, "--device", "pixel-8", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "pixel-8"
    assert "interval_80" not in found["passes"][0]


def test_train_writes_a_surrogate_that_calibrates(pool: Path, five: Path, tmp_path: Path, monkeypatch) -> None:
    from metas_peft.surrogate import MetaTraining, training

    learn = training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: learn(*a, training=MetaTraining(steps=10), draws=2, **k))
    file, out = tmp_path / "own.safetensors", tmp_path / "train.json"
    assert run("surrogate", "train", "--pool", pool, "--out", file, "--json", out) == 0
    told = json.loads(out.read_text())
    assert set(told["errors"]["device"]["jetson-nano"]) == {"metas", "reference", "roofline", "constant", "log_affine"}
    fitted = tmp_path / "own.json"
    arguments = ("--surrogate", file, "--kind", "roofline", "--out", fitted)
    assert run("surrogate", "calibrate", "--records", five, *arguments) == 0
    assert json.loads(fitted.read_text())["kind"] == "roofline"


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("evaluate", "--pool", "{pool}", "--methods", "metaz"), 2, "did you mean 'metas'"),
        (("evaluate", "--pool", "{absent}"), 1, "holds no records"),
        (("calibrate", "--records", "{pool}", "--out", "{out}"), 1, "of 3 devices"),
        (("calibrate", "--records", "{pool}", "--device", "nokia", "--out", "{out}"), 2, "Known: jetson-nano"),
        (("calibrate", "--records", "{five}", "--kind", "magic", "--out", "{out}"), 1, "Unknown surrogate kind"),
        (("predict", "--passes", "{five}", "--calibration", "{absent}"), 1, "is not what"),
        (("predict", "--passes", "{five}", "--surrogate", "{truncated}"), 1, "truncated"),
        (("predict", "--passes", "{five}", "--surrogate", "{future}"), 1, "schema version 99"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    arguments: tuple[str, ...], status: int, sentence: str, pool: Path, five: Path, tmp_path: Path, capsys
) -> None:
    from metas_peft.surrogate import checkpoint, shipped

    shipped().save(tmp_path / "whole.safetensors")
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    checkpoint.write(tmp_path / "future.safetensors", {}, {"schema_version": 99})
    names = {
        "pool": pool, "five": five, "absent": tmp_path / "absent", "out": tmp_path / "out.json",
        "truncated": tmp_path / "truncated.safetensors", "future": tmp_path / "future.safetensors",
    }  # fmt: skip
    assert run("surrogate", *(a.format(**names) for a in arguments)) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1]
    assert not (tmp_path / "out.json").exists()


def test_negative_costs_name_the_row_and_can_be_skipped(five: Path, tmp_path: Path, capsys) -> None:
    table = RecordStore(five).read().table
    column = table.column_names.index("energy_j")
    values = table["energy_j"].to_pylist()
    bad = table.set_column(column, "energy_j", [[-values[0], *values[1:]]])
    pq.write_table(bad, tmp_path / "bad.parquet")
    arguments = ("surrogate", "calibrate", "--records", tmp_path / "bad.parquet", "--out", tmp_path / "fit.json")
    assert run(*arguments) == 1
    assert "energy_j" in capsys.readouterr().err
    assert run(*arguments, "--skip-invalid") == 0
    assert len(json.loads((tmp_path / "fit.json").read_text())["points"]) == 4
