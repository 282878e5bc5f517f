"""`parties`: those hosted here, and those that partners serve (UC 02.01)."""

from typing import Annotated, Any

import typer

from engine.cli.groups import ListByDefault
from engine.cli.options import Folder, Json, Panel

group = typer.Typer(
    name="parties",
    cls=ListByDefault,
    help="Parties hosted here, and partners' parties: `parties DIR`, `parties add DIR PARTY`, …",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

PartyId = Annotated[str, typer.Argument(metavar="PARTY", help="A Party ID, for instance BEBEC.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, rich_help_panel=Panel.REGISTRATION)


@group.command(name="list")
def list_parties(
    folder: Folder,
    of: Annotated[str | None, typer.Option(metavar="PARTNER", help="A partner's, as it told us last.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="With --of: ask the partner now.")] = False,
    as_json: Json = False,
) -> None:
    """List parties; what `parties DIR` does."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    with Api(folder) as api:
        if of is None:
            found = api.get("/api/v1/parties")
        elif refresh:
            found = api.post(f"/api/v1/platforms/{segment(of)}/parties/refresh")
        else:
            found = api.get(f"/api/v1/platforms/{segment(of)}/parties")
    if as_json:
        output.show(found)
        return
    output.print_table(
        ["party", "name", "sends", "receives", ""],
        [
            [
                party["party_id"],
                str(party["business_details"].get("name", "")),
                _modules(party, "SENDER"),
                _modules(party, "RECEIVER"),
                "hub party" if party["hub"] else "",
            ]
            for party in found
        ],
        none="no parties" + ("; add one with `ocpi-engine parties add`" if of is None else " that we know of"),
    )


@group.command()
def add(
    folder: Folder,
    party: PartyId,
    role: Annotated[
        list[str],
        typer.Option(metavar="ROLE", help="CPO, EMSP, HUB, or MODULE:SENDER, MODULE:RECEIVER; may be repeated."),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="Business name; the Party ID if left out.")] = None,
    website: Annotated[str | None, typer.Option(help="Business website.")] = None,
    as_json: Json = False,
) -> None:
    """Host a party here, or change what partners are told about it."""
    from engine.cli import output
    from engine.cli.api import Api

    hub = "HUB" in map(str.upper, role)
    order = {"party_id": party, "roles": role, "name": name, "website": website, "hub": hub}
    with Api(folder) as api:
        added = api.post("/api/v1/parties", order)
    if as_json:
        output.show(added)
        return
    output.done(f"{added['party_id']} is hosted here; partners learn of it when they ask for our parties")


@group.command()
def remove(folder: Folder, party: PartyId, as_json: Json = False) -> None:
    """Host a party no longer."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    with Api(folder) as api:
        api.delete(f"/api/v1/parties/{segment(party)}")
    if as_json:
        output.show({"removed": party})
        return
    output.done(f"{party} is hosted here no longer")


def _modules(party: dict[str, Any], side: str) -> str:
    return ", ".join(role["module"] for role in party["roles"] if role["side"] == side) or "–"
