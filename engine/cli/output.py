"""What a command shows: aligned tables and short sentences for people, one JSON document for scripts."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.cli.failure import Failure

_WIDTH_UNTOLD = 80  # what rich takes where there is no terminal, and no COLUMNS either
_WIDTH_WITHOUT_TERMINAL = 160  # a table in a file or a pipe is not folded so early
HINT = "  → "  # begins a line that says what to do next
DAY_S = 86_400
_mode = {"json": False}

_ROOMY_WIDTH = 90  # in a narrower window every column gives way, so that nothing is cut off
_FOLDING = frozenset({"what", "why", "last error", "base URL", "sends", "receives", "the producer says"})
"""Columns with words of any length: they give way where the window is narrow."""

Cell = str | Text

# What a partner wrote moves no cursor and colours nothing on the operator's terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\n")}


def use_json() -> None:
    """Write JSON from now on."""
    _mode["json"] = True


def reset() -> None:
    """Begin a new command."""
    _mode["json"] = False
    console.cache_clear()
    messages.cache_clear()


def as_json() -> bool:
    """Whether the command was called with `--json`."""
    return _mode["json"]


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal and made.width == _WIDTH_UNTOLD:
        made.width = _WIDTH_WITHOUT_TERMINAL
    return made


@cache
def console() -> Console:
    """Standard output."""
    return _console(stderr=False)


@cache
def messages() -> Console:
    """Standard error: what is said beside the result."""
    return _console(stderr=True)


def show(value: Any) -> None:
    """Write a value as the command's JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_bytes(data: bytes) -> None:
    """Write bytes as they are: JSON that must not be written anew."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def plain(text: str) -> str:
    """Show control characters instead of letting a terminal obey them."""
    return text.translate(_CONTROLS)


def _assembled(parts: Sequence[Cell]) -> Text:
    return Text.assemble(*(part if isinstance(part, Text) else plain(part) for part in parts))


def say(*parts: Cell) -> None:
    """Write a line for people; with `--json` nothing."""
    if not as_json():
        console().print(_assembled(parts), soft_wrap=True)
        sys.stdout.flush()  # who reads a pipe or a log sees it when it happens


def note(*parts: Cell) -> None:
    """Write a remark to standard error, so that it gets into nobody's file; with `--json` nothing."""
    if not as_json():
        messages().print(_assembled(parts), soft_wrap=True)


def done(text: str, *, then: str | None = None) -> None:
    """Say that it is done, and what may come next."""
    say(good("✓ "), text)
    if then:
        hint(then)


def hint(text: str) -> None:
    """Say what may come next."""
    say(faint(HINT + text))


def failed(failure: Failure) -> None:
    """Say why not, and what to do."""
    if as_json():
        error: dict[str, Any] = {"message": failure.message}
        if failure.hint:
            error["hint"] = failure.hint
        if failure.problems:
            error["problems"] = failure.problems
        show({"error": error})
        return
    out = messages()
    out.print(_assembled([bad("✗ "), failure.message]), soft_wrap=True)
    for problem in failure.problems:
        what = f"  {problem.get('pointer', '')}: expected {problem.get('expected')}; found {problem.get('found')}"
        out.print(_assembled([what]), soft_wrap=True)
    if failure.hint:
        out.print(faint(HINT + failure.hint), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell | None]], *, right: Sequence[str] = ()) -> Table:
    """Lay out rows under headings, without lines between; columns in ``right`` hold numbers."""
    laid_out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    roomy = console().width >= _ROOMY_WIDTH
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        laid_out.add_column(column, justify=justify, overflow="fold", no_wrap=roomy and column not in _FOLDING)
    for row in rows:
        laid_out.add_row(
            *(cell if isinstance(cell, Text) else Text("–" if cell is None else plain(cell)) for cell in row)
        )
    return laid_out


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell | None]], *, right: Sequence[str] = (), none: str
) -> None:
    """Write a table; ``none`` is what is said when it would be empty."""
    if rows:
        console().print(table(columns, rows, right=right))
    else:
        say(faint(none))


def good(text: str) -> Text:
    """Mark as in order."""
    return Text(plain(text), style="green")


def bad(text: str) -> Text:
    """Mark as wrong."""
    return Text(plain(text), style="bold red")


def odd(text: str) -> Text:
    """Mark as worth a look."""
    return Text(plain(text), style="yellow")


def faint(text: str) -> Text:
    """Mark as beside the point."""
    return Text(plain(text), style="dim")


def duration(seconds: float | None) -> str | None:
    """Write a time span for people, in the two largest units that count."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits tell enough
    if seconds >= 10 * DAY_S:
        return f"{seconds / DAY_S:.0f} d"
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            whole, rest = divmod(int(seconds), unit_s)
            return f"{whole} {unit} {rest // part_s} {part}" if rest >= part_s else f"{whole} {unit}"
    return None


def moment(text: str | None) -> datetime | None:
    """Read a time of the local API."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def age(text: str | None) -> str | None:
    """Say how long ago a time of the local API was, or in how long it will be."""
    when = moment(text)
    if when is None:
        return None
    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def size(count: int) -> str:
    """Write a number of bytes for people."""
    if count < 1000:  # noqa: PLR2004 - kilo
        return f"{count} B"
    if count < 1_000_000:  # noqa: PLR2004 - mega
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def counted(count: int, what: str) -> str:
    """Write a number of things."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def number(count: float | None) -> str | None:
    """Write a number with its thousands apart."""
    if count is None:
        return None
    return f"{count:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if count == int(count) else f"{count:g}"
