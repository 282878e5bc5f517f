"""What partners ask about the connection itself: ``/connection…``, ``/versions`` and ``/parties`` (1 and 2.01).

Bodies are bare here (W4); where the draft gives an answer no body, an envelope says in words that all is well.
"""

from engine.clock import Clock, ocpi_time
from engine.protocol import envelope
from engine.protocol.registration import (
    BYE,
    CONNECTION,
    PARTIES,
    RENEW,
    RENEW_AS_DRAWN,
    VERSIONS,
    CertificateRenewalRequest,
    ConnectionParametersRequest,
    versions_body,
)
from engine.registration.connections import Connections
from engine.registration.directory import Directory
from engine.server.exchange import ANY, Answer, Inbound, Routes, check_body, read_body
from engine.settings import Settings


class RegistrationHandlers:
    """One method for each request."""

    def __init__(self, *, connections: Connections, directory: Directory, settings: Settings, clock: Clock) -> None:
        self._handshakes = connections.handshakes
        self._renewals = connections.renewals
        self._directory = directory
        self._clock = clock
        self._versions = Answer(200, versions_body(settings.platform.base_url))

    async def connect(self, request: Inbound) -> Answer:
        """Set up the connection (UC 01.03)."""
        parameters = read_body(request.body, ConnectionParametersRequest)
        return Answer(200, await self._handshakes.receive(request.caller.platform_id, request.body, parameters))

    async def bye(self, request: Inbound) -> Answer:
        """End the connection (UC 01.05); a body is ignored (B47)."""
        await self._handshakes.receive_bye(request.caller.platform_id)
        return self._done()

    async def renew(self, request: Inbound) -> Answer:
        """Take a request for a new certificate (UC 01.04)."""
        wanted = read_body(request.body, CertificateRenewalRequest)
        await self._renewals.receive_request(request.caller.platform_id, wanted)
        return self._done()

    async def renewed(self, request: Inbound) -> Answer:
        """Take the new certificate that we asked for, or the reason why there is none (W2)."""
        check_body(request.body)
        await self._renewals.receive_answer(request.caller.platform_id, request.segments[-1], request.body)
        return self._done()

    async def versions(self, _request: Inbound) -> Answer:
        """Say which versions are spoken here (UC 01.06)."""
        return self._versions

    async def parties(self, _request: Inbound) -> Answer:
        """Say which parties are served here (UC 02.01)."""
        return Answer(200, self._directory.hosted_body)

    def _done(self) -> Answer:
        return Answer(200, envelope.success(ocpi_time(self._clock.now())))


def platform_routes(*, connections: Connections, directory: Directory, settings: Settings, clock: Clock) -> Routes:
    """List the paths between platforms, for ``Site``; renewal goes by both of its names (W1)."""
    handlers = RegistrationHandlers(connections=connections, directory=directory, settings=settings, clock=clock)
    return {
        (CONNECTION,): {"POST": handlers.connect},
        (CONNECTION, BYE): {"POST": handlers.bye},
        (CONNECTION, RENEW): {"POST": handlers.renew},
        (CONNECTION, RENEW_AS_DRAWN): {"POST": handlers.renew},
        (CONNECTION, RENEW, ANY): {"POST": handlers.renewed},
        (CONNECTION, RENEW_AS_DRAWN, ANY): {"POST": handlers.renewed},
        (VERSIONS,): {"GET": handlers.versions},
        (PARTIES,): {"GET": handlers.parties},
    }
