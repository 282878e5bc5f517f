"""The port to the systems of parties hosted here, which carry out what partners ask of them: calls in, replies out."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from engine.protocol.calls import AsyncResult, Operation, problems
from engine.protocol.errors import SUCCESS
from engine.protocol.ids import PartyId
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call for a party of ours. ``payload`` is the JSON text of the parameters, as it came, and as its table has it.

    ``deadline``: seconds since the epoch; later the partner was told that there is no answer, or TIMEOUT.
    """

    id: int
    platform: str
    asker: PartyId
    receiver: PartyId
    module: str
    operation: str
    asynchronous: bool
    payload: bytes
    deadline: float
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a synchronous call; ``data`` is the JSON text of its result, None where it has none."""

    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """An answer with another status code than success, by the use case of the operation (R.04.01.07)."""

    status_code: int
    message: str
    data: object = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An asynchronous call is carried out; its result comes by ``Calls.conclude``."""


@dataclass(frozen=True, slots=True)
class RefusedAtOnce:
    """An asynchronous call is refused for what no error of its table can say (B32): REJECTED or NOT_SUPPORTED."""

    how: ImmediateResponseToAsyncRequest
    message: str = ""


Reply: TypeAlias = Answered | Declined | Accepted | RefusedAtOnce


class BackOffice(Protocol):
    """The systems of a party of ours, or what stands for them."""

    async def take(self, call: IncomingCall) -> Reply:
        """Answer a call at once.

        Cancelled when the partner cannot be kept waiting any longer. Whatever it raises counts as no answer.
        """
        ...


class WrongReply(Exception):
    """A back office's reply is not one that the operation has."""


def check_reply(asked: Operation, reply: Reply) -> None:
    """Refuse a reply that the operation does not have. Raises ``WrongReply`` that says what is wrong."""
    match reply:
        case Declined(status_code):
            if status_code == SUCCESS:
                raise WrongReply("status code 1000 is a success, and declines nothing")
        case Answered(data):
            if asked.call.asynchronous:
                raise WrongReply(f"{asked.name} is asynchronous: accept it, and conclude it later")
            _check_data(asked, data)
        case Accepted() | RefusedAtOnce():
            if not asked.call.asynchronous:
                raise WrongReply(f"{asked.name} is synchronous: answer it at once")
            if reply == RefusedAtOnce(ImmediateResponseToAsyncRequest.ACCEPTED):
                raise WrongReply("ACCEPTED refuses nothing")
        case _:
            raise WrongReply(f"{reply!r} is no reply")


def _check_data(asked: Operation, data: bytes | None) -> None:
    if asked.call.result is None:
        if data is not None:
            raise WrongReply(f"{asked.name} has no data in its answer")
        return
    wrong = problems(asked.call.result, data or b"null")
    if wrong:
        raise WrongReply(f"not a {asked.call.result.__name__}: " + "; ".join(map(str, wrong)))


def as_result(reply: Answered | Declined | RefusedAtOnce) -> AsyncResult:
    """Turn a reply that comes too late to be the answer into a result."""
    kind = AsyncResultType.FAILED
    if isinstance(reply, RefusedAtOnce):
        refused = reply.how is ImmediateResponseToAsyncRequest.REJECTED
        kind = AsyncResultType.REJECTED if refused else AsyncResultType.NOT_SUPPORTED
    return AsyncResult(result_type=kind)


def message_of(reply: Reply | None) -> str | None:
    """Return what was said with a reply, for people."""
    match reply:
        case Declined(_, message) | RefusedAtOnce(_, message):
            return message or None
    return None
