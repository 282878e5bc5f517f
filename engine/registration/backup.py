"""Backup and restore: a platform's folder as one archive, with a copy of its database where that is SQLite.

An archive holds private keys and the authority that partners trust: it is for nobody else's eyes. What is brought
back knows no mark of any database, so that the next start takes the one that it finds for an older one.
"""

import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from certs.files import FOLDER_MODE, KEY_MODE, sync_folder
from engine.clock import SystemClock, ocpi_time
from engine.refusals import Refused
from engine.registration.folder import Known, hold, read_known, write_known
from engine.settings import PlatformFolder, Settings
from engine.store.copying import copy_sqlite, sqlite_file

FORMAT: Final = 1
MANIFEST: Final = "backup.json"
MANIFEST_BYTES_MAX: Final = 10_000  # it has five short values
LEFT_OUT: Final = (".before-move", ".before-restore", "-wal", "-shm", "-journal")
"""How names end of what is kept of earlier days, and of what belongs to the SQLite file, which is copied by itself."""
COMPRESSION: Final = 1  # JSON gets five times smaller at the least effort


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written. ``outside``: files that the settings name elsewhere, and databases; they are not in it."""

    identity: str
    files: int
    bytes: int
    data: bool
    outside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back. ``data``: the database, too. ``kept``: the folder whose place it took."""

    identity: str
    made_at: str
    files: int
    data: bool
    kept: str | None


def back_up(folder: PlatformFolder, archive: Path) -> Backup:
    """Write an archive of a platform that runs or not; whole, or not at all.

    Raises ``Refused``, ``BadSettings``, ``StoreUnavailable``, ``OSError``.
    """
    settings = folder.settings()
    if archive.exists():
        raise Refused(f"{archive} is there already: choose another name")
    if folder.root in archive.absolute().parents:
        raise Refused(f"{archive} is in the platform's own folder: keep a backup elsewhere")
    database = sqlite_file(folder.database_url(settings))
    if database is not None and not database.is_relative_to(folder.root):
        raise Refused(f"the database {database} is not in the platform's folder: copy both yourself")
    with _beside(archive) as workshop:
        draft = workshop / archive.name
        draft.touch(mode=KEY_MODE)
        with draft.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=COMPRESSION) as tar:
                count = _fill(tar, folder, settings, database, workshop)
            file.flush()
            os.fsync(file.fileno())
        size = draft.stat().st_size
        draft.replace(archive)
        sync_folder(archive.parent)
    outside = (*_outside(folder, settings), *(() if database else ("the database: use PostgreSQL's own tools",)))
    return Backup(settings.platform.identity, count, size, database is not None, outside)


