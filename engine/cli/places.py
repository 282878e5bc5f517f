"""Where a platform can be for a while: a database and names of queues that nobody else has, and that go afterwards."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from brokers.rabbitmq import RabbitMqOptions
from brokers.rabbitmq import remove as remove_queues
from engine.protocol.modules import all_modules
from engine.replication.push import queue_name
from engine.store import subscriptions
from engine.store.creating import create_database, drop_database
from engine.store.database import Database
from engine.store.migrating import migrate


@dataclass(frozen=True, slots=True)
class Place:
    """A place for one platform. ``name``: of the database, and what the names of its queues begin with."""

    name: str
    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    _server: str = field(repr=False)

    @property
    def _broker(self) -> RabbitMqOptions:
        return RabbitMqOptions(url=self.broker_url, prefix=self.name)

    def take(self, settings_file: Path) -> str:
        """Have a platform that was made with these URLs use these names, too; returns the line that says so.

        Others may use this RabbitMQ, and under the same Platform Identity.
        """
        line = f'name_prefix = "{self.name}"'
        settings_file.write_text(settings_file.read_text().replace("[broker]\n", f"[broker]\n{line}\n"))
        return line

    async def remove(self) -> None:
        """Take the database and the queues away, once the platform does not run any more.

        Raises ``StoreUnavailable`` and ``BrokerError``.
        """
        try:
            await remove_queues(
                self._broker, queues=await self._queues(), topics=[str(module.id) for module in all_modules()]
            )
        finally:
            await drop_database(self._server, self.name)

    async def _queues(self) -> list[str]:
        """Name the queues that there may be: those of a subscription's earlier lives if it was killed in between."""
        await migrate(self.database_url)  # a platform that was not made has no tables
        database = Database(self.database_url)
        await database.start()
        try:
            async with database.reading() as tx:
                found = await subscriptions.all_outbound(tx)
        finally:
            await database.stop()
        return [queue_name(replace(each, life=life + 1)) for each in found for life in range(each.life)]


async def make_place(name: str, *, server: str, broker_url: str) -> Place:
    """Make a database on a PostgreSQL, and see whether RabbitMQ lets us in.

    Raises ``StoreUnavailable`` and ``BrokerError``.
    """
    await remove_queues(RabbitMqOptions(url=broker_url, prefix=name), queues=(), topics=())
    return Place(name, await create_database(server, name), broker_url, server)
