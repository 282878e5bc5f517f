"""One request and its answer, as those who handle requests see them; nothing of HTTP's own is in here.

A handler gets an ``Inbound`` and returns an ``Answer``, or raises an ``OcpiError``; what it raises is turned into
an envelope in one place, ``refusal``. It may be called for one platform many times at once, and it goes on to its
end when the peer hangs up: what was begun is stored.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from engine.protocol import envelope
from engine.protocol.errors import ClientError, InvalidParameters, MalformedBody, OcpiError, WrongVerb
from engine.protocol.ids import PartyId
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object

T = TypeVar("T")

CONNECTED: Final = "connected"
"""The state of a platform whose requests are all taken."""

ANY: Final = "*"
"""In a route: one segment of any text."""


class Caller(Protocol):
    """The platform that a request came from, as its certificate says."""

    @property
    def platform_id(self) -> int:
        """Its row."""
        ...

    @property
    def identity(self) -> str:
        """Its Platform Identity."""
        ...

    @property
    def state(self) -> str:
        """How far the connection with it is; ``connected`` opens every path."""
        ...

    @property
    def serial(self) -> str:
        """The certificate's serial number, hexadecimal."""
        ...

    @property
    def tolerant(self) -> bool:
        """Whether its payloads are read tolerantly (B23)."""
        ...


class Directory(Protocol):
    """Who is who, from memory: what a request is judged by before anything is asked of the database."""

    def caller(self, serial: str, common_name: str) -> Caller:
        """Say which platform a client certificate stands for.

        ``serial`` is lower-case hexadecimal without leading zeros. Raises ``Forbidden`` for one that was ended or
        whose platform is not connected and not about to be (B42).
        """
        ...

    async def look_again(self) -> None:
        """Learn what another process changed a moment ago, before somebody is refused."""
        ...

    def heard(self, platform_id: int) -> None:
        """Note that a connected platform made another request than its handshake (B46)."""
        ...

    def serves(self, platform_id: int, party: PartyId) -> bool:
        """Say whether that platform lists this party to us, its hub party included."""
        ...

    def hosted(self, party: PartyId) -> object | None:
        """Return the party if it is one of ours."""
        ...


class Inbound(msgspec.Struct, frozen=True):
    """One request. ``segments`` are decoded: below the base path, or below ``/from/x/to/y`` of a party's request."""

    caller: Caller
    method: str
    segments: tuple[str, ...]
    body: bytes
    request_id: str
    correlation_id: str
    sender: PartyId = PartyId("")
    receiver: PartyId = PartyId("")


class Answer(msgspec.Struct, frozen=True):
    """What is answered: an HTTP status and JSON text."""

    http_status: int
    body: bytes


Handler: TypeAlias = Callable[[Inbound], Awaitable[Answer]]
Routes: TypeAlias = Mapping[tuple[str, ...], Mapping[str, Handler]]
"""Platform-level paths, by their segments (``"*"`` is one segment of any text), then by verb."""


class VerbNotServed(WrongVerb):
    """This path is served with another verb (B17)."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"this path is served with {self.allowed}")


def wrong_verb(allowed: Iterable[str], body: bytes) -> OcpiError:
    """Return what to raise for a verb that a known path is not served with.

    405, but 200 where the body is a JSON object (R.02.02.06, B17). Raises ``MalformedBody`` for another body.
    """
    refused = VerbNotServed(allowed)
    if not body:
        return refused
    check_body(body)
    return ClientError(refused.message)


def check_body(body: bytes) -> None:
    """Refuse a body that is not one JSON object which every reader understands alike (B18).

    Raises ``MalformedBody`` or ``InvalidParameters``.
    """
    try:
        check_object(body)
    except MalformedJson as error:
        raise MalformedBody(f"the body is not a JSON object: {error}") from None
    except DuplicateKeys as error:
        problems = [{"field": pointer, "reason": "stands more than once"} for pointer in error.pointers]
        raise InvalidParameters("a field of the body stands more than once", data=problems) from None


def checked_body(body: bytes) -> bytes:
    """Check a body as ``check_body`` does, and return it."""
    check_body(body)
    return body


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def read_body(body: bytes, form: type[T]) -> T:
    """Check a body and read it as a Struct.

    Raises ``MalformedBody``, or ``InvalidParameters`` with the field and what is wrong with it.
    """
    check_body(body)
    decoder = _decoders.get(form)
    if decoder is None:
        decoder = _decoders.setdefault(form, msgspec.json.Decoder(form))
    try:
        read: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")
        problem = [{"field": field, "reason": reason}]
        raise InvalidParameters("fields of the body are missing or invalid", data=problem) from None
    return read


def refusal(error: OcpiError, timestamp: str) -> Answer:
    """Turn an error into its answer; ``timestamp`` is an OCPI DateTime."""
    return Answer(error.http_status, envelope.failure(timestamp, error))