def _fill(tar: tarfile.TarFile, folder: PlatformFolder, settings: Settings, database: Path | None, place: Path) -> int:
    """Put in what this is, then the database, then the files: what its rows name is there when they are read."""
    manifest = {
        "format": FORMAT,
        "identity": settings.platform.identity,
        "made_at": ocpi_time(SystemClock().now()),
        "database": None if database is None else database.relative_to(folder.root).as_posix(),
    }
    text = json.dumps(manifest).encode()
    about = tarfile.TarInfo(MANIFEST)
    about.size, about.mode = len(text), KEY_MODE
    tar.addfile(about, io.BytesIO(text))
    count = 0
    if database is not None:
        copy = place / "copy.sqlite"
        copy_sqlite(database, copy)
        tar.add(copy, arcname=str(manifest["database"]))
        copy.unlink()
        count += 1
    for path in sorted(folder.root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path != database and _belongs(folder, path):
            with contextlib.suppress(FileNotFoundError):  # a key that was pending a moment ago
                tar.add(path, arcname=path.relative_to(folder.root).as_posix())
                count += 1
    return count


def _belongs(folder: PlatformFolder, path: Path) -> bool:
    """Leave out what belongs to a running process, drafts, and what was kept of earlier days."""
    names = path.relative_to(folder.root).parts
    if path == folder.mark_file or path.is_relative_to(folder.run):
        return False
    return not any(name.startswith(".") or name.endswith(LEFT_OUT) for name in names)


def _outside(folder: PlatformFolder, settings: Settings) -> tuple[str, ...]:
    named = (
        settings.listener.certificate, settings.listener.key, settings.store.password_file,
        settings.broker.password_file, settings.broker.ca_file, settings.broker.certificate, settings.broker.key,
    )  # fmt: skip
    paths = (folder.path(name) for name in named if name)
    return tuple(str(path) for path in paths if not path.resolve().is_relative_to(folder.root.resolve()))


def bring_back(folder: PlatformFolder, archive: Path, *, over: bool = False) -> Restored:
    """Make a platform's folder from an archive: all of it, or nothing.

    ``over``: in the place of a platform that is not running, whose folder is kept under another name. Raises
    ``InUse``, ``Refused``, ``OSError``.
    """
    there = folder.root.exists() and any(folder.root.iterdir())
    if there and not over:
        raise Refused(f"{folder.root} is not empty: restore into a new folder, or in its place with --over")
    if over and not folder.settings_file.exists():
        raise Refused(f"{folder.root} holds no platform whose place could be taken: leave --over out")
    with contextlib.ExitStack() as held:
        if over:
            held.enter_context(hold(folder))
        workshop = held.enter_context(_beside(folder.root))
        new = PlatformFolder(workshop / "platform")
        manifest, count = _unpack(archive, new)
        if over and (present := folder.settings({}).platform.identity) != manifest["identity"]:
            raise Refused(f"{archive} is of {manifest['identity']}, and {folder.root} is {present}'s")
        # Versions that an earlier restore gave out were sent, though the archive may not know of it.
        write_known(new, Known((), reissued_up_to=read_known(folder).reissued_up_to))
        kept = _put_in_place(new.root, folder.root, over=over)
    return Restored(manifest["identity"], manifest["made_at"], count, manifest["database"] is not None, kept)


def _put_in_place(new: Path, root: Path, *, over: bool) -> str | None:
    kept = root.with_name(f"{root.name}.before-restore")
    if over and kept.exists():
        raise Refused(f"{kept} is still there from another time: remove it, or give it another name")
    if over:
        root.rename(kept)
    elif root.exists():
        root.rmdir()
    new.rename(root)
    sync_folder(root.parent)
    return str(kept) if over else None


def _unpack(archive: Path, new: PlatformFolder) -> tuple[dict[str, Any], int]:
    """Write the files of an archive; nothing in it decides where outside of the folder anything goes."""
    count = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            manifest = _manifest(tar, archive)
            new.root.mkdir(mode=FOLDER_MODE)
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                name = PurePosixPath(member.name)
                if content is None or name.is_absolute() or ".." in name.parts:
                    raise Refused(f"{archive} is no backup of a platform: it holds {member.name}")
                path = new.root / name
                path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                path.touch(mode=KEY_MODE, exist_ok=False)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
                    os.fchmod(file.fileno(), member.mode & 0o777)
                    os.fsync(file.fileno())
                count += 1
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Refused(f"{archive} cannot be read as a backup of a platform: {error}") from error
    expected = [new.settings_file] + ([new.root / manifest["database"]] if manifest["database"] else [])
    for path in expected:
        if not path.exists():
            raise Refused(f"{archive} is not complete: it has no {path.name}")
    return manifest, count


def _manifest(tar: tarfile.TarFile, archive: Path) -> dict[str, Any]:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.isreg() and first.name == MANIFEST else None
    try:
        read = json.loads(b"" if content is None else content.read(MANIFEST_BYTES_MAX))
        found: dict[str, Any] = {name: read[name] for name in ("format", "identity", "made_at", "database")}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{archive} is no backup of a platform") from error
    if found["format"] != FORMAT:
        raise Refused(f"{archive} was made by another version of the engine, in format {found['format']}")
    return found


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a private place on the same disk, and remove it with what is left in it."""
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
