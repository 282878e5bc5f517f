"""Requests from a party to a party: which operation is asked for, and whether the sender may speak at all.

The parts that know an operation register it here; what holds for all of them is checked here once, in this order:

1. the sender is a party that the caller's platform serves to us (B15); one that we have not heard of yet is
   looked for again in that platform's ``/parties`` before it is refused, and each refusal is a security event;
2. the operation exists for the module (B17, B43), for a receiver that is ours (B16);
3. the verb is right.

What a receiver's operation makes of an unknown receiver is its own business, since the codes differ (B16).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.logs import security_event
from engine.protocol.addressing import SUBSCRIBE
from engine.protocol.errors import ClientError, NotFound, OcpiError, UnknownReceiver
from engine.protocol.modules import module
from engine.server.exchange import ANY, Answer, Directory, Handler, Inbound, wrong_verb


def is_module(name: str) -> bool:
    """Say whether a module of this name is known."""
    return module(name) is not None


@dataclass(frozen=True, slots=True)
class Operation:
    """How a path is served; ``unauthorized`` is what a sender hears that may not speak."""

    verbs: dict[str, Handler]
    unauthorized: type[OcpiError]


class PartyRequests:
    """The operations that parties may ask of parties here."""

    def __init__(
        self,
        directory: Directory,
        refresh_parties: Callable[[int], Awaitable[None]],
        *,
        module_known: Callable[[str], bool] = is_module,
    ) -> None:
        """Begin without operations.

        ``refresh_parties`` asks a platform for its parties again, unless that was done a moment ago.
        """
        self._directory = directory
        self._refresh_parties = refresh_parties
        self._module_known = module_known
        self._operations: dict[tuple[str, str], Operation] = {}

    def register(
        self,
        name: str,
        verb: str,
        handler: Handler,
        unauthorized: type[OcpiError] = ClientError,
        *,
        module: str = ANY,
    ) -> None:
        """Serve ``<module>/<name>`` with this verb, of every module unless one is named; a subscribe has no name.

        The handler gets ``segments`` of ``(module, name)``, for a subscribe ``(module,)``. Beside a module that no
        table knows, the name may be ``ANY``.
        """
        operation = self._operations.setdefault((module, name), Operation({}, unauthorized))
        if verb in operation.verbs:
            raise ValueError(f"{verb} {module}/{name} is served already")
        operation.verbs[verb] = handler

    async def answer(self, request: Inbound) -> Answer:
        """Let the operation answer.

        Raises ``OcpiError`` for what is refused here, and whatever the operation raises.
        """
        operation = self._operation(request.segments)
        if not self._directory.serves(request.caller.platform_id, request.sender):
            await self._insist(request, operation)
        if operation is None:
            raise self._nothing_there(request)
        handler = operation.verbs.get(request.method)
        if handler is None:
            raise wrong_verb(operation.verbs, request.body)
        return await handler(request)

    def _operation(self, segments: tuple[str, ...]) -> Operation | None:
        if len(segments) == 2 and segments[1] != SUBSCRIBE:  # noqa: PLR2004 - the module and the name
            module, name = segments
            if not self._module_known(module):
                return self._operations.get((module, ANY))
            return self._operations.get((ANY, name)) or self._operations.get((module, name))
        # 404 is for what is below a module; a module that nobody knows is the subscribe's own 5004 (B43).
        return self._operations.get((ANY, SUBSCRIBE)) if len(segments) == 1 else None

    async def _insist(self, request: Inbound, operation: Operation | None) -> None:
        """Ask the platform for its parties once more.

        Raises the operation's ``unauthorized`` if the sender is not among them.
        """
        caller = request.caller
        await self._refresh_parties(caller.platform_id)
        if self._directory.serves(caller.platform_id, request.sender):
            return
        security_event(
            "sender_refused",
            "a platform spoke for a party that it does not serve to us",
            platform=caller.identity,
            sender=request.sender[:40],
            receiver=request.receiver[:40],
            path="/".join(request.segments)[:200],
        )
        if operation is None or operation.unauthorized is ClientError:
            raise ClientError("the sender party is not one that your platform serves to this one")
        raise operation.unauthorized

    def _nothing_there(self, request: Inbound) -> OcpiError:
        if self._directory.hosted(request.receiver) is None:
            return UnknownReceiver()
        return NotFound("there is no such operation of this module")
