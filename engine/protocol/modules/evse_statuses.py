"""Chapter 6, EVSE Status: whether one can charge at an EVSE right now.

The id of such an object is the ``uid`` of its EVSE (R.06.01.04).
"""

from __future__ import annotations

from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import Maybe, OcpiClass
from engine.protocol.modules.locations import Status
from engine.protocol.modules.module import Module
from engine.protocol.scalars import DateTime


class EvseStatus(OcpiClass, kw_only=True):
    """6.3.1: What an EVSE is doing."""

    status: Annotated[Status, "Its status now."]
    timestamp: Annotated[Maybe[DateTime], "Since when, if the device itself reported a time."] = None


MODULE = Module(id=ModuleId("evsestatuses"), chapter=6, title="EVSE Status", payload=EvseStatus)
