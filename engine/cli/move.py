"""`move`: carry a platform into another database or to another broker, and back."""

import asyncio
from typing import Annotated

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.WATCH)(move)


def move(
    folder: Folder,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql://USER@HOST:5432/NAME, an empty database; here: SQLite in DIR."),
    ] = None,
    to_broker: Annotated[
        str | None, typer.Option(metavar="URL", help="amqp://USER@HOST:5672/VHOST of RabbitMQ; here: none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="See whether it can be done, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Carry a stopped platform's data into another database, its queues to another broker, or both."""
    from dataclasses import asdict

    from engine.cli import output
    from engine.refusals import Refused
    from engine.registration.folder import InUse
    from engine.registration.moving import move as carry
    from engine.settings import BadSettings, PlatformFolder
    from engine.store.database import StoreUnavailable
    from engine.store.migrating import ForeignSchema
    from engine.store.moving import NotAlike, NotEmpty

    try:
        moved = asyncio.run(carry(PlatformFolder(folder), to=to, to_broker=to_broker, dry_run=dry_run))
    except InUse as error:
        raise Failure(str(error), "stop it first") from error
    except (Refused, BadSettings, NotEmpty, NotAlike, ForeignSchema) as error:
        raise Failure(str(error), "nothing was moved") from error
    except StoreUnavailable as error:
        raise Failure(f"the database says: {error}", "nothing was moved") from error
    if as_json:
        output.show(asdict(moved) | {"dry_run": dry_run})
        return
    if moved.rows:
        rows = [[table, output.number(count)] for table, count in moved.rows.items() if count]
        output.print_table(["table", "rows"], rows, none="there are no rows")
    what = f"data: {moved.database}; queues: {moved.broker}"
    if dry_run:
        output.done(f"it can be moved: {what}", then="the same without --dry-run")
        return
    output.done(f"moved: {what}", then=f"start it: ocpi-engine serve {folder}")
    for kept in moved.kept:
        output.hint(f"kept, until you remove it: {kept}")
