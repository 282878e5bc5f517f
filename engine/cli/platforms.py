"""`connect`, `disconnect`, `platforms`: partners (chapter 1)."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel, Partner


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (connect, disconnect, platforms):
        app.command(rich_help_panel=Panel.REGISTRATION)(command)


def connect(
    folder: Folder,
    base_url: Annotated[str, typer.Argument(metavar="BASE-URL", help="Where the partner serves OCPI, https.")],
    *,
    identity: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its Platform Identity; if left out, the host of BASE-URL.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Install this chain first, as `certificate install` does.")
    ] = None,
    server_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM to trust for its server; if left out, public authorities.")
    ] = None,
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="Take objects that break the tables, if nothing is lost by it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the handshake with a partner, and exchange the lists of parties (UC 01.03, 02.01)."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    partner = identity or urlsplit(base_url).hostname or ""
    order = {
        "base_url": base_url,
        "chain": None if certificate is None else pem(certificate),
        "server_ca": None if server_ca is None else pem(server_ca),
        "tolerant": tolerant or None,
    }
    with Api(folder) as api:
        platform = api.post(f"/api/v1/platforms/{segment(partner)}/connect", order)
        parties = api.get(f"/api/v1/platforms/{segment(partner)}/parties")
    if as_json:
        output.show(platform | {"parties": parties})
        return
    if platform["state"] != "connected":
        output.say(output.odd("… "), f"{platform['identity']} is {platform['state']}: {platform['last_error']}")
        output.hint(f"it is asked until it answers; see: ocpi-engine platforms {folder}")
        return
    names = ", ".join(party["party_id"] for party in parties[:10]) or "no parties yet"
    output.done(
        f"{platform['identity']} is connected; it serves {names}{' …' if len(parties) > 10 else ''}",  # noqa: PLR2004 - a line
        then=f"subscribe: ocpi-engine subscribe {folder} --as OURS --to THEIRS locations",
    )


def disconnect(
    folder: Folder,
    partner: Partner,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "ended by the operator",
    reset: Annotated[
        bool, typer.Option("--reset", help="Do not tell the partner: end it on our side, so that it can connect again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say bye: ends the connection, its certificates and its subscriptions. Copies stay readable (UC 01.05)."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    verb = "reset" if reset else "disconnect"
    with Api(folder) as api:
        platform = api.post(f"/api/v1/platforms/{segment(partner)}/{verb}", {"reason": reason})
    if as_json:
        output.show(platform)
        return
    output.done(
        f"{platform['identity']} is {platform['state']}",
        then="connecting again takes new certificates, signed by both",
    )


def platforms(
    folder: Folder,
    versions: Annotated[
        str | None, typer.Option(metavar="PARTNER", help="Ask this one which OCPI versions it speaks (UC 01.06).")
    ] = None,
    as_json: Json = False,
) -> None:
    """List partners."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    with Api(folder) as api:
        if versions is not None:
            answer = api.get(f"/api/v1/platforms/{segment(versions)}/versions")
            if as_json:
                output.show(answer)
            else:
                output.say(f"{versions} speaks ", ", ".join(map(_version, answer["versions"])))
            return
        found = api.get("/api/v1/platforms")
    if as_json:
        output.show(found)
        return
    output.print_table(
        ["partner", "state", "base URL", "connected", "parties fetched", "last error"],
        [
            [
                platform["identity"],
                coloured(platform["state"]),
                platform["base_url"],
                output.age(platform["connected_at"]),
                output.age(platform["parties_fetched_at"]),
                platform["last_error"] or platform["end_reason"],
            ]
            for platform in found
        ],
        none="no partners yet; begin with `ocpi-engine certificate request`",
    )


def coloured(state: str) -> Any:
    """Mark a state as in order, over, or in between."""
    from engine.cli import output

    match state.lower():
        case "connected" | "live":
            return output.good(state)
        case "ended":
            return output.faint(state)
        case _:
            return output.odd(state)


def _version(entry: Any) -> str:
    return str(entry.get("version", entry)) if isinstance(entry, dict) else str(entry)


def pem(path: Path) -> str:
    """Read a PEM file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {error}", "give a PEM file") from error
