"""`subscribe` and everything that 3.04 to 3.10 let either side ask about a subscription."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from engine.cli.options import Folder, Json, Module, Panel

Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="A subscription: in-… is ours, out-… a partner's here.", show_default=False),
]
RetryInterval = Annotated[float | None, typer.Option(metavar="SECONDS", help="p of the backoff 2^(n-1)·p.")]
Parallelism = Annotated[int | None, typer.Option(metavar="N", help="Requests in progress at once.")]
QueueSize = Annotated[int | None, typer.Option(metavar="N", help="Objects owed before it is cancelled.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    commands: list[Callable[..., None]] = [
        subscribe,
        unsubscribe,
        subscriptions,
        renegotiate,
        cancel,
        retry_now,
        failing,
        drop_failing,
        request_retries,
        request_full_update,
    ]
    for command in commands:
        app.command(rich_help_panel=Panel.SUBSCRIPTIONS)(command)


def subscribe(
    folder: Folder,
    module: Module,
    *,
    subscriber: Annotated[str, typer.Option("--as", metavar="PARTY", help="Our party that subscribes.")],
    producer: Annotated[str, typer.Option("--to", metavar="PARTY", help="The party whose objects it wants.")],
    platform: Annotated[
        str | None, typer.Option(metavar="PARTNER", help="Where that party is, if several platforms serve it.")
    ] = None,
    retry_interval: RetryInterval = None,
    parallelism: Parallelism = None,
    queue_size: QueueSize = None,
    as_json: Json = False,
) -> None:
    """Subscribe a party of ours to a partner's objects (UC 03.01)."""
    from engine.cli import output

    order = {
        "subscriber": subscriber,
        "producer": producer,
        "module": module,
        "platform": platform,
        **_parameters(retry_interval, parallelism, queue_size),
    }
    made = _post(folder, "/api/v1/subscriptions", order)
    if as_json:
        output.show(made)
        return
    about = f"{made['subscriber']} ← {made['module']} of {made['producer']} at {made['platform']}"
    if made["last_error"]:
        output.say(output.odd("… "), f"{made['id']}: {about} is {made['state']}: {made['last_error']}")
        output.hint(f"it is asked for until it is answered; see: ocpi-engine state {folder}")
    else:
        output.done(f"{made['id']}: {about} is {made['state']}", then=f"watch it: ocpi-engine state {folder} --watch")


def unsubscribe(folder: Folder, subscription: Id, as_json: Json = False) -> None:
    """End a subscription of ours (UC 03.04). Copies stay readable, marked stale."""
    from engine.cli import output

    ended = _post(folder, f"/api/v1/subscriptions/{subscription}/unsubscribe")
    if as_json:
        output.show(ended)
        return
    output.done(f"{ended['id']} is {ended['state']}; {ended['producer']} is told until it answers")


def cancel(
    folder: Folder,
    subscription: Id,
    reason: Annotated[str, typer.Option(help="QUEUE_OVERFLOW, DATA_NO_LONGER_AVAILABLE or OTHER.")] = "OTHER",
    as_json: Json = False,
) -> None:
    """End a partner's subscription here (UC 03.05): nothing more is sent, and the partner is told."""
    from engine.cli import output

    ended = _post(folder, f"/api/v1/subscriptions/{subscription}/cancel", {"reason": reason})
    if as_json:
        output.show(ended)
        return
    output.done(f"{ended['id']} is {ended['state']}; {ended['subscriber']} is told until it has heard it")


def subscriptions(
    folder: Folder,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask each producer for its state: what it owes us, what it has agreed to.")
    ] = False,
    ended: Annotated[bool, typer.Option("--ended", help="Show those that ended, too.")] = False,
    as_json: Json = False,
) -> None:
    """List subscriptions: ours at partners, and partners' here; with --ask what the producers say (UC 03.06)."""
    from engine.cli import output
    from engine.cli.api import Api
    from engine.cli.failure import Failure

    with Api(folder) as api:
        found = api.get("/api/v1/subscriptions")
        if not ended:
            found = {side: [one for one in listed if not one["ended_at"]] for side, listed in found.items()}
        for one in found["ours"] if ask else []:
            try:
                one["producer_says"] = api.post(f"/api/v1/subscriptions/{one['id']}/ask-state")
            except Failure as failure:
                one["producer_says"] = {"error": failure.message}
    if as_json:
        output.show(found)
        return
    both = [*found["ours"], *found["theirs"]]
    columns = ["id", "module", "receiver", "producer", "partner", "state", "retry", "at once", "queue up to", "since"]
    output.print_table(
        [*columns, "the producer says"] if ask else columns,
        [[*_row(one), *([_said(one.get("producer_says"))] if ask else [])] for one in both],
        right=["at once", "queue up to"],
        none="no subscriptions; make one with `ocpi-engine subscribe`",
    )


