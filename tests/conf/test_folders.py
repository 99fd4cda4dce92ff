"""Where things go that cannot go where a run file wants them."""

from metas_peft.conf.folders import writable_or


def test_wanted_folder_is_made_and_used(tmp_path):
    path, notice = writable_or(tmp_path / "run", tmp_path / "deep" / "cache")
    assert (path, notice) == (tmp_path / "deep" / "cache", None)
    assert path.is_dir()
    assert list(path.iterdir()) == []


def test_folder_below_a_file_falls_back_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    path, notice = writable_or(tmp_path / "run", tmp_path / "file" / "profiles")
    assert path == tmp_path / "run" / "profiles"
    assert path.is_dir()
    assert "cannot be written (not a directory)" in notice
    assert str(path) in notice


def test_file_is_wanted_in_a_folder_that_is_made(tmp_path):
    path, notice = writable_or(tmp_path / "run", tmp_path / "checkpoints" / "surrogate.pt")
    assert (path, notice) == (tmp_path / "checkpoints" / "surrogate.pt", None)
    assert path.parent.is_dir()
    assert not path.exists()


def test_file_that_is_a_folder_falls_back(tmp_path):
    (tmp_path / "surrogate.pt").mkdir()
    path, notice = writable_or(tmp_path / "run", tmp_path / "surrogate.pt")
    assert path == tmp_path / "run" / "surrogate.pt"
    assert path.parent.is_dir()
    assert notice is not None


def test_read_only_mount_falls_back(tmp_path):
    path, notice = writable_or(tmp_path / "run", "/proc/metas")
    assert path == tmp_path / "run" / "metas"
    assert "/proc/metas cannot be written" in notice
