"""`state`: what is owed, what is stuck and why (P9); once, or refreshed."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Folder, Json, Panel

if TYPE_CHECKING:
    from rich.console import Group

STUCK_SHOWN_MAX = 20  # lines that a person reads; --json has them all


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.WATCH)(state)


def state(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often with --watch.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show partners, subscriptions with what they owe, and whatever is stuck: since when, why, and what comes next."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        if watch:
            _watch(api, every)
            return
        found = api.get("/api/v1/state")
    if as_json:
        output.show(found)
    else:
        output.console().print(_laid_out(found))


def _watch(api: Any, every_s: float) -> None:
    import time

    from rich.live import Live

    from engine.cli import output
    from engine.cli.failure import Failure

    if output.as_json():
        while True:
            output.write_bytes(api.read("/api/v1/state") + b"\n")
            time.sleep(every_s)
    with Live(console=output.console(), auto_refresh=False, screen=output.console().is_terminal) as live:
        while True:
            try:
                live.update(_laid_out(api.get("/api/v1/state")), refresh=True)
            except Failure as failure:
                live.update(output.odd(f"… {failure.message}"), refresh=True)
            time.sleep(every_s)


def _laid_out(found: dict[str, Any]) -> "Group":
    from rich.console import Group
    from rich.text import Text

    from engine.cli import output

    _wait_for_probes(found)
    parts: list[Any] = [
        Text.assemble(("platforms", "bold cyan"), output.faint(f"   at {found['time']}")),
        _platforms(found["platforms"]) if found["platforms"] else output.faint("none yet"),
    ]
    if len(found["processes"]) > 1:
        table = output.table(_PROCESSES, [_process(one) for one in found["processes"]], right=["subscriptions"])
        parts += [Text(), Text("processes", style="bold cyan"), table]
    for heading, key, columns, row in (
        ("subscriptions of partners here", "subscriptions_here", _THEIRS, _theirs),
        ("subscriptions of ours", "subscriptions_of_ours", _OURS, _ours),
    ):
        live = [one for one in found[key] if not one["ended_at"]]
        if live:
            table = output.table(
                columns, [row(one) for one in live], right=["queue", "in flight", "failing", "queue there"]
            )
            parts += [Text(), Text(heading, style="bold cyan"), table, *_last_errors(live, row)]
    parts += [Text(), *_stored(found["objects"])]
    parts += _calls(found["calls"])
    parts += [Text(), *_restored(found.get("restored")), *_stuck(found["stuck"])]
    return Group(*parts)


def _wait_for_probes(found: dict[str, Any]) -> None:
    """Let what is due wait for the next probe of its platform, where that is down (B6)."""
    probes = {one["identity"]: one["next_probe_at"] for one in found["platforms"] if not one["reachable"]}
    probe_of = {one["id"]: probes.get(one["platform"]) for one in found["subscriptions_here"]}
    waiting = [(one, one["id"]) for one in found["subscriptions_here"]]
    waiting += [(one, one["subscription"]) for one in found["stuck"] if "subscription" in one]
    for one, subscription_id in waiting:
        probe = probe_of.get(subscription_id)
        if one["next_attempt_at"] and probe:
            one["next_attempt_at"] = max(one["next_attempt_at"], probe)  # both are times of the same form


def _platforms(platforms: list[dict[str, Any]]) -> Any:
    from engine.cli import output
    from engine.cli.platforms import coloured

    rows = [
        [
            one["identity"],
            coloured(one["state"]),
            _reachability(one),
            output.age(one["connected_at"]),
            one["last_error"],
        ]
        for one in platforms
    ]
    return output.table(["partner", "state", "", "connected", "last error"], rows)


_PROCESSES = ["process", "machine", "since", "subscriptions", "periodic work"]


def _process(process: dict[str, Any]) -> list[Any]:
    from engine.cli import output

    number = f"{process['pid']}{' (answers this)' if process['answers_this'] else ''}"
    work = ", ".join(process["periodic_work"])
    return [number, process["host"], output.age(process["since"]), str(process["subscriptions"]), work]


_THEIRS = ["id", "module", "from → to", "state", "queue", "oldest", "in flight", "failing", "next"]
_OURS = ["id", "module", "from → to", "state", "queue there", "asked", "next"]


def _reachability(platform: dict[str, Any]) -> Any:
    """Say whether a partner answers; the first failures do not make it down, and are not hidden either."""
    from engine.cli import output

    if platform["reachable"] is None:
        return None
    if not platform["reachable"]:
        return output.odd(f"down; next try {output.age(platform['next_probe_at']) or 'now'}")
    failed = platform["failed_in_a_row"]
    return output.odd(f"{failed} failed in a row") if failed else "answers"


def _theirs(one: dict[str, Any]) -> list[Any]:
    from engine.cli import output
    from engine.cli.platforms import coloured

    catching_up = "" if one["first_catch_up_done"] else ", catching up"
    failing = one["waiting_for_backoff"] + one["rejected"]
    return [
        f"out-{one['id']}",
        one["module"],
        f"{one['producer']} → {one['subscriber']}",
        coloured(one["state"] + catching_up),
        output.number(one["queue_size"]),
        output.duration(one["delay_s"]),
        str(one["in_flight"]),
        output.odd(str(failing)) if failing else "0",
        _time_to(one["next_attempt_at"]),
    ]


def _ours(one: dict[str, Any]) -> list[Any]:
    from engine.cli import output
    from engine.cli.platforms import coloured

    return [
        f"in-{one['id']}",
        one["module"],
        f"{one['producer']} → {one['subscriber']}",
        coloured(one["state"]),
        output.number(one["queue_size_there"]),
        output.age(one["state_checked_at"]),
        _time_to(one["next_action_at"]),
    ]


def _last_errors(live: list[dict[str, Any]], row: Callable[[dict[str, Any]], list[Any]]) -> list[Any]:
    """Say below the table what went wrong last, and when; the table would be too wide with it."""
    from engine.cli import output

    return [
        output.faint(f"{row(one)[0]}  last error{f' {age}' if age else ''}: {one['last_error']}")
        for one in live
        if one["last_error"]
        for age in [output.age(one.get("last_error_at"))]
    ]


def _time_to(text: str | None) -> str | None:
    """Say in how long something comes; what is due already comes now."""
    from engine.cli import output

    when = output.moment(text)
    return None if when is None else "now" if when <= datetime.now(UTC) else output.age(text)


def _stored(objects: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    from engine.cli import output

    counts: dict[tuple[str, str], dict[str, int]] = {}
    for kind in ("issued", "received"):
        for one in objects[kind]:
            counts.setdefault((one["module"], one["issuer"]), {})[kind] = one["count"]
    if not counts:
        return [Text.assemble(("objects", "bold cyan"), "  ", output.faint("none yet"))]
    rows = [
        [module, issuer, output.number(each.get("issued")), output.number(each.get("received"))]
        for (module, issuer), each in counts.items()
    ]
    columns = ["module", "issuer", "issued", "received"]
    return [Text("objects", style="bold cyan"), output.table(columns, rows, right=columns[2:])]


def _calls(calls: dict[str, Any]) -> list[Any]:
    """Say how many calls wait for something, where there are any."""
    from rich.text import Text

    from engine.cli import output

    said = [
        f"{output.number(calls[side]['open'])} {words}, the oldest {output.age(calls[side]['oldest_since'])}"
        for side, words in (("asked", "of ours wait"), ("received", "of partners wait"))
        if calls[side]["open"]
    ]
    if calls["results_owed"]:
        said.append(f"{output.counted(calls['results_owed'], 'result')} owed")
    return [Text(), Text.assemble(("calls", "bold cyan"), "  ", "; ".join(said))] if said else []


def _restored(what: dict[str, Any] | None) -> list[Any]:
    from engine.cli import output

    if what is None:
        return []
    done = f"{output.number(what['objects'])} objects have new versions"
    subscriptions = f"{what['subscriptions_here']} subscriptions here, {what['subscriptions_of_ours']} of ours"
    line = f"an older database was {what['how']} {output.age(what['at'])}: {done}; {subscriptions} began again"
    return [output.odd(line), output.faint("what to look at: docs/scaling.md, Backup and restore")]


def _stuck(stuck: list[dict[str, Any]]) -> list[Any]:
    from rich.text import Text

    from engine.cli import output

    if not stuck:
        return [output.good("✓ nothing is stuck")]
    alike: dict[tuple[Any, Any, bool], list[dict[str, Any]]] = {}
    for one in stuck:
        alike.setdefault((one.get("subscription", one["what"]), one["why"], one.get("rejected", False)), []).append(one)
    rows = [_alike(group) for group in list(alike.values())[:STUCK_SHOWN_MAX]]
    more = len(alike) - STUCK_SHOWN_MAX
    heading = Text(f"stuck: {len(stuck)}", style="bold yellow")
    end = [output.faint(f"and {more} more kinds; --json has them all")] if more > 0 else []
    return [heading, output.table(["what", "since", "why", "next attempt"], rows), *end]


def _alike(group: list[dict[str, Any]]) -> list[Any]:
    """Show what is stuck for the same reason as one line."""
    from engine.cli import output

    first, more = group[0], len(group) - 1
    since = min((one["since"] for one in group if one["since"]), default=None)
    due = min((one["next_attempt_at"] for one in group if one["next_attempt_at"]), default=None)
    return [
        first["what"] + (f", and {output.number(more)} more" if more else ""),
        output.age(since),
        first["why"],
        "none: it was refused" if first.get("rejected") else _time_to(due),
    ]
