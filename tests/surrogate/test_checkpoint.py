import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from metas_peft.core.cost import PaperCost
from metas_peft.core.errors import CheckpointError, OutputError
from metas_peft.core.workload import Workload
from metas_peft.surrogate import MetaTrained, checkpoint
from metas_peft.surrogate.model import SCHEMA_VERSION

SUFFIXES = [".safetensors", ".pt"]


@pytest.fixture(params=SUFFIXES)
def saved(request: pytest.FixtureRequest, trained: MetaTrained, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / f"meta_surrogate_v1{request.param}"
    trained.save(path)
    return path


def test_what_is_saved_loads_bit_for_bit(saved: Path, trained: MetaTrained, paper: PaperCost[float]) -> None:
    loaded = MetaTrained.load(saved)
    assert loaded.devices == trained.devices
    assert loaded.errors == trained.errors
    assert loaded.n_records == trained.n_records
    assert loaded.choose() == trained.choose()
    assert set(loaded.kinds) == {"reference", "roofline"}
    for name, kind in trained.kinds.items():
        restored = loaded.kinds[name]
        assert restored.settings() == kind.settings()
        assert all(torch.equal(t, restored.tensors()[key]) for key, t in kind.tensors().items())
        assert loaded.zero_shot(name).predict(paper, Workload()) == trained.zero_shot(name).predict(paper, Workload())


def test_saving_twice_writes_the_same_bytes(trained: MetaTrained, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        trained.save(tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_torch_file_holds_tensors_only(trained: MetaTrained, tmp_path: Path) -> None:
    trained.save(tmp_path / "s.pt")
    held = torch.load(tmp_path / "s.pt", weights_only=True)
    assert len(held) > 10
    assert all(isinstance(value, torch.Tensor) for value in held.values())


@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_truncated_file_is_refused(saved: Path, part: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match="truncated"):
        MetaTrained.load(saved)


def test_other_schema_version_is_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"s{suffix}"
        checkpoint.write(path, {"x": torch.zeros(1)}, {"schema_version": 99})
        with pytest.raises(CheckpointError, match=f"schema version 99, this program reads {SCHEMA_VERSION}"):
            MetaTrained.load(path)


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "s.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "s.pt")
    for suffix in SUFFIXES:
        with pytest.raises(CheckpointError, match="belongs to something else"):
            MetaTrained.load(tmp_path / f"s{suffix}")


class Harmful:
    """Pickled, it would run code."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return setattr, (Harmful, "ran", True)  # type: ignore[return-value]


def test_torch_file_with_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"weight": Harmful()}, tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        MetaTrained.load(tmp_path / "s.pt")
    assert not Harmful.ran


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no surrogate checkpoint"):
        MetaTrained.load(tmp_path / "nothing.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_tensor_is_refused(trained: MetaTrained, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    trained.save(path)
    tensors, card = checkpoint.read(path, SCHEMA_VERSION)
    del tensors["reference/start"]
    checkpoint.write(path, tensors, card)
    with pytest.raises(CheckpointError, match="incomplete .*start"):
        MetaTrained.load(path)


def test_failed_write_leaves_the_old_file_whole(
    trained: MetaTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.safetensors"
    trained.save(path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        trained.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_is_a_file_is_an_output_error(trained: MetaTrained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        trained.save(tmp_path / "file" / "s.safetensors")


def test_card_in_the_header_is_json_that_people_can_read(trained: MetaTrained, tmp_path: Path) -> None:
    trained.save(tmp_path / "s.safetensors")
    with safetensors.safe_open(tmp_path / "s.safetensors", framework="np") as file:
        card = json.loads(file.metadata()[checkpoint.CARD])
    assert card["devices"] == ["board", "desk", "laptop", "pi"]
    assert np.isfinite(card["errors"]["setting"]["pi"]["roofline"]["energy"]["mape"])
