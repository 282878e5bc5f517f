"""What payloads and parameters travel in: the bodies of updates and calls, in the order of the draft.

They are read and written elsewhere, where bytes matter; these tables are for whoever describes them.
"""

from __future__ import annotations

from typing import Annotated, Any

from engine.protocol.modules.classes import ClosedEnum, Maybe, OcpiClass
from engine.protocol.scalars import (
    AsciiString_1_36,
    CiAsciiString_1_39,
    CiAsciiString_5,
    DateTime,
    Int,
    PartyID,
    UnicodeString,
)


class OcpiResponse(OcpiClass, kw_only=True):
    """2.4.6: The answer to a request between parties."""

    routed_receiver: Annotated[Maybe[CiAsciiString_5], "The party that a hub answers for."] = None
    data: Annotated[Maybe[Any], "What was asked for; after an error, anything that helps to find it."] = None
    status_code: Annotated[Int, "1000 for success; others say what went wrong, by 2.4.7 of the draft."]
    status_message: Annotated[Maybe[UnicodeString], "What went wrong, for a person to read."] = None
    timestamp: Annotated[DateTime, "When this answer was made."]


class PartyIssuedObjectUpdate(OcpiClass, kw_only=True):
    """3.3.2: A version of an object, for those who subscribed to it."""

    issuer_party: Annotated[PartyID, "The party that issued the object."]
    id: Annotated[
        CiAsciiString_1_39,
        "Tells the object apart from all others of its issuer and module; only a credit CDR's has more than 36"
        " characters.",
    ]
    version: Annotated[Int, "Grows with every change of the object."]
    payload: Annotated[Any, "The object in this version, by the class of its module."]


class AsyncRequest(OcpiClass, kw_only=True):
    """4.3.1: The request of a call whose result comes later."""

    callback_id: Annotated[AsciiString_1_36, "Comes back in the path of the callback; each request has a new one."]
    payload: Annotated[Maybe[Any], "The parameters."] = None


class AsyncResponse(OcpiClass, kw_only=True):
    """4.3.2: The callback that brings the result of a call."""

    result_type: Annotated[AsyncResultType, "How it went."]
    error: Annotated[Maybe[Any], "What went wrong; nothing after SUCCESS."] = None
    payload: Annotated[Maybe[Any], "What came of it; only after SUCCESS, where the call has a result."] = None


class AsyncResultType(ClosedEnum):
    """4.3.3: How a call whose result comes later ended."""

    SUCCESS = "SUCCESS", "It was done."
    FAILED = "FAILED", "It was tried, in vain."
    NOT_SUPPORTED = "NOT_SUPPORTED", "The device cannot do it."
    REJECTED = "REJECTED", "It was refused."
    TIMEOUT = "TIMEOUT", "The device did not answer in time."


class ImmediateResponseToAsyncRequest(ClosedEnum):
    """4.3.4: What is said at once to a call whose result comes later."""

    ACCEPTED = "ACCEPTED", "A callback will bring the result."
    NOT_SUPPORTED = "NOT_SUPPORTED", "The party or its device cannot do it; there will be no callback."
    REJECTED = "REJECTED", "It is refused; there will be no callback."
