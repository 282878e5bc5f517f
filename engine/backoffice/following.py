"""A party's own systems that follow the event stream, and conclude calls over the local API."""

from engine.protocol.calls import operation
from engine.protocol.errors import ClientError
from engine.relay.offices import Accepted, Answered, IncomingCall, Reply


class Following:
    """The `relay.offices.BackOffice` of parties whose systems listen."""

    async def take(self, call: IncomingCall) -> Reply:
        """Accept what may be concluded later; what is only told is heard by who follows.

        Raises ``ClientError`` for what would have to be answered at once: nobody is asked here.
        """
        if call.asynchronous:
            return Accepted()
        asked = operation(call.module, call.operation)
        if asked is None or asked.call.result is not None:
            raise ClientError(f"{call.receiver} does not offer {call.module}/{call.operation}")
        return Answered()
