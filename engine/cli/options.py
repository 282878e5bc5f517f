"""Arguments and options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer


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
    WATCH = "Watch and look after"
