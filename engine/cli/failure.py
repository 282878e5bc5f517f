"""A command that was refused or failed: what happened, and what to do."""

from collections.abc import Sequence
from typing import Any


class Failure(Exception):
    """Ends the command with exit code 1. ``hint`` says what to do next."""

    def __init__(self, message: str, hint: str | None = None, problems: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = list(problems)
