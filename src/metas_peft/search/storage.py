"""Where a study lives: a journal file beside its trials, or a database that a URL names."""

import time
from pathlib import Path
from typing import Any

from metas_peft.core.errors import OutputError, UsageError

JOURNAL = "journal.log"
# URL scheme -> driver that the extra `databases` installs.
DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
ATTEMPTS = 5


def open_storage(url: str | None, folder: Path) -> Any:
    """An Optuna storage.

    Args:
        url: `postgresql://USER:PASSWORD@HOST/DATABASE`, `mysql://...`, or None for a journal file.
        folder: The search's folder, where the journal is.

    Raises:
        UsageError: The URL is not one, or its driver is not installed.
        OutputError: The folder or the database cannot be written.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        except OSError as error:
            raise OutputError(f"Cannot write {folder / JOURNAL}: {error.strerror}. Choose output_dir=DIR.") from error
    address = with_driver(url)
    from sqlalchemy.exc import DatabaseError, SQLAlchemyError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return get_storage(address)
        except ImportError as error:
            raise UsageError(
                f"The database of {hidden(url)} needs a driver: {error}. `pip install metas-peft[databases]` has it."
            ) from error
        except (DatabaseError, ValueError) as error:
            # Workers that start together all find the tables missing and make them; all but one are told off.
            if attempt == ATTEMPTS or "already exists" not in str(error) and "duplicate key" not in str(error):
                raise OutputError(f"The database {hidden(url)} cannot be used: {_first_line(error)}.") from error
            time.sleep(0.2 * attempt)
        except SQLAlchemyError as error:
            raise UsageError(f"{hidden(url)} is no URL of a database: {_first_line(error)}.") from error
    raise AssertionError("the last attempt raises")


def with_driver(url: str) -> str:
    """The URL with the driver that we install, unless it names one.

    Raises:
        UsageError: No URL, or a kind of database that cannot be shared.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"{url!r} is no URL of a database; postgresql://USER:PASSWORD@HOST/NAME was expected.")
    if "+" in scheme:
        return url
    if scheme not in DRIVERS:
        raise UsageError(
            f"{scheme}:// is not for workers to share; write postgresql:// or mysql://, or leave the storage out for a "
            "journal file."
        )
    return f"{'postgresql' if scheme.startswith('postgres') else 'mysql'}+{DRIVERS[scheme]}://{rest}"


def hidden(url: str) -> str:
    """The URL without its password."""
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
