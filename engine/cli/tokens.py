"""`token`: bearer tokens of the local API for back offices, all rights or one party's."""

from typing import Annotated

import typer

from engine.cli.groups import ListByDefault
from engine.cli.options import Folder, Json, Panel

group = typer.Typer(
    name="token",
    cls=ListByDefault,
    help="Tokens of the local API for back offices: `token DIR`, `token add DIR NAME`, …",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the token is called.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, rich_help_panel=Panel.WATCH)


@group.command(name="list")
def list_tokens(folder: Folder, as_json: Json = False) -> None:
    """List tokens; what `token DIR` does."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        found = api.get("/api/v1/tokens")
    if as_json:
        output.show(found)
        return
    output.print_table(
        ["name", "opens", "made"],
        [[token["name"], token["party"] or "everything", output.age(token["created_at"])] for token in found],
        none=f"no tokens but the operator's, which is in {api.token_file}",
    )


@group.command()
def add(
    folder: Folder,
    name: Name,
    party: Annotated[
        str | None, typer.Option(help="Limit it to what this party issues and receives; if left out: everything.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token; it is shown this once."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        made = api.post("/api/v1/tokens", {"name": name, "party": party})
    if as_json:
        output.show(made)
        return
    output.console().print(made["token"], soft_wrap=True)
    output.note(
        output.good("✓ "), f"token {name} opens {made['party'] or 'everything'}; keep it, it is not shown again"
    )


@group.command()
def remove(folder: Folder, name: Name, as_json: Json = False) -> None:
    """Accept a token no longer."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    with Api(folder) as api:
        api.delete(f"/api/v1/tokens/{segment(name)}")
    if as_json:
        output.show({"removed": name})
        return
    output.done(f"token {name} is accepted no longer")
