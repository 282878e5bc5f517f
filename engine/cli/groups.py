"""Command groups whose first word may be left out."""

from typing import Any

from typer.core import TyperGroup


class ListByDefault(TyperGroup):
    """`parties DIR` is `parties list DIR`: what is no command of the group is the first argument of `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the missing word in."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
