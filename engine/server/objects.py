"""Updates of Party Issued Objects that partners send us (UC 03.02, 03.03)."""

from engine.clock import Clock, ocpi_time
from engine.protocol import envelope
from engine.protocol.objects import read_update
from engine.replication.accept import Accepting
from engine.server.exchange import Answer, Inbound, check_body

CREATED = 201  # R.02.02.09
OK = 200  # R.02.02.08


class ObjectHandlers:
    """Answers updates."""

    def __init__(self, accepting: Accepting, clock: Clock) -> None:
        """Hand them to the accepting side of replication."""
        self._accepting = accepting
        self._clock = clock

    async def update(self, request: Inbound) -> Answer:
        """Store an update, then answer (R.03.02.08 to R.03.02.15)."""
        platform_id, sender, receiver = request.caller.platform_id, request.sender, request.receiver
        module_name = request.segments[0]
        await self._accepting.check_subscribed(
            platform_id=platform_id, sender=sender, receiver=receiver, module_name=module_name
        )
        check_body(request.body)
        new = await self._accepting.accept(
            platform_id=platform_id,
            sender=sender,
            receiver=receiver,
            module_name=module_name,
            update=read_update(request.body),
        )
        return Answer(CREATED if new else OK, envelope.success(ocpi_time(self._clock.now())))
