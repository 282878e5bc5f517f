"""Calls that partners ask of parties of ours, and results of calls that ours asked (UC 04.01, 04.03).

Every operation that a module declares is served, under each of the module's names; who may speak for the sender
party was checked before (B15).
"""

from engine.clock import Clock, ocpi_time
from engine.protocol import envelope
from engine.protocol.calls import ASYNC_RESPONSES, Operation
from engine.protocol.errors import UnknownReceiver
from engine.protocol.modules import registry
from engine.registration.directory import Directory
from engine.relay.asking import Asking
from engine.relay.calls import Calls
from engine.server.addressing import PartyRequests
from engine.server.exchange import ANY, Answer, Handler, Inbound, check_body

OK = 200


class CallHandlers:
    """Answers calls and results."""

    def __init__(self, directory: Directory, calls: Calls, asking: Asking, clock: Clock) -> None:
        """Hand calls to the one, results to the other."""
        self._directory = directory
        self._calls = calls
        self._asking = asking
        self._clock = clock

    def taking(self, operation: Operation) -> Handler:
        """Make what answers one operation (R.04.01.06, R.04.01.07, R.04.03.07)."""

        async def take(request: Inbound) -> Answer:
            if self._directory.hosted(request.receiver) is None:
                raise UnknownReceiver
            check_body(request.body)
            taken = await self._calls.take(
                platform_id=request.caller.platform_id,
                sender=request.sender,
                receiver=request.receiver,
                asked=operation,
                body=request.body,
                request_id=request.request_id,
                correlation_id=request.correlation_id,
                tolerant=request.caller.tolerant,
            )
            return Answer(taken.http_status, taken.body)

        return take

    async def result(self, request: Inbound) -> Answer:
        """Take a result (R.04.03.14, R.05.04.07); from whom it may come is looked at before it is."""
        if self._directory.hosted(request.receiver) is None:
            raise UnknownReceiver
        call_id = await self._asking.find(
            request.caller.platform_id, request.sender, request.receiver, request.segments[1]
        )
        check_body(request.body)
        await self._asking.receive(call_id, request.body)
        return Answer(OK, envelope.success(ocpi_time(self._clock.now())))


def register_calls(party: PartyRequests, handlers: CallHandlers) -> None:
    """Serve every declared operation, and the results of calls of ours."""
    for name, module in registry.items():
        for call in module.calls:
            party.register(call.operation, "POST", handlers.taking(Operation(module, call)), module=name)
    party.register(ANY, "POST", handlers.result, module=ASYNC_RESPONSES)
