"""Objects as bytes on the local API: what comes in is cut out, what goes out is put in, nothing is written anew.

A payload that went through a JSON library would lose digits (0.1234567890123456789, 1E400), key order and
escapes. So a batch is cut into lines, each line into its three fields, and the payload stays the slice that it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec

from engine.clock import ocpi_time
from engine.protocol.ids import PartyId, party_id
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
from engine.replication.issuing import Publication, Published
from engine.store.objects import StoredObject

WHITESPACE = b" \t\r\n"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    payload: msgspec.Raw
    audience: list[str] | None = None


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    objects: list[msgspec.Raw] = []
    id: str | None = None
    effective_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch, read: a publication, or the reason why it is none."""

    number: int
    publication: Publication | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """What is wanted in the place of an object."""

    objects: tuple[Publication, ...]
    new_id: str | None
    effective_at: float | None


class UnreadableBatch(ValueError):
    """The body as a whole is not a batch."""


class UnreadableOrder(ValueError):
    """The body does not say what is wanted."""


_line_decoder = msgspec.json.Decoder(_Line)
_order_decoder = msgspec.json.Decoder(_Order)
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def read_batch(body: bytes, content_type: str = "") -> Iterator[Line]:
    """Cut a batch into its lines: NDJSON if it says so or does not look like a JSON array. Empty lines are passed over.

    Raises ``UnreadableBatch`` for an array that is cut off or none.
    """
    if "ndjson" not in content_type and body.lstrip(WHITESPACE)[:1] == b"[":
        try:
            items: Sequence[bytes | msgspec.Raw] = _array_decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise UnreadableBatch(f"not a JSON array: {error}") from error
    else:
        items = body.split(b"\n")
    return (_read_line(number, bytes(item)) for number, item in enumerate(items, 1) if bytes(item).strip(WHITESPACE))


def _read_line(number: int, text: bytes) -> Line:
    try:
        check_object(text)
        line = _line_decoder.decode(text)
        audience = None if line.audience is None else tuple(map(party_id, line.audience))
        return Line(number, Publication(line.id, bytes(line.payload).strip(WHITESPACE), audience))
    except (MalformedJson, DuplicateKeys) as error:
        return Line(number, None, str(error))
    except msgspec.ValidationError as error:
        return Line(number, None, f'a line is {{"id": …, "payload": …, "audience": […]}}: {error}')
    except (ValueError, RecursionError) as error:
        return Line(number, None, str(error))


def read_replacement(body: bytes) -> Replacement:
    """Read what is wanted in the place of an object; an empty body asks for nothing in particular.

    Raises ``UnreadableOrder``.
    """
    try:
        check_object(body or b"{}")
        order = _order_decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise UnreadableOrder(f'an order is {{"objects": […], "id": …, "effective_at": …}}: {error}') from error
    except (ValueError, RecursionError) as error:
        raise UnreadableOrder(str(error)) from error
    wanted: list[Publication] = []
    for line in (_read_line(number, bytes(item)) for number, item in enumerate(order.objects, 1)):
        if line.publication is None:
            raise UnreadableOrder(f"object {line.number}: {line.reason}")
        wanted.append(line.publication)
    return Replacement(tuple(wanted), order.id, None if order.effective_at is None else order.effective_at.timestamp())


def audience_of(values: Iterable[str]) -> tuple[PartyId, ...] | None:
    """Read an audience given as query parameters; None when there is none.

    Raises ``ValueError`` for what is not a Party ID.
    """
    parties = tuple(map(party_id, values))
    return parties or None


def result(line: int, published: Published) -> dict[str, object]:
    """Show what became of a publication; fields that say nothing are left out."""
    shown: dict[str, object] = {"line": line, "id": published.object_id, "outcome": published.outcome}
    if published.version is not None:
        shown["version"] = published.version
    if published.reason is not None:
        shown["reason"] = published.reason
    if published.problems:
        shown["problems"] = [
            {"pointer": problem.pointer, "found": problem.found, "expected": problem.expected}
            for problem in published.problems
        ]
    return shown


def encode(value: object) -> bytes:
    """Write JSON that has no payload in it."""
    return _encode(value)


def written(stored: StoredObject, *, stale: bool) -> bytes:
    """Write an object with its payload's own bytes."""
    head: dict[str, object] = {
        "module": stored.module,
        "issuer": stored.issuer,
        "id": stored.object_id,
        "version": stored.version,
        "cursor": str(stored.seq),
        "stored_at": ocpi_time(stored.stored_at),
    }
    if stored.audience is not None:
        head["audience"] = stored.audience
    if stored.platform is not None:
        head |= {"platform": stored.platform, "receiver": stored.subscriber, "stale": stale}
    return b'%b,"payload":%b}' % (_encode(head)[:-1], stored.payload)


def page(objects: Sequence[bytes], cursor: int, *, more: bool) -> bytes:
    """Write a page of objects that are written already."""
    return b'{"objects":[%b],"cursor":"%d","more":%b}' % (b",\n".join(objects), cursor, b"true" if more else b"false")


def event(kind: str, data: bytes, cursor: str) -> bytes:
    """Write a server-sent event; its id is where to go on (``Last-Event-ID``).

    Line breaks between a payload's tokens make further ``data`` lines; the stream's format turns CR LF into LF.
    """
    lines = b"".join(b"data: %b\n" % line for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    return b"id: %b\nevent: %b\n%b\n" % (cursor.encode(), kind.encode(), lines)
