"""A lifecycle as a table: what may happen in which state, and what comes of it.

One table for each thing that lives (platform, subscription, call). A missing cell is the error, so nothing
happens that nobody thought of; a test walks every cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class IllegalTransition(Exception):
    """An event that this state has no answer to."""

    def __init__(self, name: str, state: StrEnum, event: StrEnum) -> None:
        """Say what lived, in which state it was and what happened."""
        super().__init__(f"a {name} that is {state.value} takes no {event.value}")


@dataclass(frozen=True)
class Lifecycle(Generic[S, E]):
    """The table of one thing's life: ``table[state][event]`` is the next state."""

    name: str
    table: Mapping[S, Mapping[E, S]]

    def after(self, state: S, event: E) -> S:
        """Return the state after an event.

        Raises ``IllegalTransition`` where the table has no cell.
        """
        following = self.table.get(state, {}).get(event)
        if following is None:
            raise IllegalTransition(self.name, state, event)
        return following

    def allows(self, state: S, event: E) -> bool:
        """Say whether the table has a cell for this event."""
        return event in self.table.get(state, {})
