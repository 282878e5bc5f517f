"""`validate`: look at objects without a platform, exactly as publishing and receiving would."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.failure import Failure
from engine.cli.options import Json, Module, Panel, module_named

if TYPE_CHECKING:
    from engine.protocol.modules import Module as OcpiModule

BAD_SHOWN_MAX = 10_000  # objects that are told about one by one; they are all counted


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.OBJECTS)(validate)


@dataclass(frozen=True, slots=True)
class _Found:
    """An object in a file. ``reason``: why there is none to look at."""

    where: str
    object_id: str | None
    payload: bytes
    reason: str | None = None


def validate(
    module: Module,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Payloads: one, one a line, an array of them, or lines that `publish` takes; - for standard input.",
        ),
    ],
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="What a tolerant platform takes is a warning, no problem.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check objects against the tables of a module, offline."""
    from engine.cli import output

    checked = module_named(module)
    tally = _Tally()
    for result in (_look(checked, found, tolerant=tolerant) for name in files for found in _objects(name)):
        tally.count(result)
        if tally.is_shown(result):
            _tell(result)
    if as_json:
        counts = {"valid": tally.valid, "invalid": tally.invalid, "with_warnings": tally.with_warnings}
        output.show({"module": checked.id, **counts, "results": tally.results})
    else:
        _sum_up(tally, checked)
    if tally.invalid:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Tally:
    """What came of the objects so far; ``results`` are the first of those that are worth a word."""

    results: list[dict[str, Any]] = field(default_factory=list)
    valid: int = 0
    invalid: int = 0
    with_warnings: int = 0

    def count(self, result: dict[str, Any]) -> None:
        self.valid += result["valid"]
        self.invalid += not result["valid"]
        self.with_warnings += bool(result["warnings"])

    def is_shown(self, result: dict[str, Any]) -> bool:
        if (result["valid"] and not result["warnings"]) or len(self.results) == BAD_SHOWN_MAX:
            return False
        self.results.append(result)
        return True


def _sum_up(tally: _Tally, module: "OcpiModule") -> None:
    from engine.cli import output

    all_in_all = tally.valid + tally.invalid
    hidden = tally.invalid + tally.with_warnings - len(tally.results)
    if hidden > 0:
        output.note(output.faint(f"… and {output.counted(hidden, 'object')} more of which something is to be said"))
    warned = f", {output.number(tally.with_warnings)} with warnings" if tally.with_warnings else ""
    if tally.invalid:
        verb = "does" if tally.invalid == 1 else "do"
        invalid = output.number(tally.invalid) or ""
        output.note(
            output.bad("✗ "),
            f"{invalid} of {output.counted(all_in_all, 'object')} {verb} not conform to {module.title}{warned}",
        )
    elif all_in_all:
        verb = "conforms" if tally.valid == 1 else "conform"
        output.done(f"{output.counted(tally.valid, 'object')} {verb} to {module.title}{warned}")


def _look(module: "OcpiModule", found: _Found, *, tolerant: bool) -> dict[str, Any]:
    """Say what is wrong with one object."""
    from dataclasses import asdict

    from engine.protocol.ids import check_object_id
    from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
    from engine.protocol.modules import SchemaViolation

    result: dict[str, Any] = {
        "where": found.where,
        "id": found.object_id,
        "valid": False,
        "problems": [],
        "warnings": [],
    }
    try:
        if found.reason is not None:
            raise MalformedJson(found.reason)
        check_object(found.payload)
        warnings = module.accept(found.payload, tolerant=tolerant)
        if found.object_id is not None:
            check_object_id(found.object_id, module.id_length_max(found.payload))
        result["warnings"] = [asdict(warning) for warning in warnings]
        result["valid"] = True
    except SchemaViolation as violation:
        result["problems"] = [asdict(problem) for problem in violation.problems]
        result["problem_count"] = violation.problem_count
    except (MalformedJson, DuplicateKeys, ValueError) as error:
        result["reason"] = str(error)
    return result


