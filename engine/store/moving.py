"""All rows of one database carried into another one, of the same or another kind: all of them, or none.

Tables are read in one transaction and written in one other, in the order in which they refer to each other. Then
both sides are read once more, row by row, and compared before anything is committed.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Table, func, insert, inspect, select, text
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store.database import Database, Tx
from engine.store.migrating import migrate
from engine.store.tables import metadata

PAGE: Final = 500  # rows carried at once: a few MB of Locations

_encode = msgspec.msgpack.Encoder().encode


class NotEmpty(Exception):
    """There is something in the database that should be filled: another platform's, or an earlier attempt's."""


class NotAlike(Exception):
    """What was written is not what was read; nothing was kept."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of a table, and a digest of all that is in them."""

    rows: int
    digest: str


async def count(source: Database) -> dict[str, int]:
    """Count the rows of each table."""
    async with source.reading() as tx:
        return {table.name: await _rows(tx, table) for table in metadata.sorted_tables}


async def check_empty(url: str) -> None:
    """See whether a database could be filled, without leaving anything in it.

    Raises ``NotEmpty``, ``StoreUnavailable``.
    """
    database = Database(url)
    await database.start()
    try:
        async with database.transaction() as tx:
            names = await _connection(tx).run_sync(_tables)
            for table in metadata.sorted_tables:
                if table.name in names and await _rows(tx, table):
                    raise NotEmpty(f"{database.url.database} has rows in {table.name} already: give an empty database")
    finally:
        await database.stop()


async def carry(source: Database, url: str) -> dict[str, Counted]:
    """Fill an empty database with what is in another one; returns what was carried, table by table.

    Raises ``NotEmpty``, ``NotAlike``, ``ForeignSchema``, ``StoreUnavailable``; the database is empty then.
    """
    await check_empty(url)
    await migrate(url)
    target = Database(url)
    await target.start()
    try:
        async with source.reading() as read, target.transaction() as written:
            carried = {table.name: await _counted(read, table, into=written) for table in metadata.sorted_tables}
            for table in metadata.sorted_tables:
                if await _counted(written, table) != carried[table.name]:
                    raise NotAlike(f"what was written into {table.name} is not what was read")
            if not target.sqlite:
                await _number_on(written)
        return carried
    finally:
        await target.stop()


async def _counted(tx: Tx, table: Table, *, into: Tx | None = None) -> Counted:
    """Count and digest the rows of a table, and carry them over if it is said whereto."""
    digest, count = hashlib.sha256(), 0
    async for page in _pages(tx, table):
        if into is not None:
            await into.execute(insert(table), [row._asdict() for row in page])
        count += len(page)
        _digest(digest, page)
    return Counted(count, digest.hexdigest())


async def _pages(tx: Tx, table: Table) -> AsyncIterator[Sequence[Row[Any]]]:
    """Read a table page by page, in the order of its key, which is that of the bytes on every database."""
    key = (column.collate("C") if _by_language(tx, column) else column for column in table.primary_key.columns)
    async with _connection(tx).stream(select(table).order_by(*key)) as rows:
        async for page in rows.partitions(PAGE):
            yield page


def _digest(digest: Any, page: Sequence[Row[Any]]) -> None:
    for row in page:
        digest.update(_encode(tuple(row)))


def _by_language(tx: Tx, column: Any) -> bool:
    """Say whether a column would be sorted as a language has it: on PostgreSQL texts are, unless told otherwise."""
    return tx.connection.dialect.name == "postgresql" and column.type.python_type is str


async def _rows(tx: Tx, table: Table) -> int:
    return int((await tx.execute(select(func.count()).select_from(table))).scalar() or 0)


async def _number_on(tx: Tx) -> None:
    """Let PostgreSQL's own numbers go on where those that came along end."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            statement = text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'),"  # noqa: S608 - names of ours
                f" coalesce((SELECT max({column.name}) FROM {table.name}), 0) + 1, false)"
            )
            await tx.execute(statement)


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _connection(tx: Tx) -> AsyncConnection:
    assert isinstance(tx.connection, AsyncConnection)  # noqa: S101 - a transaction that is a block has no other
    return tx.connection
