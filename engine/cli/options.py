"""Arguments and options that many commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.failure import Failure

if TYPE_CHECKING:
    from engine.protocol.modules import Module as OcpiModule


def _as_json(value: bool) -> bool:
    if value:
        from engine.cli import output

        output.use_json()
    return value


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The platform's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", callback=_as_json, help="Write JSON, for scripts.")]
Module = Annotated[
    str, typer.Argument(metavar="MODULE", help="A ModuleID, for instance locations.", show_default=False)
]
Partner = Annotated[
    str,
    typer.Argument(metavar="PARTNER", help="A partner's Platform Identity: its domain name.", show_default=False),
]


class Panel:
    """Where a command stands in `--help`."""

    START = "Begin"
    REGISTRATION = "Partners"
    OBJECTS = "Objects"
    SUBSCRIPTIONS = "Subscriptions"
    CALLS = "Calls"
    WATCH = "Watch and look after"


def module_named(name: str) -> "OcpiModule":
    """Find what a MODULE argument names.

    Raises:
        Failure: there is none of that name; it tells those that are.
    """
    from engine.protocol.modules import all_modules, module

    if found := module(name):
        return found
    raise Failure(f"there is no module {name!r}", f"these are known: {', '.join(each.id for each in all_modules())}")
