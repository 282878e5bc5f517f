"""Chapter 90, Things: a module that no draft has, with everything that a declaration can say."""

from collections.abc import Iterator
from typing import Annotated, Final

from engine.protocol.ids import ModuleId
from engine.protocol.modules import Module
from engine.protocol.modules.classes import Breach, ClosedEnum, Many, Maybe, OcpiClass, OpenEnum, RuledClass, Some
from engine.protocol.modules.module import Call
from engine.protocol.scalars import (
    URL,
    CiAsciiString_1_36,
    DateTime,
    DecimalNumber,
    Int,
    Int_1_5,
    PartyID,
    Percentage,
    UnicodeString_1_10,
)


class Colour(ClosedEnum):
    """90.2.2: What colour a thing has."""

    RED = "RED", "Like a rose."
    BLUE = "BLUE", "Like “the sky” — mostly."


class Material(OpenEnum):
    """90.2.10: What a thing is made of."""

    WOOD = "WOOD", "Of a tree."


class Part(OcpiClass, kw_only=True):
    """90.2.3: A part of a thing."""

    name: Annotated[UnicodeString_1_10, "What it is called."]


class Thing(RuledClass, kw_only=True):
    """90.2.1: A thing with ``parts``.

    It has a second paragraph.
    """

    id: Annotated[CiAsciiString_1_36, "Tells it apart."]
    colour: Annotated[Colour, "Its colour."]
    material: Annotated[Maybe[Material], "What it is made of."] = None
    parts: Annotated[Many[Part], "Its parts: a <leg> | an arm, or LEG*2*ARM and `x*y*z`."] = None
    times: Annotated[Some[DateTime], "When it was seen."]
    owner: Annotated[Maybe[PartyID], "Whose it is."] = None
    page: Annotated[Maybe[URL], "Where to read on."] = None
    count: Annotated[Maybe[Int], "How many there are."] = None
    width: Annotated[Maybe[Int_1_5], "Millimetres."] = None
    price: Annotated[Maybe[DecimalNumber], "What it costs."] = None
    share: Annotated[Maybe[Percentage], "Its share."] = None
    lent: Annotated[Maybe[bool], "Whether somebody has it."] = None

    def rules(self) -> Iterator[Breach]:
        """Whoever lends it owns it.

        That is ``owner``.
        """
        if self.lent and self.owner is None:
            yield Breach(("owner",), "nothing", "an owner, since lent is true")


class ThingError(ClosedEnum):
    """90.2.4: Why not."""

    GONE = "GONE", "It is not there."


THINGS: Final = Module(
    id=ModuleId("things"),
    chapter=90,
    title="Things",
    payload=Thing,
    calls=(
        Call(operation="lend", use_case="90.02", summary="Lend a thing.", request=Part, result=Part, error=ThingError),
        Call(operation="drop", use_case="90.03", summary="Drop it.", request=Part, error=ThingError, revocable=True),
        Call(operation="paint", use_case="90.04", summary="Paint it.", request=Part, asynchronous=False, result=Colour),
        Call(operation="tell", use_case="90.05", summary="Tell of it.", request=Part, asynchronous=False),
        Call(operation="burn", use_case="90.06", summary="Burn it.", request=Part),
    ),
)
THING: Final = {"id": "T1", "colour": "RED", "times": ["2026-05-04T09:30:00Z"]}
