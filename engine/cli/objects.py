"""`publish`, `objects`, `reissue`: what our parties issue, and what they received."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Protocol

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Module, Panel

if TYPE_CHECKING:
    from engine.cli.api import Api

BATCH_LINES_MAX = 500  # lines of one request: often enough for the progress bar, seldom enough for speed
BATCH_BYTES_MAX = 4 * 1024 * 1024  # and its bytes, whatever is in the lines
LINE_BYTES_MAX = 8 * 1024 * 1024  # twice what partners take; a longer line is passed over without being kept
BAD_LINES_KEPT_MAX = 10_000  # bad lines in the JSON answer; they are all counted
PAGE = 500  # objects fetched in one request


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (publish, objects, reissue):
        app.command(rich_help_panel=Panel.OBJECTS)(command)


# publish


@dataclass(slots=True)
class _Tally:
    """What became of the lines so far."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    bad_lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return self.created + self.changed + self.unchanged + self.refused


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the input; ``text`` is None where it is too long to be kept."""

    number: int
    text: bytes | None
    read_bytes: int


@dataclass(slots=True)
class _Batch:
    """Some lines of the input, and where each stands in it."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    size_bytes: int = 0
    read_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.lines) >= BATCH_LINES_MAX or self.size_bytes >= BATCH_BYTES_MAX

    def add(self, line: _Line) -> None:
        self.read_bytes += line.read_bytes
        if line.text is None:
            self.too_long.append(line.number)
        elif line.text.strip():
            self.lines.append(line.text)
            self.numbers.append(line.number)
            self.size_bytes += len(line.text)


def publish(
    folder: Folder,
    module: Module,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help='Lines of {"id", "payload", "audience"?}; - for standard input.')
    ],
    party: Annotated[
        str | None, typer.Option(help="The party that issues them; may be left out if only one is hosted here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish objects from NDJSON. A bad line does not stop the others; payloads are kept byte for byte."""
    from engine.cli import output
    from engine.cli.api import Api

    tally = _Tally()
    with Api(folder) as api, opened(file) as (source, size_bytes):
        issuer = party or only_party(api)
        with _progress(size_bytes) as advance:
            for batch in _ReadAhead(source):
                _publish_batch(api, issuer, module, batch, tally)
                advance(batch.read_bytes, tally.lines)
    if as_json:
        counts = {name: getattr(tally, name) for name in ("created", "changed", "unchanged", "refused")}
        output.show({**counts, "bad_lines": tally.bad_lines})
    else:
        _sum_up(tally, issuer, module, folder)
    if tally.refused:
        raise typer.Exit(1)


def _publish_batch(api: "Api", party: str, module: str, batch: _Batch, tally: _Tally) -> None:
    for number in batch.too_long:
        tally.refused += 1
        _bad_line(tally, {"line": number, "reason": f"longer than {LINE_BYTES_MAX} bytes"})
    if not batch.lines:
        return
    first = batch.numbers[0]
    try:
        answer = api.publish(party, module, b"\n".join(batch.lines))
    except Failure as failure:
        where = f"; stopped at line {first}, the {tally.lines} lines before are stored" if tally.lines else ""
        raise Failure(failure.message + where, failure.hint, failure.problems) from failure
    for result in answer["results"]:
        if result["outcome"] == "refused":
            _bad_line(tally, result | {"line": batch.numbers[result["line"] - 1]})
    tally.created += answer["created"]
    tally.changed += answer["changed"]
    tally.unchanged += answer["unchanged"]
    tally.refused += answer["refused"]


def _bad_line(tally: _Tally, result: dict[str, Any]) -> None:
    from engine.cli import output

    if len(tally.bad_lines) < BAD_LINES_KEPT_MAX:
        tally.bad_lines.append(result)
    about = f" {result['id']}" if result.get("id") else ""
    first, *more = str(result.get("reason")).splitlines() or [""]
    output.note(output.bad(f"line {result['line']}"), f"{about}: {first}")
    for reason in more:
        output.note(f"  {reason}")


def _sum_up(tally: _Tally, party: str, module: str, folder: Path) -> None:
    from engine.cli import output

    parts = [
        f"{output.number(count)} {what}"
        for count, what in ((tally.created, "created"), (tally.changed, "changed"), (tally.unchanged, "unchanged"))
        if count
    ]
    stored = ", ".join(parts) or "nothing published"
    if tally.refused:
        output.note(output.bad("✗ "), f"{output.number(tally.refused)} refused; {module} of {party}: {stored}")
        output.note(
            output.faint(
                output.HINT + "mend the lines above and publish the file again; what is stored is unchanged by it"
            )
        )
    else:
        output.done(f"{module} of {party}: {stored}", then=f"watch it go out: ocpi-engine state {folder}")


def only_party(api: "Api") -> str:
    """Name the party that is hosted here, if there is only one."""
    parties = [party["party_id"] for party in api.get("/api/v1/parties")]
    if len(parties) != 1:
        raise Failure(
            f"{', '.join(parties)} are hosted here: who issues this?" if parties else "no party is hosted here",
            "say it with --party" if parties else f"add one: ocpi-engine parties add {api.root} PARTY --role CPO",
        )
    return str(parties[0])


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Open the input, and say how long it is if that is known."""
    import sys

    if name == "-":
        yield sys.stdin.buffer, None
        return
    try:
        with Path(name).open("rb") as file:
            yield file, Path(name).stat().st_size or None
    except OSError as error:
        raise Failure(f"cannot read {name}: {error.strerror}", "give a file of NDJSON, or -") from error


class Lines(Protocol):
    """What lines are read from."""

    def readline(self, size: int, /) -> bytes:
        """Read a line, or so much of it."""
        ...


def lines_of(source: Lines) -> Iterator[_Line]:
    """Read the lines of an input; one that is too long is passed over without being kept."""
    number = 0
    while line := source.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) < LINE_BYTES_MAX or line.endswith(b"\n"):
            yield _Line(number, line.rstrip(b"\r\n"), len(line))
        else:
            yield _Line(number, None, len(line) + _pass_over(source))


def _pass_over(source: Lines) -> int:
    """Read to the end of a line without keeping it."""
    passed = 0
    while part := source.readline(LINE_BYTES_MAX):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


class _ReadAhead:
    """Reads lines while the last request is in progress; what has come by then is the next one.

    So a file goes in large requests, and a slow pipe line by line, without waiting for more.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._batch = _Batch()
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="read lines", daemon=True).start()

    def _read(self) -> None:
        try:
            for line in lines_of(self._source):
                with self._changed:
                    self._changed.wait_for(lambda: not self._batch.is_full)
                    self._batch.add(line)
                    self._changed.notify_all()
        except (OSError, ValueError) as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[_Batch]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batch.read_bytes or self._ended)
                batch, self._batch = self._batch, _Batch()
                self._changed.notify_all()
            if batch.read_bytes:
                yield batch
            elif self._error is not None:
                raise Failure(f"the input could not be read: {self._error}")
            else:
                return


