"""A consistent copy of an SQLite database, also while a platform writes to it."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from engine.store.database import StoreUnavailable, address

BUSY_TIMEOUT_S: Final = 30.0  # a writer lets readers in at once; only the moment of its start or stop is exclusive


def sqlite_file(url: str) -> Path | None:
    """Say in which file a database is; None for one that is not SQLite."""
    read = address(url)
    return Path(read.database) if read.get_backend_name() == "sqlite" and read.database else None


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment into a file that is not there yet.

    Raises ``StoreUnavailable``.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)
        ) as open_:
            open_.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise StoreUnavailable(str(error)) from error
