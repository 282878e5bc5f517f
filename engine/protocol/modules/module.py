"""What a module of the draft declares about its Party Issued Objects and its remote procedure calls.

What a module leaves out is as for most modules: any party of a CPO issues it, objects may change, nobody is
named in them, nothing of them is too old for a snapshot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from engine.protocol.ids import OBJECT_ID_LENGTH_MAX, ModuleId, PartyId
from engine.protocol.modules.check import SchemaViolation, accept
from engine.protocol.modules.classes import OcpiClass, Shape
from engine.protocol.modules.explain import PROBLEMS_MAX, Problem

T = TypeVar("T")

Audience = frozenset[PartyId]

NOBODY: Final[Audience] = frozenset()

BUSINESS_ROLES: Final = frozenset({"CPO", "EMSP"})
"""What an operator may say that a party is, instead of listing modules and sides."""


class Issued(NamedTuple):
    """An object as its issuer has it. ``payload``: its JSON text, one that its module accepted."""

    id: str
    payload: bytes
    seen_by: Audience | None = None
    """The only parties that may see it; None: all whom the sharing rules let."""


# -- objects that depend on others --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """How an object refers to another one of its module and issuer, without which it may not be issued."""

    to: Callable[[bytes], str | None]
    """The id that a payload refers to; None: it stands by itself."""
    check: Callable[[Issued, Issued | None], Sequence[Problem]]
    """Say what is wrong with an object beside the one that it refers to, or beside there being none."""


class CannotReplace(ValueError):
    """An object cannot be replaced as it was asked for; the message says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a publisher wants in the place of an object. What a module has no use for, it refuses."""

    objects: tuple[Issued, ...] = ()
    """New objects of the same module; each one is accepted by it already."""
    id: str | None = None
    """Id of the object that is made from the old one; None: the module chooses."""
    effective_at: float | None = None
    """From when the new ones count, Unix seconds; None: from now."""


class Addition(NamedTuple):
    """An object to be issued because another one is replaced.

    ``like``: the object of that module whose audience it takes, if its publisher named one; None: the replaced one.
    """

    module: ModuleId
    id: str
    payload: bytes
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """How an object that never changes is replaced: by which further objects, of its issuer (8.02, 10.02)."""

    summary: str
    """What happens, for an operator to read."""
    make: Callable[[Issued, Wanted, Mapping[ModuleId, Sequence[Issued]], float], Sequence[Addition]]
    """Of the old object, what is wanted, the related objects, and now (Unix seconds), make what is to be issued.

    Raises ``CannotReplace``.
    """
    related: tuple[ModuleId, ...] = ()
    """Modules whose objects, all that the issuer issued, have to be looked at; oldest change first."""


# -- remote procedure calls ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A remote procedure call (chapter 4): its name in URLs, and the types of what goes back and forth."""

    operation: str
    use_case: str
    """Number of the use case, for instance ``05.02``."""
    summary: str
    request: Shape
    """Synchronous: the body. Asynchronous: ``payload`` of the AsyncRequest."""
    asynchronous: bool = True
    result: Shape | None = None
    """Synchronous: ``data`` of the OcpiResponse. Asynchronous: ``payload`` of the AsyncResponse after SUCCESS."""
    error: Shape | None = None
    """Asynchronous: ``error`` of the AsyncResponse that tells of anything but SUCCESS."""
    revocable: bool = False
    """Asynchronous: who said SUCCESS may take it back, with FAILED, no error, and a text or nothing (05.04)."""


# -- the module ---------------------------------------------------------------------------------------------


def _says(answer: T) -> Callable[[bytes], T]:
    return lambda _payload: answer


@dataclass(frozen=True, kw_only=True)
class Module:
    """A chapter that replicates objects; one for each file of this package that has a ``MODULE``.

    What reads a payload is given one that this module accepted, perhaps as a tolerant reader.
    """

    id: ModuleId
    """ModuleID as the draft's table 2.4.5 spells it, and as it stands in URLs."""
    chapter: int
    title: str
    payload: type[OcpiClass]
    """Class table of the objects."""
    calls: tuple[Call, ...] = ()
    """Its remote procedure calls, in the order of the use cases."""
    aliases: tuple[ModuleId, ...] = ()
    """Other names for it in the draft."""
    issued_by: frozenset[str] = frozenset({"CPO"})
    """Which of the ``BUSINESS_ROLES`` issue its objects; the others receive them."""
    immutable: bool = False
    """An object never changes; an update to another version is answered 6003."""
    final: Callable[[bytes], str | None] = field(default=_says(None), repr=False)
    """Why an object may not change any more once it is issued with this payload; None while it may.

    A rule for issuers: a receiver takes what it gets.
    """
    id_length_max: Callable[[bytes], int] = field(default=_says(OBJECT_ID_LENGTH_MAX), repr=False)
    """How long the id of an object with this payload may be."""
    audience: Callable[[bytes], Audience | None] = field(default=_says(None), repr=False)
    """The parties that an object concerns, where its payload names them; ``None``: sharing rules decide."""
    concluded_at: Callable[[bytes], float | None] = field(default=_says(None), repr=False)
    """When what an object tells of was over, Unix seconds; None: it is not over, or never is.

    A snapshot leaves out what was over long ago.
    """
    reference: Reference | None = None
    replacement: Replacement | None = None

    def accept(self, payload: bytes, *, tolerant: bool = False) -> tuple[Problem, ...]:
        """Accept a payload, or say all that is wrong with it; see ``check.accept``."""
        return accept(self.payload, payload, tolerant=tolerant)


__all__ = [
    "BUSINESS_ROLES",
    "NOBODY",
    "PROBLEMS_MAX",
    "Addition",
    "Audience",
    "Call",
    "CannotReplace",
    "Issued",
    "Module",
    "Problem",
    "Reference",
    "Replacement",
    "SchemaViolation",
    "Wanted",
]
