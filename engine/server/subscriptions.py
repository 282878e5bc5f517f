"""Requests about subscriptions that partners make of us (UC 03.01, 03.04 to 03.10).

What a receiver asks goes to the producing side, what a sender tells goes to the consuming side. Who may speak
for the sender party was checked before (B15).
"""

from typing import Any

from engine.clock import Clock, ocpi_time
from engine.protocol import envelope
from engine.protocol.errors import (
    ModuleNotServed,
    NoSuchSubscription,
    NotSubscribed,
    PartyNotServed,
    SubscriberNotAuthorized,
    SubscriberNotRecognized,
)
from engine.protocol.modules import module
from engine.protocol.subscriptions import Parameters, read_cancellation, read_parameters, read_reference
from engine.registration.directory import Directory
from engine.replication.consuming import Consuming
from engine.replication.producing import Producing
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer, Inbound, check_body
from engine.server.objects import ObjectHandlers
from engine.settings import Subscriptions as Limits

OK = 200


class SubscriptionHandlers:
    """Answers requests about subscriptions."""

    def __init__(
        self, directory: Directory, producing: Producing, consuming: Consuming, clock: Clock, limits: Limits
    ) -> None:
        """Hand them to both sides of replication."""
        self._directory = directory
        self._producing = producing
        self._consuming = consuming
        self._clock = clock
        self._limits = limits

    async def subscribe(self, request: Inbound) -> Answer:
        """Make a subscription, or say why not (R.03.01.05, R.03.01.06; B16, B43)."""
        served = module(request.segments[0])
        producer = self._directory.hosted(request.receiver)
        if producer is None:
            raise PartyNotServed
        if served is None or not self._directory.module_served(request.receiver, served.id, "SENDER"):
            raise ModuleNotServed
        if producer.hub:
            raise SubscriberNotAuthorized("this platform shares nothing as a hub")
        wanted = self._parameters(request, queue_size_required=False)
        queue_size_max = await self._producing.subscribe(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0], wanted
        )
        return self._success({"max_queue_size": queue_size_max})

    async def cancel_my(self, request: Inbound) -> Answer:
        """End a subscription at the receiver's wish (R.03.04.05 to R.03.04.08)."""
        await self._producing.cancelled_by_receiver(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0]
        )
        return self._success()

    async def cancel_your(self, request: Inbound) -> Answer:
        """Take note that a sender ended our subscription (R.03.05.05, R.03.05.08)."""
        check_body(request.body)
        reason = read_cancellation(request.body)
        await self._consuming.cancelled(
            request.caller.platform_id, request.receiver, request.sender, request.segments[0], reason
        )
        return self._success()

    async def state(self, request: Inbound) -> Answer:
        """Say what we owe (R.03.06.04, R.03.06.05)."""
        state = await self._producing.state(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0]
        )
        interval = state.retry_interval_s
        return self._success(
            {
                "retry_interval": int(interval) if interval.is_integer() else interval,
                "current_queue_size": state.queue_size,
                "max_queue_size": state.queue_size_max,
            }
        )

    async def renegotiate_my(self, request: Inbound) -> Answer:
        """Answer a receiver's proposal (R.03.07.05 to R.03.07.09)."""
        proposal = self._parameters(request, queue_size_required=True)
        accepted = await self._producing.renegotiated(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0], proposal
        )
        return self._success("ACCEPTED" if accepted else "REJECTED")

    async def renegotiate_your(self, request: Inbound) -> Answer:
        """Answer a sender's proposal (R.03.08.05 to R.03.08.09)."""
        proposal = self._parameters(request, queue_size_required=True)
        accepted = await self._consuming.renegotiated(
            request.caller.platform_id, request.receiver, request.sender, request.segments[0], proposal
        )
        return self._success("ACCEPTED" if accepted else "REJECTED")

    async def immediate_retries(self, request: Inbound) -> Answer:
        """Send now what waits for its backoff (R.03.09.04 to R.03.09.06)."""
        await self._producing.retry_immediately(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0]
        )
        return self._success()

    async def full_update(self, request: Inbound) -> Answer:
        """Send one object again (R.03.10.05 to R.03.10.08)."""
        check_body(request.body)
        object_id = read_reference(request.body)
        await self._producing.send_again(
            request.caller.platform_id, request.sender, request.receiver, request.segments[0], object_id
        )
        return self._success()

    def _parameters(self, request: Inbound, *, queue_size_required: bool) -> Parameters:
        check_body(request.body)
        return read_parameters(
            request.body,
            retry_interval_max_s=self._limits.retry_interval_max_s,
            queue_size_required=queue_size_required,
        )

    def _success(self, data: Any = None) -> Answer:
        return Answer(OK, envelope.success(ocpi_time(self._clock.now()), data))


def register_operations(party: PartyRequests, subscriptions: SubscriptionHandlers, objects: ObjectHandlers) -> None:
    """Serve chapter 3's operations; each with what a sender hears that may not speak (B15)."""
    party.register("", "POST", subscriptions.subscribe, SubscriberNotRecognized)
    party.register("update", "POST", objects.update, NotSubscribed)
    party.register("state", "GET", subscriptions.state, NoSuchSubscription)
    party.register("cancel-my-subscription", "POST", subscriptions.cancel_my, NoSuchSubscription)
    party.register("cancel-your-subscription", "POST", subscriptions.cancel_your, NoSuchSubscription)
    party.register("renegotiate-my-subscription", "POST", subscriptions.renegotiate_my, NoSuchSubscription)
    party.register("renegotiate-your-subscription", "POST", subscriptions.renegotiate_your, NoSuchSubscription)
    party.register("request-immediate-retries", "POST", subscriptions.immediate_retries, NoSuchSubscription)
    party.register("request-full-update", "POST", subscriptions.full_update, NoSuchSubscription)
