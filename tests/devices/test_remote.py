"""Profiling behind SSH, with a script in the place of `ssh` that runs the command line in another folder."""

import sys
import tarfile
import tempfile

import pytest

from metas_peft.core.errors import MeasurementError
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.devices import Purpose, open_device
from metas_peft.devices.remote import FAR_STORE, profile_over_ssh

FAR_METAS = """
import sys, pathlib
sys.path[:0] = {path!r}
from metas_peft.core.store import RecordStore
assert sys.argv[1:5] == ["profile", "run", "local", "--store"], sys.argv
print("a table")
count = int(sys.argv[sys.argv.index("--count") + 1])
if count == 13:
    sys.exit("metas: no meter")
rows = RecordStore(pathlib.Path({records!r})).read().rows()[:count]
store = RecordStore(pathlib.Path(sys.argv[5]))
known = len(store.read()) if store.parts() else 0
store.append_rows(rows[known:])
"""


@pytest.fixture
def far(tmp_path, minilm):
    """A far side: its home, and the command that stands for `ssh`."""
    home = tmp_path / "home"
    home.mkdir()
    records = RecordStore(tmp_path / "made")
    specimens = [minilm(layers, 12) for layers in (1, 2, 3, 4, 5)]
    measured = open_device("pixel-8").measure(specimens, Workload(), purpose=Purpose.POOL)
    records.append_rows([r.as_row() | {"device": "local", "machine": "a board"} for r in measured])
    script = home / "far.py"
    script.write_text(FAR_METAS.format(path=sys.path, records=str(records.path)))
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\n[ "$1" = nowhere ] && exit 255\ncd {home} && exec sh -c "$2"\n')
    ssh.chmod(0o755)
    return home, [str(ssh)], f"{sys.executable} far.py"


def test_far_machine_measures_itself_and_its_records_come_home(far, tmp_path, capfd):
    home, ssh, command = far
    store = RecordStore(tmp_path / "mine")
    assert profile_over_ssh("pi@board", store, ["--count", "3"], command=command, ssh=ssh) == 3
    rows = store.read().rows()
    assert [r["device"] for r in rows] == ["board"] * 3
    assert {r["machine"] for r in rows} == {"a board"}
    assert (home / FAR_STORE).is_dir()
    assert "a table" in capfd.readouterr().out
    # The same command again adds what is new and nothing twice.
    assert profile_over_ssh("pi@board", store, ["--count", "3"], command=command, ssh=ssh) == 0
    assert profile_over_ssh("pi@board", store, ["--count", "5"], command=command, ssh=ssh) == 2
    assert len(store.read()) == 5
    assert len({r["subnet_key"] for r in store.read().rows()}) == 5


def test_device_may_be_given_a_name(far, tmp_path):
    _, ssh, command = far
    store = RecordStore(tmp_path / "mine")
    profile_over_ssh("pi@board", store, ["--count", "2"], name="my-board", command=command, ssh=ssh)
    assert {r["device"] for r in store.read().rows()} == {"my-board"}


@pytest.mark.parametrize(
    ("host", "count", "command", "message"),
    [
        ("nowhere", "2", None, "nowhere could not be reached"),
        ("pi@board", "2", "no-such-metas", "has no command 'no-such-metas' on its path"),
        ("pi@board", "13", None, "stopped with status 1; its own message stands above"),
    ],
)
def test_failures_are_told_apart_and_leave_nothing(far, tmp_path, host, count, command, message, capfd):
    _, ssh, usual = far
    store = RecordStore(tmp_path / "mine")
    with pytest.raises(MeasurementError, match=message):
        profile_over_ssh(host, store, ["--count", count], command=command or usual, ssh=ssh)
    assert not store.parts()


def test_chatty_login_shell_is_named(far, tmp_path):
    home, ssh, command = far
    noisy = tmp_path / "noisy"
    noisy.write_text(f'#!/bin/sh\necho Welcome!\nexec {ssh[0]} "$@"\n')
    noisy.chmod(0o755)
    with pytest.raises(MeasurementError, match="no archive of records"):
        profile_over_ssh(
            "pi@board", RecordStore(tmp_path / "mine"), ["--count", "1"], command=command, ssh=[str(noisy)]
        )


def test_what_is_sent_has_no_say_in_where_it_goes(far, tmp_path, monkeypatch):
    home, ssh, command = far
    profile_over_ssh("pi@board", RecordStore(tmp_path / "first"), ["--count", "1"], command=command, ssh=ssh)
    (part,) = (home / FAR_STORE).glob("*.parquet")
    with tarfile.open(tmp_path / "sent.tar", "w") as archive:
        archive.add(part, "../../outside.parquet")
        link = tarfile.TarInfo("link.parquet")
        link.type, link.linkname = tarfile.SYMTYPE, str(part)
        archive.addfile(link)
    hostile = tmp_path / "hostile"
    hostile.write_text(f'#!/bin/sh\ncase "$2" in tar*) exec cat {tmp_path}/sent.tar;; esac\n')
    hostile.chmod(0o755)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a" / "b"))
    store = RecordStore(tmp_path / "mine")
    assert profile_over_ssh("pi@board", store, command=command, ssh=[str(hostile)]) == 1
    assert not list(tmp_path.rglob("*outside*"))
    assert len(store.read()) == 1


def test_missing_ssh_is_told(tmp_path):
    with pytest.raises(MeasurementError, match="no command no-such-ssh"):
        profile_over_ssh("pi@board", RecordStore(tmp_path), ssh=["no-such-ssh"])
