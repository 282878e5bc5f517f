"""A new platform's folder: settings, authority, server certificate and database, made in one go or not at all."""

import asyncio
import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from certs import files, names
from certs.authority import Authority, Purpose
from certs.errors import CertificateError, FileProblem
from engine.clock import Clock, SystemClock
from engine.protocol.registration import check_base_url, host_of
from engine.refusals import Refused
from engine.registration.directory import Directory
from engine.registration.parties import Parties
from engine.settings import PlatformFolder, read_settings
from engine.store.database import Database
from engine.store.marks import UNTOLD, Server
from engine.store.migrating import migrate

_log = logging.getLogger(__name__)

SERVER_CA_FILE: Final = "server-ca.pem"
_FOLDER_MODE: Final = 0o700
SETTINGS_MODE: Final = 0o600
MARKS_LOOK_S: Final = 0.02  # a renewal takes about that long, two writes that reach the disk; more only delays others
MARKS_TELL_S: Final = 5.0  # who waits for longer says so; a mend takes longer where there are many objects


class InUse(Exception):
    """A process serves this folder."""


@contextmanager
def hold(folder: PlatformFolder, *, alone: bool = True) -> Iterator[None]:
    """Keep everybody else out: SQLite has one writer. Not ``alone``: only those out who want to be alone.

    Raises ``InUse``.
    """
    folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder.run / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise InUse(f"{folder.root} is already served by process {holder}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@dataclass(frozen=True, slots=True)
class Known:
    """By what a platform's folder knows its database.

    ``marks``: ``None`` is a database that has none. ``reissued_up_to``: no restore so far numbered anything higher.
    """

    marks: tuple[str | None, ...]
    server: Server = UNTOLD
    reissued_up_to: int = 0


_Marks = tuple[str | None, ...]  # all that there was in the file before it knew of servers


def read_known(folder: PlatformFolder) -> Known:
    """Read what the folder knows. A folder without the file knows databases that have no mark.

    One whose file is none knows no database: one that is mended without need costs some traffic. Raises
    ``FileProblem`` for a file that is there and cannot be read at the moment.
    """
    try:
        read = msgspec.json.decode(folder.mark_file.read_bytes(), type=Known | _Marks)
    except FileNotFoundError:
        return Known((None,))
    except ValueError:
        return Known(())
    except OSError as problem:
        raise FileProblem(f"{folder.mark_file} cannot be read: {problem.strerror}") from problem
    return read if isinstance(read, Known) else Known(read)


def write_known(folder: PlatformFolder, known: Known) -> None:
    """Write what the folder knows; no marks: whatever database it finds is an older one.

    Raises ``FileProblem``.
    """
    files.write_whole(folder.mark_file, msgspec.json.encode(known), mode=SETTINGS_MODE)


@asynccontextmanager
async def alone_with_marks(folder: PlatformFolder, *, wait_s: float = math.inf) -> AsyncIterator[None]:
    """Keep other processes from renewing marks and from mending; whoever ends, however, lets go of it.

    Raises ``InUse`` when another one goes on for longer than this, ``FileProblem``.
    """
    tell_at = time.monotonic() + MARKS_TELL_S
    deadline = time.monotonic() + wait_s
    with _marks_lock(folder) as lock:
        # Tried again and again rather than waited for in a thread, which nothing could call back.
        while not _taken(lock):
            if time.monotonic() > deadline:
                raise InUse(f"another process has been busy with the marks of {folder.root} for {wait_s:g} s")
            if time.monotonic() > tell_at:
                tell_at = math.inf
                _log.warning("waiting for another process, which looks at the database or mends it")
            await asyncio.sleep(MARKS_LOOK_S)
        yield


def _marks_lock(folder: PlatformFolder) -> TextIO:
    try:
        folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (folder.run / "marks.lock").open("a")
    except OSError as problem:
        raise FileProblem(f"{folder.run} cannot be used: {problem.strerror}") from problem


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        raise FileProblem(f"{lock.name} cannot be locked: {problem.strerror}") from problem
    return True


@dataclass(frozen=True, slots=True)
class NewPlatform:
    """What was made. ``server_ca``: hand it to partners where no public authority vouches for our server."""

    folder: Path
    identity: str
    base_url: str
    server_ca: Path | None
    parties: tuple[str, ...]


def init_folder(folder: PlatformFolder, **values: Any) -> NewPlatform:
    """Make a platform's folder, for callers without an event loop; see ``make_folder``."""
    return asyncio.run(make_folder(folder, **values))


async def make_folder(
    folder: PlatformFolder,
    *,
    identity: str,
    base_url: str,
    parties: Sequence[str],
    roles: Sequence[str] = ("CPO",),
    listen_host: str = "127.0.0.1",
    listen_port: int = 8443,
    server_certificate: Path | None = None,
    server_key: Path | None = None,
    api_listen: str | None = None,
    database_url: str | None = None,
    broker_url: str | None = None,
    allow_private: bool = False,
    clock: Clock | None = None,
) -> NewPlatform:
    """Make a platform's folder, with these parties hosted in these roles (``CPO``, ``EMSP``, ``locations:SENDER``).

    Without ``server_certificate`` a local authority vouches for the server; partners need its certificate then.
    A server certificate and its key that are given stay where they are. Raises ``Refused`` for values that cannot be
    used and for a folder that holds a platform already, ``BadSettings`` likewise; nothing is left behind then.
    """
    clock = clock or SystemClock()
    try:
        identity = names.common_name(identity)
        base_url = check_base_url(base_url)
    except (CertificateError, ValueError) as error:
        raise Refused(str(error)) from error
    values: dict[str, dict[str, Any]] = {
        "platform": {"identity": identity, "base_url": base_url},
        "listener": {"host": listen_host, "port": listen_port},
    }
    if server_certificate is not None and server_key is not None:
        values["listener"] |= _whole_paths(certificate=server_certificate, key=server_key)
    elif server_certificate is not None or server_key is not None:
        raise Refused("a server certificate and its key belong together: give both, or neither")
    if allow_private:
        values["peers"] = {"allow_private_addresses": True}
    if api_listen is not None:
        values["api"] = {"listen": api_listen}
    if database_url is not None:
        values["store"] = {"url": database_url}
    if broker_url is not None:
        values["broker"] = {"url": broker_url}
    read_settings(values, {})
    _refuse_existing(folder)
    there_before = set(folder.root.iterdir()) if folder.root.exists() else None
    try:
        server_ca = _write(folder, values, clock, local_server=server_certificate is None)
        await _host(folder, parties, roles, clock)
    except BaseException as error:
        _remove_new(folder.root, there_before)
        if isinstance(error, CertificateError | OSError):
            raise Refused(str(error)) from error
        raise
    return NewPlatform(folder.root, identity, base_url, server_ca, tuple(party.upper() for party in parties))


def _whole_paths(**paths: Path) -> dict[str, str]:
    """Name files in a way that does not depend on where the process was started."""
    return {name: str(path.absolute()) for name, path in paths.items()}


def _refuse_existing(folder: PlatformFolder) -> None:
    for path in (folder.settings_file, folder.authority, folder.keys, folder.tls, folder.root / "engine.sqlite"):
        if path.exists():
            raise Refused(f"{folder.root} holds a platform already ({path.name}): choose another folder")


def _write(
    folder: PlatformFolder, values: Mapping[str, Mapping[str, Any]], clock: Clock, *, local_server: bool
) -> Path | None:
    settings = read_settings(values, {})
    identity, now = settings.platform.identity, clock.now()
    for path in (folder.root, folder.keys, folder.tls, folder.run):
        files.make_private_folder(path)
    folder.root.chmod(_FOLDER_MODE)  # it may have been there, open to others
    # An authority's name is what people see in a certificate; the identity is what matters, and it may be long.
    Authority.create(f"OCPI clients of {identity}"[: names.COMMON_NAME_MAX], now=now).save(folder.authority)
    server_ca = None
    if local_server:
        local = Authority.create(f"OCPI server {identity}"[: names.COMMON_NAME_MAX], now=now, purpose=Purpose.SERVER)
        local.save(folder.tls / "authority")
        key, issued = local.issue_server([host_of(settings.platform.base_url)], now=now)
        files.write_key(folder.path(settings.listener.key), key)
        files.write_chain(folder.path(settings.listener.certificate), issued.pem_chain)
        server_ca = folder.tls / SERVER_CA_FILE
        files.write_chain(server_ca, local.certificate_pem)
    files.write_whole(folder.settings_file, _toml(values).encode(), mode=SETTINGS_MODE)
    return server_ca


def _toml(values: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what differs from the defaults. A JSON string, number or boolean is one of TOML, too."""
    lines = ["# What is not set here has its default. Every setting: deploy/engine.toml"]
    for section, settings in values.items():
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


async def _host(folder: PlatformFolder, parties: Sequence[str], roles: Sequence[str], clock: Clock) -> None:
    """Make the database, with the parties that are hosted from the beginning."""
    url = folder.database_url(folder.settings())
    await migrate(url)
    database = Database(url)
    await database.start()
    try:
        directory = Directory(database, clock)
        hosting = Parties(database, directory, clock)
        for party in parties:
            await hosting.add(party, roles=roles, hub="HUB" in {role.upper() for role in roles})
    finally:
        await database.stop()


def _remove_new(root: Path, there_before: set[Path] | None) -> None:
    """Undo a beginning, so that it can be begun again."""
    if not root.exists():
        return
    for path in set(root.iterdir()) - (there_before or set()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if there_before is None:
        root.rmdir()
