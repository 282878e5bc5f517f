"""`sandbox`, `simulate`: a platform whose CPOs are made up, and what happens at their stations."""

import os
from typing import Annotated, Any

import typer

from engine.cli.failure import Failure
from engine.cli.folder import served
from engine.cli.options import Folder, Json, Panel


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.START)(sandbox)
    app.command(rich_help_panel=Panel.CALLS)(simulate)


def sandbox(
    folder: Folder,
    *,
    speed: Annotated[
        float, typer.Option(min=0.01, max=1000, metavar="FACTOR", help="Stations are so much faster than real ones.")
    ] = 1.0,
    drivers: Annotated[
        bool, typer.Option("--drivers/--no-drivers", help="Somebody plugs in where a session waits for a cable.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run the platform with CPOs that are simulated: for partners and tests, never beside real stations."""
    simulated = {"KIND": "simulated", "SIMULATED_SPEED": str(speed), "SIMULATED_DRIVERS": str(drivers)}
    chosen = {f"OCPI_ENGINE_BACKOFFICE__{name}": value for name, value in simulated.items()}
    served(folder, as_json=as_json, environment=os.environ | chosen)


def simulate(
    folder: Folder,
    act: Annotated[
        str | None,
        typer.Argument(metavar="[WHAT]", help="plug-in, unplug, present-token, arm-fault …; none: show the stations."),
    ] = None,
    details: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]…", help="For instance evse=BEBEC-L000001-E01.")
    ] = None,
    *,
    party: Annotated[str, typer.Option("--party", metavar="PARTY", help="Which CPO, if there are several.")] = "",
    as_json: Json = False,
) -> None:
    """Let something happen at the stations of a running sandbox, or look at them."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    with Api(folder) as api:
        shown = api.get("/api/v1/simulated")
        if act is None:
            _show(shown, as_json=as_json)
            return
        parties = [one["party"] for one in shown]
        if not party and len(parties) != 1:
            raise Failure("several CPOs are simulated here", f"say --party: {', '.join(parties)}")
        api.post(f"/api/v1/simulated/{segment(party or parties[0])}/{segment(act)}", _read(details or []))
    output.done(f"{act} at {party or parties[0]}")


def _read(details: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE arguments.

    Raises ``Failure`` for what is none.
    """
    read: dict[str, Any] = {}
    for one in details:
        name, separator, value = one.partition("=")
        if not separator:
            raise Failure(f"{one!r} is no NAME=VALUE", "for instance: evse=BEBEC-L000001-E01 need_kwh=20")
        read[name] = value
    return read


def _show(shown: list[dict[str, Any]], *, as_json: bool) -> None:
    from engine.cli import output

    if as_json:
        output.show(shown)
        return
    rows = [
        (one["party"], evse["uid"], evse["status"], "yes" if evse["plugged_in"] else "", evse["session"])
        for one in shown
        for evse in one["evses"]
    ]
    output.print_table(["party", "EVSE", "status", "car", "session"], rows, none="no EVSEs")
