"""The examples of the reference pages, in which every row of every table is filled in, and a walk over them."""

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

from engine.protocol.json_text import pointer
from engine.protocol.modules import all_modules
from engine.protocol.modules.classes import OcpiClass
from engine.protocol.modules.explain import ListOf, Row, Table, table_of
from tests.support.generated import REPOSITORY

Place = tuple[str | int, ...]

EXAMPLES: Final = REPOSITORY / "docs" / "modules" / "examples"


def _example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


FULL: Final[dict[str, dict[str, Any]]] = {module.id: _example(module.id) for module in all_modules()}
"""Of each module the example of its reference page."""

REQUESTS: Final = {
    f"{module.id}.{call.operation}": (module, call.request, _example(f"{module.id}.{call.operation}"))
    for module in all_modules()
    for call in module.calls
}
"""Of each remote procedure call the example of its request, and what it is an example of."""


def written(value: object) -> bytes:
    """Write a payload."""
    return json.dumps(value).encode()


def every_row(table: type[OcpiClass], value: dict[str, Any]) -> list[tuple[Place, Row]]:
    """Return each row that has a value in a payload once, with where a value of it stands."""
    return list({id(row): (place, row) for place, row in rows(table, value)}.values())


def rows(table: type[OcpiClass], value: dict[str, Any], *place: str | int) -> Iterator[tuple[Place, Row]]:
    """Walk over all rows that have a value in a payload, with where it stands."""
    for row in table_of(table).rows:
        if row.name not in value:
            continue
        here = (*place, row.name)
        yield here, row
        kind, inner = row.kind, value[row.name]
        if isinstance(kind, Table):
            yield from rows(kind.table, inner, *here)
        elif isinstance(kind, ListOf) and isinstance(kind.items, Table):
            for index, item in enumerate(inner):
                yield from rows(kind.items.table, item, *here, index)


def put(payload: dict[str, Any], place: Place, value: object) -> dict[str, Any]:
    """Return the payload with another value at this place."""
    changed = copy.deepcopy(payload)
    inner: Any = changed
    for token in place[:-1]:
        inner = inner[token]
    inner[place[-1]] = value
    return changed


def drop(payload: dict[str, Any], place: Place) -> dict[str, Any]:
    """Return the payload without what stands at this place."""
    changed = copy.deepcopy(payload)
    inner: Any = changed
    for token in place[:-1]:
        inner = inner[token]
    del inner[place[-1]]
    return changed


def at(place: Place) -> str:
    """Write a place as a JSON Pointer."""
    return pointer(*place)