@contextmanager
def _progress(total_bytes: int | None) -> Iterator[Any]:
    """Show how far it is, on a terminal; `advance(bytes, lines)` moves it."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    from engine.cli import output

    if output.as_json() or not output.messages().is_terminal:
        yield lambda _bytes, _lines: None
        return
    how_far = [BarColumn(), TaskProgressColumn()] if total_bytes else [SpinnerColumn()]
    columns = [TextColumn("publishing"), *how_far, TextColumn("{task.fields[lines]} objects")]
    with Progress(*columns, console=output.messages(), transient=True) as progress:
        task = progress.add_task("", total=total_bytes, lines=0)
        yield lambda read_bytes, lines: progress.update(task, advance=read_bytes, lines=output.number(lines))


# objects


def objects(
    folder: Folder,
    module: Module,
    object_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One object; needs --issuer if it was received.")
    ] = None,
    *,
    received: Annotated[
        bool, typer.Option("--received/--issued", help="Received from partners, or issued here.")
    ] = False,
    issuer: Annotated[str | None, typer.Option(metavar="PARTY", help="Only of this party.")] = None,
    receiver: Annotated[str | None, typer.Option(metavar="PARTY", help="Received: only by this party of ours.")] = None,
    platform: Annotated[str | None, typer.Option(metavar="PARTNER", help="Received: only from this platform.")] = None,
    after: Annotated[int, typer.Option(metavar="CURSOR", help="Go on after this cursor.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Stay, and show what changes.")] = False,
    payload: Annotated[bool, typer.Option("--payload", help="Write one object's payload, byte for byte.")] = False,
    as_json: Json = False,
) -> None:
    """Show objects in the order of their last change; one object; or what changes."""
    from engine.cli import output
    from engine.cli.api import Api, segment

    path = f"/api/v1/{'received' if received else 'issued'}/{segment(module)}"
    chosen = {"issuer": issuer, "receiver": receiver, "platform": platform}
    with Api(folder) as api:
        if follow:
            _follow(api, f"{path}/changes", chosen | {"after": after or None})
        elif object_id is not None:
            party = issuer or only_party(api)
            _show_one(api.read(f"{path}/{segment(party)}/{segment(object_id)}"), payload=payload)
        elif payload:
            raise typer.BadParameter("--payload is for one object: give its ID")
        else:
            found, cursor, more = _read(api, path, chosen, after=after, limit=limit)
            if as_json:
                output.write_bytes(_document(found, cursor, more=more))
            else:
                _show_table(found, cursor, more=more, received=received)


def _read(api: "Api", path: str, chosen: dict[str, Any], *, after: int, limit: int) -> tuple[list[bytes], str, bool]:
    """Read pages until there are enough; objects stay bytes."""
    found: list[bytes] = []
    cursor, more = str(after), True
    while more and len(found) < limit:
        page = _page(api.read(path, **chosen, after=cursor, limit=min(PAGE, limit - len(found))))
        found.extend(bytes(one) for one in page.objects)
        cursor, more = page.cursor, page.more
    return found, cursor, more


def _page(data: bytes) -> Any:
    import msgspec

    class Page(msgspec.Struct):
        objects: list[msgspec.Raw]
        cursor: str
        more: bool

    return msgspec.json.decode(data, type=Page)


def _heads(found: list[bytes]) -> list[Any]:
    """Read everything but the payloads, of which only the bytes are taken."""
    import msgspec

    class Head(msgspec.Struct):
        issuer: str
        id: str
        version: int
        cursor: str
        stored_at: str
        payload: msgspec.Raw
        audience: list[str] | None = None
        platform: str | None = None
        receiver: str | None = None
        stale: bool = False

    decoder = msgspec.json.Decoder(Head)
    return [decoder.decode(one) for one in found]


def _document(found: list[bytes], cursor: str, *, more: bool) -> bytes:
    end = b"true" if more else b"false"
    return b'{"objects":[%b],"cursor":"%b","more":%b}\n' % (b",\n".join(found), cursor.encode(), end)


def _show_table(found: list[bytes], cursor: str, *, more: bool, received: bool) -> None:
    from engine.cli import output

    columns = ["id", "issuer", "version", "size", "stored", *(["from", "received by"] if received else ["audience"])]
    rows = [
        [
            head.id,
            head.issuer,
            str(head.version),
            output.size(len(bytes(head.payload))),
            output.age(head.stored_at),
            *(
                [f"{head.platform} (stale)" if head.stale else head.platform, head.receiver]
                if received
                else [", ".join(head.audience) if head.audience is not None else "all"]
            ),
        ]
        for head in _heads(found)
    ]
    output.print_table(columns, rows, right=["version", "size"], none="no objects")
    if more:
        output.note(output.faint(f"there are more: --after {cursor}, or a higher --limit"))


def _show_one(data: bytes, *, payload: bool) -> None:
    import msgspec

    from engine.cli import output

    copies = [bytes(one) for one in msgspec.json.decode(data, type=list[msgspec.Raw])]
    if payload:
        output.write_bytes(bytes(_heads(copies)[0].payload) + b"\n")
    elif output.as_json():
        output.write_bytes(data + b"\n")
    else:
        for head in _heads(copies):
            came = (
                f", from {head.platform} for {head.receiver}{', stale' if head.stale else ''}" if head.platform else ""
            )
            output.note(
                output.faint(
                    f"{head.issuer} {head.id}, version {head.version}, stored {output.age(head.stored_at)}{came}"
                )
            )
            output.write_bytes(bytes(head.payload) + b"\n")


def _follow(api: "Api", path: str, query: dict[str, Any]) -> None:
    from engine.cli import output

    with api.events(path, **query) as events:
        for kind, data in events:
            if output.as_json():
                output.write_bytes(data.replace(b"\n", b" ") + b"\n")
            elif kind == "object":
                (head,) = _heads([data])
                came = f" from {head.platform} for {head.receiver}" if head.platform else ""
                size = output.size(len(bytes(head.payload)))
                output.say(
                    output.faint(head.stored_at), f"  {head.issuer} {head.id}  version {head.version}  {size}{came}"
                )
            else:
                output.note(output.faint("following; Ctrl-C ends it"))


# reissue


def reissue(
    folder: Folder,
    party: Annotated[str | None, typer.Option(help="Only of this party.")] = None,
    module: Annotated[str | None, typer.Option(help="Only of this module.")] = None,
    as_json: Json = False,
) -> None:
    """Give every mutable object issued here a new version: after a backup was restored, so that partners take it."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        answer = api.post("/api/v1/reissue", {"party": party, "module": module})
    if as_json:
        output.show(answer)
        return
    output.done(f"new versions for {output.counted(answer['count'], 'object')}, which go out again")