def renegotiate(
    folder: Folder,
    subscription: Id,
    *,
    retry_interval: RetryInterval = None,
    parallelism: Parallelism = None,
    queue_size: QueueSize = None,
    as_json: Json = False,
) -> None:
    """Propose other parameters to the other side, whichever it is (UC 03.07, 03.08)."""
    from engine.cli import output
    from engine.cli.failure import Failure

    order = _parameters(retry_interval, parallelism, queue_size)
    if not any(order.values()):
        raise typer.BadParameter("give --retry-interval, --parallelism or --queue-size")
    answer = _post(folder, f"/api/v1/subscriptions/{subscription}/renegotiate", order)
    if not answer["accepted"]:
        raise Failure("the other side rejected the proposal", "what was agreed before still holds")
    if as_json:
        output.show(answer)
        return
    output.done(f"agreed: {subscription} has new parameters")


def retry_now(folder: Folder, subscription: Id, as_json: Json = False) -> None:
    """Send now what waits for its backoff to a partner."""
    from engine.cli import output

    answer = _post(folder, f"/api/v1/subscriptions/{subscription}/retry-now")
    if as_json:
        output.show(answer)
        return
    output.done(f"{output.counted(answer['count'], 'object')} sent without waiting any longer")


def failing(
    folder: Folder,
    subscription: Id,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, longest failing first.")] = 100,
    as_json: Json = False,
) -> None:
    """List objects that a partner does not have yet or refused, and why."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        found = api.get(f"/api/v1/subscriptions/{subscription}/failing", limit=limit)
    if as_json:
        output.show(found)
        return
    output.print_table(
        ["issuer", "id", "version", "attempts", "since", "next attempt", "why"],
        [
            [
                one["issuer"],
                one["object_id"],
                str(one["version"]),
                str(one["attempts"]),
                output.age(one["first_failed_at"]),
                "none: refused" if one["rejected"] else output.age(one["due_at"]),
                one["last_error"],
            ]
            for one in found
        ],
        right=["version", "attempts"],
        none="nothing fails",
    )


def drop_failing(
    folder: Folder,
    subscription: Id,
    issuer: Annotated[str, typer.Argument(metavar="ISSUER", help="The object's issuer.")],
    object_id: Annotated[str, typer.Argument(metavar="OBJECT", help="Its id.")],
    as_json: Json = False,
) -> None:
    """Give up an object that keeps failing, until it changes."""
    from engine.cli import output

    _post(folder, f"/api/v1/subscriptions/{subscription}/drop-failing", {"issuer": issuer, "object_id": object_id})
    if as_json:
        output.show({"dropped": object_id})
        return
    output.done(f"{object_id} is not sent again until it changes")


def request_retries(folder: Folder, subscription: Id, as_json: Json = False) -> None:
    """Ask a producer to send now what waits for its backoff (UC 03.09)."""
    from engine.cli import output

    _post(folder, f"/api/v1/subscriptions/{subscription}/request-immediate-retries")
    if as_json:
        output.show({"requested": subscription})
        return
    output.done("asked; what failed comes again now")


def request_full_update(
    folder: Folder,
    subscription: Id,
    object_id: Annotated[str, typer.Argument(metavar="OBJECT", help="The object's id.")],
    as_json: Json = False,
) -> None:
    """Ask a producer to send one object again (UC 03.10)."""
    from engine.cli import output

    _post(folder, f"/api/v1/subscriptions/{subscription}/request-full-update", {"object_id": object_id})
    if as_json:
        output.show({"requested": object_id})
        return
    output.done(f"asked; {object_id} comes again")


def _post(folder: Any, path: str, body: Any = None) -> Any:
    from engine.cli.api import Api

    with Api(folder) as api:
        return api.post(path, body)


def _parameters(
    retry_interval_s: float | None, parallelism_limit: int | None, queue_size_max: int | None
) -> dict[str, float | None]:
    return {
        "retry_interval_s": retry_interval_s,
        "parallelism_limit": parallelism_limit,
        "queue_size_max": queue_size_max,
    }


def _row(one: dict[str, Any]) -> list[Any]:
    from engine.cli import output
    from engine.cli.platforms import coloured

    return [
        one["id"],
        one["module"],
        one["subscriber"],
        one["producer"],
        one["platform"],
        coloured(f"{one['state']} ({one['end_reason']})" if one["end_reason"] else one["state"]),
        output.duration(one["retry_interval_s"]),
        str(one["parallelism_limit"]),
        output.number(one["queue_size_max"]),
        output.age(one["began_at"]),
    ]


def _said(state: dict[str, Any] | None) -> Any:
    from engine.cli import output

    if state is None:
        return None
    if "error" in state:
        return output.odd(state["error"])
    waiting = output.number(state["current_queue_size"])
    return f"{waiting} of {output.number(state['max_queue_size'])} waiting, retry {state['retry_interval_s']:g} s"
