"""What we say about subscriptions (UC 03.01, 03.04 to 03.10): one function for each request."""

from dataclasses import dataclass

import msgspec

from engine.peers.client import PeerFailure, Peers
from engine.protocol import envelope
from engine.protocol.addressing import party_path
from engine.protocol.envelope import OcpiResponse
from engine.protocol.ids import PartyId
from engine.protocol.objects import read_int
from engine.protocol.subscriptions import INT_MAX, CancellationReason, Parameters


class NotOcpi(Exception):
    """The partner answered, but not with an OcpiResponse (R.02.02.04)."""


@dataclass(frozen=True, slots=True)
class Address:
    """A subscription as it is addressed: by which party to which, on which platform, for which module."""

    platform_id: int
    sender: PartyId
    receiver: PartyId
    module: str


class _StateWire(msgspec.Struct):
    retry_interval: float
    current_queue_size: msgspec.Raw
    max_queue_size: msgspec.Raw


class _SubscribedWire(msgspec.Struct):
    max_queue_size: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, slots=True)
class PeerState:
    """A ``SubscriptionState`` (3.3.9) as the producer gave it."""

    retry_interval_s: float
    current_queue_size: int
    max_queue_size: int


class SubscriptionRequests:
    """Requests about subscriptions. Each raises ``PeerFailure`` or ``NotOcpi`` when there is no answer to read."""

    def __init__(self, peers: Peers) -> None:
        """Send through these sessions."""
        self._peers = peers

    async def subscribe(self, address: Address, parameters: Parameters) -> OcpiResponse:
        """Ask to subscribe (R.03.01.02 to R.03.01.04)."""
        return await self._ask(address, "POST", body=parameters.body())

    async def cancel_my(self, address: Address) -> OcpiResponse:
        """Cancel as the receiver (R.03.04.02 to R.03.04.04); there is no body."""
        return await self._ask(address, "POST", "cancel-my-subscription")

    async def cancel_your(self, address: Address, reason: CancellationReason) -> OcpiResponse:
        """Cancel as the sender (R.03.05.02 to R.03.05.04)."""
        return await self._ask(address, "POST", "cancel-your-subscription", body={"reason": reason.value})

    async def state(self, address: Address) -> OcpiResponse:
        """Ask for the state at the sender (R.03.06.02, R.03.06.03)."""
        return await self._ask(address, "GET", "state")

    async def renegotiate_my(self, address: Address, parameters: Parameters) -> OcpiResponse:
        """Propose parameters as the receiver (R.03.07.02 to R.03.07.04)."""
        return await self._ask(address, "POST", "renegotiate-my-subscription", body=parameters.body())

    async def renegotiate_your(self, address: Address, parameters: Parameters) -> OcpiResponse:
        """Propose parameters as the sender (R.03.08.02 to R.03.08.04)."""
        return await self._ask(address, "POST", "renegotiate-your-subscription", body=parameters.body())

    async def immediate_retries(self, address: Address) -> OcpiResponse:
        """Ask that what waits for its backoff be sent now (R.03.09.02, R.03.09.03)."""
        return await self._ask(address, "POST", "request-immediate-retries")

    async def full_update(self, address: Address, object_id: str) -> OcpiResponse:
        """Ask for one object again (R.03.10.02 to R.03.10.04)."""
        return await self._ask(address, "POST", "request-full-update", body={"id": object_id})

    async def _ask(
        self, address: Address, method: str, *operation: str, body: dict[str, object] | None = None
    ) -> OcpiResponse:
        path = party_path(address.sender, address.receiver, address.module, *operation)
        encoded = None if body is None else msgspec.json.encode(body)
        answer = await self._peers.request(address.platform_id, method, path, body=encoded)
        response = envelope.read(answer.body)
        if response is None:
            raise NotOcpi(f"HTTP {answer.http_status} without an OcpiResponse")
        return response


def read_state(response: OcpiResponse) -> PeerState | None:
    """Read a ``SubscriptionState``; None when the answer holds none."""
    try:
        wire = msgspec.json.decode(response.content, type=_StateWire)
        return PeerState(wire.retry_interval, _size(wire.current_queue_size), _size(wire.max_queue_size))
    except (msgspec.MsgspecError, ValueError):
        return None


def read_queue_size(response: OcpiResponse) -> int | None:
    """Read the ``max_queue_size`` of a ``SubscriptionResponse`` (3.3.8); None when there is none."""
    try:
        size = _size(msgspec.json.decode(response.content, type=_SubscribedWire).max_queue_size)
    except (msgspec.MsgspecError, ValueError):
        return None
    return size or None


def _size(text: msgspec.Raw) -> int:
    """Read a number of objects; what is more than anyone can owe is cut, since it is stored and shown."""
    return min(read_int(bytes(text)), INT_MAX)


__all__ = ["Address", "NotOcpi", "PeerFailure", "PeerState", "SubscriptionRequests", "read_queue_size", "read_state"]
