"""`init` and `serve`: a platform's folder, and the platform."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel

DEFAULT_LISTEN = "127.0.0.1:8443"


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
            allow_private=allow_private_addresses,
        )
    except (Refused, BadSettings) as error:
        raise Failure(str(error), "nothing was made") from error
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


def serve(folder: Folder, as_json: Json = False) -> None:
    """Run the platform in the foreground, until Ctrl-C or SIGTERM."""
    from certs.errors import CertificateError
    from engine.app import AlreadyRunning, Engine, run
    from engine.cli import output
    from engine.server.operator.access import UnsafeTokenFile
    from engine.server.operator.listener import BadListenAddress
    from engine.settings import BadSettings
    from engine.store.database import StoreUnavailable
    from engine.store.migrating import ForeignSchema

    def on_ready(engine: Engine) -> None:
        platform, listener = engine.settings.platform, engine.settings.listener
        where = f"{listener.host}:{engine.site.port}"
        if as_json:
            output.show({"ready": True, "base_url": platform.base_url, "listen": where, "api": engine.operator.address})
            return
        output.done(f"{platform.identity} serves partners at {platform.base_url}, listening at {where}")
        output.hint(f"the local API is at {engine.operator.address}; Ctrl-C stops")

    try:
        run(folder, on_ready=on_ready)
    except AlreadyRunning as error:
        raise Failure(str(error), f"look at it: ocpi-engine state {folder}") from error
    except BadSettings as error:
        raise Failure(str(error)) from error
    except (BadListenAddress, UnsafeTokenFile, CertificateError, ForeignSchema) as error:
        raise Failure(f"not started: {error}") from error
    except StoreUnavailable as error:
        raise Failure(f"not started: the database says {error}", "make room, or the folder writable") from error
    except OSError as error:
        hint = f"is the port in use, or the folder not ours? See {folder / 'engine.toml'}"
        raise Failure(f"not started: {error.strerror or error}", hint) from error
    output.done("stopped")


def _host_and_port(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - ports end there
        raise typer.BadParameter(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)
