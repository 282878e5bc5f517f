"""`validate`: look at objects without a platform, exactly as publishing and receiving would."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.failure import Failure
from engine.cli.options import Json, Module, Panel

if TYPE_CHECKING:
    from engine.protocol.modules import Module as OcpiModule

BAD_KEPT_MAX = 10_000  # objects in the JSON answer; they are all counted


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
        typer.Argument(metavar="FILE…", help="A payload, or lines as `publish` takes them; - for standard input."),
    ],
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="What a tolerant platform takes is a warning, no problem.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check objects against the tables of a module, offline."""
    from engine.cli import output
    from engine.protocol.modules import all_modules
    from engine.protocol.modules import module as named

    checked = named(module)
    if checked is None:
        known = ", ".join(one.id for one in all_modules())
        raise Failure(f"there is no module {module!r}", f"these are known: {known}")
    valid, results = 0, list[dict[str, Any]]()
    invalid = 0
    for found in (found for name in files for found in _objects(name)):
        result = _look(checked, found, tolerant=tolerant)
        valid += result["valid"]
        invalid += not result["valid"]
        if not result["valid"] or result["warnings"]:
            _tell(result)
            if len(results) < BAD_KEPT_MAX:
                results.append(result)
    if as_json:
        output.show({"module": checked.id, "valid": valid, "invalid": invalid, "results": results})
    elif invalid:
        output.note(output.bad("✗ "), f"{output.number(invalid)} of {output.number(valid + invalid)} do not conform")
    else:
        output.done(f"{output.number(valid)} conform to {checked.title}")
    if invalid:
        raise typer.Exit(1)


def _look(module: "OcpiModule", found: _Found, *, tolerant: bool) -> dict[str, Any]:
    """Say what is wrong with one object."""
    from dataclasses import asdict

    from engine.protocol.ids import CREDIT_CDR_ID_LENGTH_MAX, check_object_id
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
        if found.object_id is not None:
            check_object_id(found.object_id, CREDIT_CDR_ID_LENGTH_MAX if module.id == "cdrs" else 36)
        result["warnings"] = [asdict(warning) for warning in module.accept(found.payload, tolerant=tolerant)]
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
    """Find the objects of a file: one JSON value, or one a line."""
    shown = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {name}: {error.strerror}", "give files of JSON or NDJSON, or -") from error
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if _is_one_value(name, data, [line for _, line in lines]):
        yield _one(shown, data)
        return
    for number, line in lines:
        yield _one(f"{shown}:{number}", line)


def _is_one_value(name: str, data: bytes, lines: list[bytes]) -> bool:
    """Say whether a file is one JSON value, perhaps over several lines or broken, rather than one a line."""
    if len(lines) <= 1 or (not _is_json(lines[0]) and _is_json(data)):
        return True
    return not name.endswith((".ndjson", ".jsonl")) and not any(map(_is_json, lines))


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
