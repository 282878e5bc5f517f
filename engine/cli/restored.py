"""`backup`, `restore`, `restored`: a platform kept elsewhere, brought back, and what partners need then."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel

Archive = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The archive: a .tar.gz that only this user may read.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (backup, restore, restored):
        app.command(rich_help_panel=Panel.WATCH)(command)


def backup(folder: Folder, archive: Archive, as_json: Json = False) -> None:
    """Copy a platform into one file, while it runs or not: settings, keys, certificates, and the data if in SQLite."""
    from dataclasses import asdict

    from engine.cli import output
    from engine.refusals import Refused
    from engine.registration.backup import back_up
    from engine.settings import BadSettings, PlatformFolder
    from engine.store.database import StoreUnavailable

    try:
        made = back_up(PlatformFolder(folder), archive)
    except (Refused, BadSettings) as error:
        raise Failure(str(error), "nothing was written") from error
    except StoreUnavailable as error:
        raise Failure(f"the database says: {error}", "nothing was written") from error
    except OSError as error:
        raise Failure(f"{error.filename or archive}: {error.strerror or error}", "nothing was written") from error
    if as_json:
        output.show(asdict(made))
        return
    output.done(
        f"{made.identity}: {output.counted(made.files, 'file')}, {output.size(made.bytes)}, in {archive}",
        then=f"keep it like a private key; bring it back: ocpi-engine restore {folder} {archive}",
    )
    for outside in made.outside:
        output.hint(f"not in it, back it up yourself: {outside}")


def restore(
    folder: Folder,
    archive: Archive,
    over: Annotated[
        bool, typer.Option("--over", help="Put it in the place of a stopped platform's folder, which is kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a platform back from an archive; its next start gives objects new versions, and owes everything again."""
    from dataclasses import asdict

    from certs.errors import FileProblem
    from engine.cli import output
    from engine.refusals import Refused
    from engine.registration.backup import bring_back
    from engine.registration.folder import InUse
    from engine.settings import BadSettings, PlatformFolder

    try:
        brought = bring_back(PlatformFolder(folder), archive, over=over)
    except InUse as error:
        raise Failure(str(error), "stop it first") from error
    except (Refused, BadSettings, FileProblem) as error:
        raise Failure(str(error), "nothing was restored") from error
    except OSError as error:
        raise Failure(f"{error.filename or archive}: {error.strerror or error}", "nothing was restored") from error
    if as_json:
        output.show(asdict(brought))
        return
    output.done(
        f"{brought.identity}: {output.counted(brought.files, 'file')}, as of {brought.made_at}",
        then=f"start it, which mends what partners know better: ocpi-engine serve {folder}",
    )
    if not brought.data:
        output.hint("its data is in PostgreSQL: restore that with PostgreSQL's own tools before you start it")
    if brought.kept is not None:
        output.hint(f"kept, until you remove it: {brought.kept}")


def restored(folder: Folder, as_json: Json = False) -> None:
    """Say that a stopped platform's database is an older one: what partners hold and are owed is put right at once."""
    from dataclasses import asdict

    from certs.errors import FileProblem
    from engine.cli import output
    from engine.clock import SystemClock
    from engine.registration.folder import InUse
    from engine.replication.marking import say_restored
    from engine.settings import BadSettings, PlatformFolder
    from engine.store.database import StoreUnavailable
    from engine.store.migrating import ForeignSchema

    platform = PlatformFolder(folder)
    try:
        mended = asyncio.run(say_restored(platform, platform.settings(), SystemClock()))
    except InUse as error:
        raise Failure(str(error), "stop it first") from error
    except (BadSettings, ForeignSchema) as error:
        raise Failure(str(error)) from error
    except (StoreUnavailable, FileProblem) as error:
        raise Failure(f"not done, or not to its end: {error}", "do it again: repeating it does no harm") from error
    if as_json:
        output.show(asdict(mended))
        return
    output.done(
        f"{output.counted(mended.objects, 'object')} with new versions; owed in full to"
        f" {output.counted(mended.subscriptions_here, 'subscription')} of partners;"
        f" {output.counted(mended.subscriptions_of_ours, 'subscription')} of ours to be asked for again",
        then=f"start it: ocpi-engine serve {folder}",
    )
    output.hint("what to look at then: docs/scaling.md, Backup and restore")
