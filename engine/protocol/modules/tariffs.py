"""Chapter 9, Tariffs: what charging costs. An object of this module never changes.

Minimal for now: only the rows of ``Tariff`` itself that have to be there are looked at, and of an element
only that it is an object. Everything else in a payload is kept, as always, but not judged.
"""

from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import OcpiClass, Some
from engine.protocol.modules.module import Module
from engine.protocol.scalars import CiAsciiString_3, DateTime


class TariffElement(OcpiClass, kw_only=True):
    """9.5.6: A group of price components; its rows are not looked at yet."""


class Tariff(OcpiClass, kw_only=True):
    """9.5.5: Prices, and when they hold; most rows are not looked at yet."""

    currency: Annotated[CiAsciiString_3, "ISO 4217 code of the currency, such as EUR."]
    elements: Annotated[Some[TariffElement], "Its groups of prices."]
    last_updated: Annotated[DateTime, "When it was issued."]


MODULE = Module(id=ModuleId("tariffs"), chapter=9, title="Tariffs", payload=Tariff, immutable=True)
