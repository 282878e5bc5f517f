"""Routes of subscriptions: ours at partners (``in-1``: objects come in) and partners' here (``out-1``: they go out).

Every request of 3.01 to 3.10 can be made from the side that the draft gives it to.
"""

from dataclasses import asdict
from typing import Annotated, TypedDict

from fastapi import APIRouter, Path, Query

from engine.refusals import NotFoundHere
from engine.server.operator import models
from engine.server.operator.access import Engine
from engine.server.operator.errors import Problem
from engine.store.subscriptions import InboundSubscription, OutboundSubscription

router = APIRouter(prefix="/api/v1/subscriptions", tags=["subscriptions"])

QUEUE_SIZE_UNKNOWN = 1_000_000  # asked for where the producer never said what it promises
FAILING_DEFAULT = 100  # rows: a person looks at them

SubscriptionId = Annotated[str, Path(description="`in-…`: ours; `out-…`: a partner's", examples=["in-1"])]


@router.get("", summary="List subscriptions")
async def listed(engine: Engine) -> models.Subscriptions:
    """Show ours and partners', those that ended too."""
    return models.Subscriptions(
        ours=[ours(one) for one in await engine.consuming.list()],
        theirs=[theirs(one) for one in await engine.producing.list()],
    )


@router.post("", status_code=201, summary="Subscribe (03.01)")
async def subscribe(engine: Engine, order: models.SubscribeOrder) -> models.Subscription:
    """Subscribe one of our parties to a partner's. If the partner is away it is asked until it answers."""
    return ours(
        await engine.consuming.subscribe(
            order.subscriber,
            order.producer,
            order.module,
            platform=order.platform,
            retry_interval_s=order.retry_interval_s,
            parallelism_limit=order.parallelism_limit,
            queue_size_max=order.queue_size_max,
        )
    )


@router.post("/{subscription}/unsubscribe", summary="End a subscription of ours (03.04)")
async def unsubscribe(engine: Engine, subscription: SubscriptionId) -> models.Subscription:
    """Cancel at the producer; copies stay readable, marked stale."""
    return ours(await engine.consuming.unsubscribe(_in(subscription)))


@router.post("/{subscription}/cancel", summary="End a partner's subscription (03.05)")
async def cancel(engine: Engine, subscription: SubscriptionId, order: models.CancelOrder) -> models.Subscription:
    """Stop sending, and tell the subscriber until it has heard it."""
    return theirs(await engine.producing.cancel(_out(subscription), order.reason))


@router.post("/{subscription}/ask-state", summary="Ask the producer for its state (03.06)")
async def ask_state(engine: Engine, subscription: SubscriptionId) -> models.PeerState:
    """Ask what the producer has agreed to, and how many objects it still owes us."""
    return models.PeerState.model_validate(await engine.consuming.producer_state(_in(subscription)))


@router.post("/{subscription}/renegotiate", summary="Change what was agreed (03.07, 03.08)")
async def renegotiate(engine: Engine, subscription: SubscriptionId, order: models.Parameters) -> models.Accepted:
    """Ask the other side, whichever it is; what is left out stays as it is."""
    if order == models.Parameters():
        raise Problem(422, "nothing to change", "give retry_interval_s, parallelism_limit or queue_size_max")
    side, number = _either(subscription)
    if side == "in":
        agreed = _agreed(await engine.consuming.get(number), order)
        return models.Accepted(accepted=await engine.consuming.renegotiate(number, **agreed))
    agreed = _agreed(await engine.producing.get(number), order)
    return models.Accepted(accepted=await engine.producing.renegotiate(number, **agreed))


@router.post(
    "/{subscription}/request-immediate-retries", status_code=204, summary="Have failed updates sent again now (03.09)"
)
async def request_immediate_retries(engine: Engine, subscription: SubscriptionId) -> None:
    """Ask the producer not to wait for its backoff."""
    await engine.consuming.request_immediate_retries(_in(subscription))


@router.post("/{subscription}/request-full-update", status_code=204, summary="Have an object sent again (03.10)")
async def request_full_update(engine: Engine, subscription: SubscriptionId, order: models.FullUpdateOrder) -> None:
    """Ask the producer for an object, whatever we hold of it."""
    await engine.consuming.request_full_update(_in(subscription), order.object_id)


@router.post("/{subscription}/retry-now", summary="Send what waits for its backoff now")
async def retry_now(engine: Engine, subscription: SubscriptionId) -> models.Count:
    """Do of our own what a partner can ask with 03.09; returns how many objects it concerns."""
    return models.Count(count=await engine.producing.retry_now(_out(subscription)))


@router.get("/{subscription}/failing", summary="Objects that a subscriber does not have yet, and why")
async def failing(
    engine: Engine, subscription: SubscriptionId, limit: Annotated[int, Query(ge=1, le=1000)] = FAILING_DEFAULT
) -> list[models.FailingObject]:
    """Show what waits for a retry, and what the subscriber refused for good."""
    found = await engine.producing.failing(_out(subscription), limit=limit)
    return [models.FailingObject.model_validate(one) for one in found]


@router.post("/{subscription}/drop-failing", status_code=204, summary="Give up an object that keeps failing")
async def drop_failing(engine: Engine, subscription: SubscriptionId, order: models.DropOrder) -> None:
    """Send this version no more (B2); a later one is sent again."""
    await engine.producing.drop_failing(_out(subscription), order.issuer, order.object_id)


class _Agreed(TypedDict):
    retry_interval_s: float
    parallelism_limit: int
    queue_size_max: int


def _agreed(row: InboundSubscription | OutboundSubscription, order: models.Parameters) -> _Agreed:
    """Put what is asked for into what is agreed now."""
    return {
        "retry_interval_s": order.retry_interval_s or row.retry_interval_s,
        "parallelism_limit": order.parallelism_limit or row.parallelism_limit,
        "queue_size_max": order.queue_size_max or row.queue_size_max or QUEUE_SIZE_UNKNOWN,
    }


def ours(subscription: InboundSubscription) -> models.Subscription:
    """Show a subscription of ours."""
    return models.Subscription.model_validate(asdict(subscription) | {"id": f"in-{subscription.id}"})


def theirs(subscription: OutboundSubscription) -> models.Subscription:
    """Show a partner's subscription."""
    shown = asdict(subscription) | {"id": f"out-{subscription.id}", "last_error": subscription.notice_error}
    shown["snapshot_from"] = subscription.snapshot_from or None  # 0: nothing is left out
    return models.Subscription.model_validate(shown)


def _either(text: str) -> tuple[str, int]:
    side, _, number = text.partition("-")
    if side not in ("in", "out") or not number.isdecimal() or len(number) > 18:  # noqa: PLR2004 - digits of 2^63
        raise NotFoundHere(f"there is no subscription {text!r}: `ocpi-engine subscriptions` lists them")
    return side, int(number)


def _in(text: str) -> int:
    side, number = _either(text)
    if side != "in":
        raise Problem(422, f"{text} is a partner's subscription here", "this is asked of one of ours: `in-…`")
    return number


def _out(text: str) -> int:
    side, number = _either(text)
    if side != "out":
        raise Problem(422, f"{text} is a subscription of ours", "this is done to a partner's: `out-…`")
    return number
