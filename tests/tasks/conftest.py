"""Four-row data sets on disk, and a network that never answers."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from metas_peft.tasks import hub

TEXTS = ["good film ", "bad film ", "fine plot ", "poor plot "]
LABELS = [1, 0, 1, 0]


def _write(path: Path, texts=TEXTS, labels=LABELS, text_column="sentence") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table({text_column: texts, "label": labels}), path)
    return path


@pytest.fixture
def write_parquet():
    """Writes texts and labels, four rows unless told, to a Parquet file and gives its path back."""
    return _write


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """No hub, an empty cache of it, and no data folder, whatever the machine has."""
    monkeypatch.delenv("METAS_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: False)


@pytest.fixture
def four_rows(tmp_path):
    """A folder with train.parquet and validation.parquet of four rows each."""
    folder = tmp_path / "four"
    _write(folder / "train.parquet")
    _write(folder / "validation.parquet", [text.upper() for text in TEXTS])
    return folder
