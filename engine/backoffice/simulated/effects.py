"""What the simulated CPO wants done after something happened to it, in the order in which it is to be done.

The model does none of this itself: it has no clock and no wire. Whoever runs it answers, calls back, publishes and
asks on its behalf, as the party that it plays.
"""

from dataclasses import dataclass
from typing import TypeAlias

from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer an asynchronous call at once (R.04.03.07). A result follows after ACCEPTED, and only then."""

    call_id: str
    response: ImmediateResponseToAsyncRequest


@dataclass(frozen=True, slots=True)
class Return:
    """Answer a synchronous call with a result: ``data`` of the OcpiResponse, JSON."""

    call_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a synchronous call with an error."""

    call_id: str
    status_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """Tell how an accepted call ended (R.04.03.08). ``payload`` and ``error`` are JSON, as in the AsyncResponse.

    A call that ended with SUCCESS may be concluded once more, with FAILED, if it can be taken back (use case 05.04).
    """

    call_id: str
    result_type: AsyncResultType
    payload: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """Issue an object, or a new version of it."""

    module: ModuleId
    object_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Make a synchronous call to another party.

    What an eMSP says to ``tokens/authorize`` is given to ``SimulatedCpo.answered`` with the same ``question_id``;
    what is said to other calls interests nobody.
    """

    question_id: str
    to: PartyId | None
    """None: nobody knows whose token it is, so a hub is to find out (use case 04.02)."""
    module: ModuleId
    operation: str
    payload: bytes


Effect: TypeAlias = Respond | Return | Refuse | Conclude | Publish | Ask
