"""Profiling on a machine behind SSH: it measures itself with its own installation, and its records come back here.

The far side keeps a record store of its own, so that a broken connection loses nothing: the same command goes on where
it stopped. Nothing but the user's `ssh` is used, with the user's keys, hosts and jumps.
"""

import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metas_peft.core.errors import InvalidRecordError, MeasurementError
from metas_peft.core.store import RecordStore, digest_of
from metas_peft.devices.local import LOCAL

if TYPE_CHECKING:
    import pyarrow as pa

# pyright: basic
# (pyarrow comes without types.)

# In the home folder of the far side, where `ssh` starts.
FAR_STORE = ".metas-profile"
SSH = ("ssh",)
NO_CONNECTION, NOT_FOUND = 255, 127


def profile_over_ssh(
    host: str,
    store: RecordStore,
    arguments: Sequence[str] = (),
    *,
    name: str | None = None,
    command: str = "metas",
    ssh: Sequence[str] = SSH,
) -> int:
    """Have a machine measure itself and bring its records home.

    Args:
        host: As `ssh` knows it: `pi@raspberry`, or a name of its configuration.
        store: Receives the records that it does not have yet.
        arguments: Options of `metas profile run`, passed on as they are.
        name: What the device is called in the records; the host without its user if absent.
        command: How the command line is called there.
        ssh: Command that reaches the host.

    Returns:
        Records added.

    Raises:
        MeasurementError: The host cannot be reached, lacks the command, or failed to measure; its own words were shown.
    """
    # The command is left to the far shell as it is, which knows what `~` stands for.
    far = f"{command} {shlex.join(['profile', 'run', LOCAL, '--store', FAR_STORE, *arguments])}"
    _ask([*ssh, host, far], host, command, shows_output=True)
    packed = _ask([*ssh, host, shlex.join(["tar", "-C", FAR_STORE, "-cf", "-", "."])], host, "tar")
    with tempfile.TemporaryDirectory(prefix="metas-peft-") as folder:
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                for member in archive:
                    part = archive.extractfile(member) if member.isfile() else None
                    if part is not None:
                        # A store is flat, and what a far machine sends has no say in where it goes here.
                        (Path(folder) / Path(member.name).name).write_bytes(part.read())
        except tarfile.TarError as error:
            raise MeasurementError(
                f"What {host} sent is no archive of records ({error}). Does its shell print something at login? "
                "Silence it for connections without a terminal, then try again."
            ) from error
        table = RecordStore(Path(folder)).read().table
    return _add(table, store, name or host.rpartition("@")[2])


def _ask(line: Sequence[str], host: str, command: str, *, shows_output: bool = False) -> bytes:
    """Run a command there; its messages go to this terminal."""
    try:
        done = subprocess.run(line, stdout=None if shows_output else subprocess.PIPE, check=False)
    except FileNotFoundError as error:
        raise MeasurementError(f"There is no command {line[0]} on this computer; install OpenSSH's client.") from error
    if done.returncode == NO_CONNECTION:
        raise MeasurementError(f"{host} could not be reached. Does `ssh {host}` work by itself?")
    if done.returncode == NOT_FOUND:
        raise MeasurementError(
            f"{host} has no command {command!r} on its path. Install metas-peft there, or say where it is: "
            "--command ~/venv/bin/metas."
        )
    if done.returncode != 0:
        raise MeasurementError(
            f"{host} stopped with status {done.returncode}; its own message stands above. What it measured is kept "
            "there, and the same command goes on."
        )
    return done.stdout or b""


def _add(table: "pa.Table", store: RecordStore, name: str) -> int:
    """Append what the store lacks, under the device's name."""
    import pyarrow as pa

    devices = table.column("device").to_pylist()
    foreign = sorted({str(d) for d in devices} - {LOCAL})
    if foreign:
        raise InvalidRecordError(f"The far store holds records of {', '.join(foreign)}, not of its own machine alone.")
    place = table.column_names.index("device")
    named = table.set_column(place, "device", pa.array([name] * len(table), pa.string()))
    known = store.already_there(named)
    fresh = named.take(pa.array([row for row in range(len(named)) if row not in known], pa.int64()))
    if len(fresh):
        # Two processes that bring the same rows home at once write the same part.
        store.append_table(fresh, f"ssh-{digest_of(fresh)}")
    return len(fresh)
