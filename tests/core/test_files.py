"""Files that are whole or absent."""

import json
import os
import stat

import pytest

from metas_peft.core.errors import OutputError
from metas_peft.core.files import read_json, replacing, write_json, write_text


def test_file_takes_its_place_when_the_block_ends_well(tmp_path):
    path = tmp_path / "deep" / "down" / "file.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_old_file_stays_whole_and_nothing_is_left_when_the_block_raises(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012 - both belong together
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_files_may_be_read_by_whom_the_umask_admits(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}])
def test_json_without_a_number_is_refused_and_nothing_written(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"value": value})
    assert not list(tmp_path.iterdir())


def test_json_comes_back_as_it_was(tmp_path):
    data = {"a": [1, 2.5, None, True], "ü": "é", "tiny": 1e-300, "third": 1 / 3}
    write_json(tmp_path / "file.json", data)
    assert read_json(tmp_path / "file.json") == data
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8")) == data


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="Cannot write .*file/below.*Choose a folder"):
        write_text(tmp_path / "file" / "below", "text")
