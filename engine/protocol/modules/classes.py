"""How a class table of the draft is written down, once, for everything that needs it.

A table becomes a class, its rows become lines, in the draft's order and with the draft's names::

    class Connector(OcpiClass, kw_only=True):
        \"\"\"5.4.8: A socket, or a cable with its plug.\"\"\"

        id: Annotated[CiAsciiString_1_36, "Tells it apart within its EVSE."]
        cable_length: Annotated[Maybe[Number], "Centimetres."] = None
        capabilities: Annotated[Many[ConnectorCapability], "What it can do besides."] = None

======  ==========================  =======================================================
Card.   written                     meaning
======  ==========================  =======================================================
``1``   ``X``                       must be there
``?``   ``Maybe[X]`` … ``= None``   may be left out; ``null`` counts as left out (W21)
``*``   ``Many[X]`` … ``= None``    a list, may be empty or left out; ``null`` likewise
``+``   ``Some[X]``                 a list of at least one
======  ==========================  =======================================================

From these lines msgspec accepts payloads straight from their bytes, ``explain`` says what is wrong with those
that it does not accept, and the JSON Schemas and reference pages are written. Fields that no table knows are no
error: they are kept, like all the bytes. A file of tables begins with ``from __future__ import annotations``, so
that they can stand in the draft's order, whichever of them mentions which.

What the text around a table demands of several fields together is a rule: a class with rules is a
``RuledClass`` and yields a ``Breach`` for each one that is broken.

Why msgspec: it is exact where it says yes (sizes in code points, no number taken for a text or the other way
round), it needs a quarter of the time of the alternatives, and where it says no without need (``1.0`` for an
``int``, ``1E400`` for a number) the explanation has the last word.
"""

from collections.abc import Iterator
from enum import Enum, StrEnum, auto
from inspect import cleandoc
from typing import Annotated, Any, NamedTuple, Self, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Maybe: TypeAlias = T | None
Many: TypeAlias = list[T] | None
Some = Annotated[list[T], msgspec.Meta(min_length=1)]


class OcpiClass(msgspec.Struct, kw_only=True, gc=False):
    """A class table. Its docstring starts with the table's number in the draft, then says what it is."""


class Weight(Enum):
    """How bad it is to break a rule."""

    WRONG = auto()
    """As bad as a wrong type."""
    MISSING = auto()
    """Something is not there that has to be: a tolerant reader lets that pass, as for any required field."""
    ODD = auto()
    """Nothing is lost or doubtful: worth a warning, also to a strict reader, and no more."""


class Breach(NamedTuple):
    """A rule between fields that an object breaks."""

    where: tuple[str | int, ...]
    """Path from the object that has the rule to what breaks it."""
    found: str
    expected: str
    weight: Weight = Weight.WRONG


class RuledClass(OcpiClass, kw_only=True):
    """A class table with rules between its fields."""

    def __post_init__(self) -> None:
        """Say no to bytes that break a rule; msgspec makes a ``ValidationError`` of it."""
        for breach in self.rules():
            raise ValueError(breach.expected)

    def rules(self) -> Iterator[Breach]:
        """Yield what is broken.

        Runs on this object, and while a no is explained on a look-alike in which everything is ``None``
        that is absent or wrong in itself.
        """
        raise NotImplementedError


class ClosedEnum(StrEnum):
    """An enum: a value that is not in the table is wrong. Each line gives the value and its meaning."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make a member of its value and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class OpenEnum(ClosedEnum):
    """An OpenEnum: the table lists known values, and any other string is a value too."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        """Take a value that no table knows for what it is, and remember nothing of it."""
        if type(value) is not str:
            return None
        member = str.__new__(cls, value)
        member._value_ = value
        member._name_ = value
        member.meaning = ""
        return member


Shape: TypeAlias = type[OcpiClass] | type[ClosedEnum]
"""What a whole payload may be."""


def chapter(table: type) -> str:
    """Return where the draft has this table, for instance ``5.4.8``."""
    return (table.__doc__ or "").partition(":")[0]


def meaning(table: type) -> str:
    """Return what this table is about, in our words; paragraphs stand apart by an empty line."""
    return _paragraphs((table.__doc__ or "").partition(":")[2])


def rules_of(table: type) -> str:
    """Return what the table asks of several fields together, in our words; empty if it asks nothing."""
    return _paragraphs(table.rules.__doc__ or "") if issubclass(table, RuledClass) else ""


def _paragraphs(text: str) -> str:
    """Take a docstring out of its source: no indentation, one line for each paragraph, code in single backticks."""
    paragraphs = cleandoc(text).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).strip()