def _tell(result: dict[str, Any]) -> None:
    from engine.cli import output

    about = result["where"] + (f" {result['id']}" if result["id"] else "")
    mark = output.odd("! ") if result["valid"] else output.bad("✗ ")
    output.note(mark, about, f": {result['reason']}" if "reason" in result else "")
    for problem in result["problems"] or result["warnings"]:
        place = problem["pointer"] or "payload"
        output.note("    ", place, output.faint(f"  expected {problem['expected']}; found {problem['found']}"))
    if (more := result.get("problem_count", 0) - len(result["problems"])) > 0:
        output.note(output.faint(f"    and {more} more"))


def _objects(name: str) -> Iterator[_Found]:
    """Find the objects of a file: one JSON value, an array of objects, or one a line, as long as it may be."""
    from engine.cli.objects import opened

    shown = "standard input" if name == "-" else name
    try:
        with opened(name) as (source, _):
            yield from _found_in(shown, source)
    except (Failure, OSError) as error:
        yield _Found(shown, None, b"", str(error).removeprefix(f"cannot read {name}: "))


def _found_in(shown: str, source: IO[bytes]) -> Iterator[_Found]:
    from engine.cli.objects import LINE_BYTES_MAX, lines_of

    begin = source.read(LINE_BYTES_MAX)
    if len(begin) < LINE_BYTES_MAX:
        yield from _small(shown, begin)
        return
    too_long = f"longer than {LINE_BYTES_MAX} bytes: nobody takes it; several objects stand one a line"
    if not _holds_lines(shown, begin):
        yield _Found(shown, None, b"", too_long)
        return
    for line in lines_of(_Begun(begin, source)):
        if line.text is None:
            yield _Found(f"{shown}:{line.number}", None, b"", too_long)
        elif line.text.strip():
            yield _one(f"{shown}:{line.number}", line.text)


def _small(shown: str, data: bytes) -> Iterator[_Found]:
    """Find the objects of what is read as a whole."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if not lines:
        yield _Found(shown, None, data, "there is nothing in it")
    elif data.lstrip()[:1] == b"[" and (items := _array(data)) is not None:
        yield from (_one(f"{shown}#/{place}", item) for place, item in enumerate(items))
    elif _is_one_value(shown, data, [line for _, line in lines]):
        yield _one(shown, data)
    else:
        yield from (_one(f"{shown}:{number}", line) for number, line in lines)


class _Begun:
    """A file of which the beginning was read already."""

    def __init__(self, begin: bytes, rest: IO[bytes]) -> None:
        self._begin = BytesIO(begin)
        self._rest = rest

    def readline(self, size: int) -> bytes:
        """Read a line, or so much of it."""
        line = self._begin.readline(size)
        return line if line.endswith(b"\n") or len(line) == size else line + self._rest.readline(size - len(line))


def _array(data: bytes) -> list[bytes] | None:
    import msgspec

    try:
        return [bytes(item) for item in msgspec.json.decode(data, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _is_one_value(name: str, data: bytes, lines: list[bytes]) -> bool:
    """Say whether a file is one JSON value, perhaps over several lines or broken, rather than one a line."""
    if len(lines) <= 1 or (not _is_json(lines[0]) and _is_json(data)):
        return True
    return not _is_named_so(name) and not any(map(_is_json, lines))


def _holds_lines(name: str, begin: bytes) -> bool:
    """Say whether a file too large to be one object has one a line."""
    first = next((line for line in begin.split(b"\n", 100)[:-1] if line.strip()), None)
    return _is_named_so(name) or (first is not None and _is_json(first))


def _is_named_so(name: str) -> bool:
    return name.endswith((".ndjson", ".jsonl"))


def _is_json(data: bytes) -> bool:
    import msgspec

    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _one(where: str, data: bytes) -> _Found:
    """Take a publish line apart; what is none is a payload."""
    import msgspec

    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "payload" in fields and fields.keys() <= {"id", "payload", "audience"}:
            object_id = msgspec.json.decode(fields["id"], type=str) if "id" in fields else None
            return _Found(where, object_id, bytes(fields["payload"]), None if object_id else "the line has no id")
    except msgspec.ValidationError:
        return _Found(where, None, data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    return _Found(where, None, data)
