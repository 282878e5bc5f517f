"""Chapter 10, Tariff Associations: which Tariff holds at which connectors, for whom, from when.

An object of this module never changes: another association ends it.

Minimal for now: the tables are whole, the ending of an association (10.02) is not looked at yet.
"""

from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import ClosedEnum, OcpiClass, Some
from engine.protocol.modules.module import Module
from engine.protocol.scalars import CiAsciiString_1_36, DateTime


class TariffAudience(ClosedEnum):
    """10.5.3: Who pays a Tariff."""

    AD_HOC_PAYMENT = "AD_HOC_PAYMENT", "Who pays on the spot, for instance at a card terminal."
    PROFILE_CHEAP = "PROFILE_CHEAP", "Who prefers to charge cheaply."
    PROFILE_FAST = "PROFILE_FAST", "Who prefers to charge fast."
    PROFILE_GREEN = "PROFILE_GREEN", "Who prefers green energy."
    REGULAR = "REGULAR", "Who uses a token and has no other preference."


class ConnectorReference(OcpiClass, kw_only=True):
    """10.5.1: A connector of the issuer of the association."""

    evse_uid: Annotated[CiAsciiString_1_36, "The uid of its EVSE."]
    connector_id: Annotated[CiAsciiString_1_36, "Its id."]


class TariffAssociation(OcpiClass, kw_only=True):
    """10.5.2: A Tariff for some connectors, from some time on."""

    start_date_time: Annotated[DateTime, "From when it holds, that moment included."]
    tariff_id: Annotated[CiAsciiString_1_36, "The id of the Tariff."]
    connectors: Annotated[Some[ConnectorReference], "Where it holds; they need not be known yet."]
    audience: Annotated[TariffAudience, "For whom it holds."]
    last_updated: Annotated[DateTime, "When it last changed."]


MODULE = Module(
    id=ModuleId("tariffassociations"),
    chapter=10,
    title="Tariff Associations",
    payload=TariffAssociation,
    immutable=True,
)
