"""Moving house: a platform's data into another database, its queues to another broker, its settings after them."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from certs import files
from engine.refusals import Refused
from engine.registration.folder import SETTINGS_MODE, hold, read_known, write_known
from engine.settings import ENVIRONMENT_PREFIX, PlatformFolder, Settings, read_settings
from engine.store import moving
from engine.store.copying import sqlite_file
from engine.store.database import Database, address
from engine.store.marks import UNTOLD
from engine.store.migrating import migrate

HERE: Final = "here"
"""Instead of a URL: SQLite in the folder, or no RabbitMQ."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done, or would be. ``rows``: by table. ``kept``: the old database and settings."""

    rows: Mapping[str, int]
    database: str
    broker: str
    kept: tuple[str, ...]


async def move(folder: PlatformFolder, *, to: str | None, to_broker: str | None, dry_run: bool = False) -> Moved:
    """Carry a platform that is not running; ``None`` leaves the database or the broker as it is.

    The old database stays: an SQLite file under another name, so that nobody serves it by mistake. Raises ``InUse``,
    ``Refused``, ``BadSettings``, ``NotEmpty``, ``NotAlike``, ``ForeignSchema``, ``StoreUnavailable``; nothing is
    changed then.
    """
    changes = {
        section: {"url": "" if url == HERE else url}
        for section, url in (("store", to), ("broker", to_broker))
        if url is not None
    }
    if not changes:
        raise Refused("say where to: a database, a broker, or both")
    for section in changes:
        if (variable := f"{ENVIRONMENT_PREFIX}{section.upper()}__URL") in os.environ:
            raise Refused(f"{variable} is set, and overrides the settings that a move changes: unset it first")
    old = folder.settings({})
    text = _with(folder.settings_file.read_text(), changes)
    new = read_settings(tomllib.loads(text), {})
    with hold(folder):
        rows = await _carry(folder.database_url(old), folder.database_url(new), dry_run=dry_run) if to else {}
        kept = [] if dry_run else _change_house(folder, old, text, database=to is not None)
    return Moved(rows, _shown(new.store.url, "SQLite in the folder"), _shown(new.broker.url, "in memory"), tuple(kept))


async def _carry(old_url: str, new_url: str, *, dry_run: bool) -> dict[str, int]:
    if address(old_url) == address(new_url):
        raise Refused("that is where the data is already")
    await migrate(old_url)
    source = Database(old_url)
    await source.start()
    try:
        if dry_run:
            await moving.check_empty(new_url)
            return await moving.count(source)
        return {table: counted.rows for table, counted in (await moving.carry(source, new_url)).items()}
    finally:
        await source.stop()


def _change_house(folder: PlatformFolder, old: Settings, text: str, *, database: bool) -> list[str]:
    """Let the settings name the new places, and say under which names the old things are kept."""
    if database:  # the next start finds these rows, by their mark, on whatever server they are now
        write_known(folder, replace(read_known(folder), server=UNTOLD))
    before = folder.settings_file.with_name(f"{folder.settings_file.name}.before-move")
    files.write_whole(before, folder.settings_file.read_bytes(), mode=SETTINGS_MODE)
    files.write_whole(folder.settings_file, text.encode(), mode=SETTINGS_MODE)
    kept = [str(before)]
    file = sqlite_file(folder.database_url(old))
    if database and not old.store.url and file is not None:
        moved = Path(f"{file}.before-move")
        file.replace(moved)
        kept.append(str(moved))
    return kept


def _with(text: str, changes: Mapping[str, Mapping[str, str]]) -> str:
    """Change values in the text of a settings file, and nothing else of it.

    Raises ``Refused`` for a file that is written in a way that this does not understand.
    """
    wanted: dict[str, Any] = tomllib.loads(text)
    lines = text.splitlines()
    for section, values in changes.items():
        wanted[section] = {**wanted.get(section, {}), **values}
        for name, value in values.items():
            _set(lines, section, name, f"{name} = {json.dumps(value, ensure_ascii=False)}")
    changed = "\n".join(lines) + "\n"
    try:
        if tomllib.loads(changed) == wanted:
            return changed
    except tomllib.TOMLDecodeError:
        pass
    told = "; ".join(
        f"[{section}] {name} = {value!r}" for section, one in changes.items() for name, value in one.items()
    )
    raise Refused(f"engine.toml is written in a way that is not changed by a program: set {told} by hand")


def _set(lines: list[str], section: str, name: str, line: str) -> None:
    """Put a line into its table, in the place of the one that says the same."""
    header = f"[{section}]"
    begin = next((n for n, each in enumerate(lines) if each.partition("#")[0].strip() == header), None)
    if begin is None:
        lines += ["", header, line]
        return
    for n in range(begin + 1, len(lines)):
        if lines[n].lstrip().startswith("["):
            break
        if lines[n].partition("=")[0].strip() == name:
            lines[n] = line
            return
    lines.insert(begin + 1, line)


def _shown(url: str, otherwise: str) -> str:
    """Name a place without a password."""
    return urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl() if url else otherwise
