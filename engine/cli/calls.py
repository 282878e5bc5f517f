"""`call`, `calls`: ask a partner's party for an operation, and look at calls of both sides (UC 04.01, 04.03)."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Module, Panel

if TYPE_CHECKING:
    from engine.cli.api import Api

WAIT_AT_ONCE_S: Final = 30.0  # of one request to the local API; it is asked again until the time is over
SHOWN_MAX: Final = 100  # calls that a person looks at; --limit has more
_SUCCESS: Final = 1000  # an immediate no comes with it, and is the data
_GOOD: Final = ("succeeded", "accepted")
_BAD: Final = ("refused", "failed", "timed_out", "unreached", "revoked")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.CALLS)(call)
    app.command(rich_help_panel=Panel.CALLS)(calls)


def call(
    folder: Folder,
    module: Module,
    operation: Annotated[
        str, typer.Argument(metavar="OPERATION", help="For instance reserve-now.", show_default=False)
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE|-]", help="The parameters, a JSON object; - is standard input.", show_default="-"
        ),
    ] = Path("-"),
    *,
    sender: Annotated[str, typer.Option("--as", metavar="PARTY", help="Our party that asks.")],
    receiver: Annotated[str, typer.Option("--to", metavar="PARTY", help="The party that is asked.")],
    platform: Annotated[
        str | None, typer.Option(metavar="PARTNER", help="Where that party is, if several platforms serve it.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Wait this long for a result that comes later.")
    ] = 0.0,
    result_within: Annotated[
        float | None, typer.Option(min=0.1, metavar="SECONDS", help="Without a result by then it has timed out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a partner's party for an operation (UC 04.01, 04.03). Exit code 1: refused, failed, or timed out."""
    from engine.cli import output
    from engine.cli.api import Api

    payload = _parameters(file)
    about = {"sender": sender, "receiver": receiver, "module": module, "operation": operation, "platform": platform}
    order = b'%b,"payload":%b}' % (_written(about | {"result_within_s": result_within})[:-1], payload)
    with Api(folder) as api:
        response = api.request("POST", "/api/v1/calls", content=order, headers={"content-type": "application/json"})
        made, text = response.json(), response.content
        until = time.monotonic() + wait
        while made["open"] and (left_s := until - time.monotonic()) > 0:
            text = api.read(f"/api/v1/calls/{made['id']}", wait_s=min(left_s, WAIT_AT_ONCE_S))
            made = _read(text)
    if as_json:
        output.write_bytes(text + b"\n")
    else:
        _say(made, folder)
    if made["state"] in _BAD:
        raise typer.Exit(1)


def calls(
    folder: Folder,
    is_open: Annotated[bool, typer.Option("--open", help="Only those that wait for something.")] = False,
    party: Annotated[str | None, typer.Option(metavar="PARTY", help="Only of this party of ours.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many.")] = SHOWN_MAX,
    as_json: Json = False,
) -> None:
    """List calls that our parties asked and that partners asked of them, newest first."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        pages = list(_pages(api, limit, open=True if is_open else None, party=party))
    if as_json:
        output.write_bytes(b"[%b]\n" % b",\n".join(pages))
        return
    found = [_read(one) for one in pages]
    output.print_table(
        ["id", "operation", "from → to", "at", "state", "asked", "deadline", "why"],
        [
            [
                str(one["id"]),
                f"{one['module']}/{one['operation']}",
                f"{one['sender']} → {one['receiver']}",
                one["platform"],
                _coloured(one),
                output.age(one["asked_at"]),
                output.age(one["deadline_at"]) if one["open"] else None,
                _why(one),
            ]
            for one in found
        ],
        none="no calls" + (" that wait for something" if is_open else " yet"),
    )


def _pages(api: "Api", limit: int, **query: Any) -> Any:
    """Yield calls as they are written, so that their payloads keep their bytes."""
    import msgspec

    before = None
    while limit > 0:
        text = api.read("/api/v1/calls", limit=min(limit, SHOWN_MAX), before=before, **query)
        page = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        found = [bytes(one) for one in msgspec.json.decode(page["calls"], type=list[msgspec.Raw])]
        yield from found
        limit -= len(found)
        if not found or bytes(page["more"]) == b"false":
            return
        before = _read(found[-1])["id"]


def _parameters(file: Path) -> bytes:
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", "give a file with a JSON object, or -") from error
    if not text.strip():
        raise Failure("there are no parameters", "give a file with a JSON object, or - and standard input; {} is one")
    return text


def _written(value: object) -> bytes:
    import json

    return json.dumps(value).encode()


def _read(text: bytes) -> dict[str, Any]:
    import json

    read: dict[str, Any] = json.loads(text)
    return read


def _say(made: dict[str, Any], folder: Path) -> None:
    from engine.cli import output

    about = f"call {made['id']}: {made['module']}/{made['operation']} of {made['receiver']} at {made['platform']}"
    why = _why(made)
    line = f"{about} {made['state']}" + (f": {why}" if why else "")
    if made["open"]:
        output.say(output.odd("… "), line)
        output.hint(f"the result comes later; see: ocpi-engine calls {folder} --open")
    elif made["state"] == "succeeded":
        output.done(line)
    else:
        output.say(output.bad("✗ "), line)
    for value in (made.get("data"), *(result.get("payload") for result in made["results"])):
        if value is not None and value != "ACCEPTED":
            output.say(str(_written(value), "utf-8"))


def _why(one: dict[str, Any]) -> str | None:
    """Say what is to be known of how it stands."""
    last = one["results"][-1] if one["results"] else None
    if last is not None:
        words = [last["result_type"], _text(last.get("error")), last["note"]]
        if last["delivery"] == "owed":
            words.append(f"not delivered yet: {last['last_error'] or 'on its way'}")
        elif last["delivery"] not in (None, "delivered"):
            words.append(f"{last['delivery']}: {last['last_error']}")
        return ", ".join(word for word in words if word)
    if one["state"] not in ("refused", "unanswered", "unreached", "timed_out", "ended"):
        return str(one["hand_over_error"]) if one["hand_over_error"] else None
    at_once = one["status_code"] == _SUCCESS
    words = [one.get("data") if at_once else one["status_code"], one["message"]]
    return ", ".join(dict.fromkeys(str(word) for word in words if word))


def _text(value: Any) -> str | None:
    if isinstance(value, dict) and isinstance(value.get("status"), str):
        return str(value["status"])
    return None if value is None else str(_written(value), "utf-8")


def _coloured(one: dict[str, Any]) -> Any:
    from engine.cli import output

    state = one["state"]
    return output.good(state) if state in _GOOD else output.bad(state) if state in _BAD else output.odd(state)
