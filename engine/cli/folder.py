"""`init` and `serve`: a platform's folder, and the platform."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel

DEFAULT_LISTEN = "127.0.0.1:8443"
PROCESSES_MAX = 64  # of one machine; each keeps up to six connections to PostgreSQL, which takes 100 by default


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.START)(init)
    app.command(rich_help_panel=Panel.START)(serve)


def init(
    folder: Folder,
    *,
    identity: Annotated[str, typer.Option(metavar="NAME", help="Our Platform Identity: a domain name of ours.")],
    party: Annotated[list[str], typer.Option(metavar="PARTY", help="A party to host here; may be repeated.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE", help="CPO (if left out), EMSP, HUB, or for instance locations:SENDER; repeatable."
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where partners reach us; https://NAME:PORT/ocpi if left out.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where we listen for partners.")] = DEFAULT_LISTEN,
    server_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Server certificate, leaf first; if left out, one is made.",
        ),
    ] = None,
    server_key: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Its private key.")
    ] = None,
    api: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The local API: unix:PATH or 127.0.0.1:PORT.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="postgresql://USER@HOST:5432/NAME; SQLite in DIR if left out.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="amqp://USER@HOST:5672/VHOST of RabbitMQ; none if left out.")
    ] = None,
    allow_private_addresses: Annotated[
        bool, typer.Option("--allow-private-addresses", help="Partners on this machine or network, for trials.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a platform's folder: settings, keys, the authority for partners' certificates, the database."""
    from engine.cli import output
    from engine.refusals import Refused
    from engine.registration.folder import init_folder
    from engine.settings import BadSettings, PlatformFolder
    from engine.store.database import StoreUnavailable
    from engine.store.migrating import ForeignSchema

    host, port = _host_and_port(listen)
    if (server_certificate is None) != (server_key is None):
        raise typer.BadParameter("--server-certificate and --server-key belong together")
    port_text = "" if port == 443 else f":{port}"  # noqa: PLR2004 - what https means
    try:
        made = init_folder(
            PlatformFolder(folder),
            identity=identity,
            base_url=base_url or f"https://{identity}{port_text}/ocpi",
            parties=party,
            roles=role or ["CPO"],
            listen_host=host,
            listen_port=port,
            server_certificate=server_certificate,
            server_key=server_key,
            api_listen=api,
            database_url=database,
            broker_url=broker,
            allow_private=allow_private_addresses,
        )
    except (Refused, BadSettings, ForeignSchema) as error:
        raise Failure(str(error), "nothing was made") from error
    except StoreUnavailable as error:
        raise Failure(
            f"the database says: {error}", "nothing was made; is it there, and may we make tables?"
        ) from error
    server_ca = None if made.server_ca is None else str(made.server_ca)
    if as_json:
        output.show(
            {"folder": str(made.folder), "identity": made.identity, "base_url": made.base_url, "server_ca": server_ca}
        )
        return
    output.done(
        f"{made.identity}: folder {folder}, hosts {', '.join(made.parties)}, partners reach it at {made.base_url}"
    )
    if made.server_ca is not None:
        output.hint(f"partners need {folder / made.server_ca.relative_to(made.folder)} to trust its server")
    output.hint(f"start it: ocpi-engine serve {folder}")


def serve(
    folder: Folder,
    processes: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=PROCESSES_MAX, help="So many processes at once; needs PostgreSQL."),
    ] = 1,
    as_json: Json = False,
) -> None:
    """Run the platform in the foreground, until Ctrl-C or SIGTERM."""
    served(folder, processes, as_json=as_json, environment=os.environ)


def served(folder: Path, processes: int = 1, *, as_json: bool, environment: Mapping[str, str]) -> None:
    """Serve until told to stop, and say so; several processes read their settings by themselves.

    Raises ``Failure``.
    """
    from engine import app, supervisor
    from engine.cli import output
    from engine.settings import Settings

    def show_ready(settings: Settings, port: int, api: str) -> None:
        platform = settings.platform
        where = f"{settings.listener.host}:{port}"
        if as_json:
            output.show({"ready": True, "base_url": platform.base_url, "listen": where, "api": api})
            return
        with_processes = "" if processes == 1 else f", with {processes} processes"
        output.done(f"{platform.identity} serves partners at {platform.base_url}, listening at {where}{with_processes}")
        output.hint(f"the local API is at {api}; Ctrl-C stops")

    try:
        if processes == 1:
            app.run(
                folder,
                on_ready=lambda engine: show_ready(engine.settings, engine.site.port, engine.operator.address),
                environment=environment,
            )
        else:
            supervisor.run(
                folder,
                processes,
                on_ready=lambda settings, sockets: show_ready(settings, sockets.port, sockets.api),
                explain=lambda error: output.failed(_in_words(folder, error)),
            )
    except Exception as error:
        raise _in_words(folder, error) from error
    output.done("stopped")


def _in_words(folder: Path, error: Exception) -> Failure:
    """Say why a platform is not served. Raises what nobody thought of."""
    from brokers.base import BrokerError
    from certs.errors import CertificateError
    from engine.registration.folder import InUse
    from engine.replication.marking import DatabaseReplaced
    from engine.server.operator.access import UnsafeTokenFile
    from engine.server.operator.listener import BadListenAddress
    from engine.settings import BadSettings
    from engine.store.database import StoreUnavailable
    from engine.store.migrating import ForeignSchema
    from engine.supervisor import NotStarted

    match error:
        case InUse():
            return Failure(str(error), f"look at it: ocpi-engine state {folder}")
        case BadSettings():
            return Failure(str(error))
        case DatabaseReplaced():
            return Failure(f"stopped: {error}", f"start it again, which mends that: ocpi-engine serve {folder}")
        case (
            BadListenAddress() | UnsafeTokenFile() | CertificateError() | ForeignSchema() | BrokerError() | NotStarted()
        ):
            return Failure(f"not started: {error}")
        case StoreUnavailable():
            hint = "make room, the folder writable, or the server reachable with this user and password"
            return Failure(f"not started: the database says {error}", hint)
        case OSError():
            hint = f"is the port in use, or the folder not ours? See {folder / 'engine.toml'}"
            return Failure(f"not started: {error.strerror or error}", hint)
        case _:
            raise error


def _host_and_port(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - ports end there
        raise typer.BadParameter(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)
