"""Say what is wrong with a payload: everything at once, each with its place, what is and what should be.

Runs only after msgspec said no, and has the last word: it walks the same declarations (``classes``) over the
same JSON, by the draft's letter where msgspec is stricter (``1.0`` is an ``int``, ``1E400`` a number).

A tolerant look (B23) counts what is missing, and enum values of no table, as warnings, and takes any
RFC 3339 time. Types, sizes and rules count as ever.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

import msgspec

from engine.protocol.json_text import NumberText, pointer, read_exactly
from engine.protocol.modules.classes import Breach, ClosedEnum, OcpiClass, OpenEnum, RuledClass, Shape, Weight
from engine.protocol.scalars import TOLERANT, exact, is_whole

PROBLEMS_MAX = 100
"""Problems told one by one: a payload that is wrong all over would fill a log and help nobody more."""

FOUND_LENGTH_MAX = 60
"""Characters of what was found that are repeated."""

Path = tuple[Any, str | int] | None
"""Where we are, as (path of what this is in, key or index): becomes a JSON Pointer only when it is told."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a payload."""

    pointer: str
    """JSON Pointer to it, or to where something is missing; empty for the payload as a whole."""
    found: str
    expected: str

    def __str__(self) -> str:
        """Read as a sentence."""
        return f"{self.pointer or 'payload'}: expected {self.expected}; found {self.found}"


@dataclass(slots=True)
class Report:
    """What a look at a payload brought to light."""

    tolerant: bool
    problems: list[Problem] = dataclasses.field(default_factory=list)
    warnings: list[Problem] = dataclasses.field(default_factory=list)
    problem_count: int = 0
    seen: Any = None
    """What rules got to see of it: of a payload that conforms, all that the tables know, numbers exact."""
    _told: set[str] = dataclasses.field(default_factory=set)

    def wrong(self, path: Path, found: str, expected: str) -> None:
        """Tell a problem."""
        self.problem_count += 1
        self._tell(self.problems, path, found, expected)

    def missing(self, path: Path, found: str, expected: str) -> None:
        """Tell that something required is missing: a warning if we are tolerant."""
        if self.tolerant:
            self._tell(self.warnings, path, found, expected)
        else:
            self.wrong(path, found, expected)

    def odd(self, path: Path, found: str, expected: str) -> None:
        """Tell what is worth a warning in any case."""
        self._tell(self.warnings, path, found, expected)

    def told(self, path: Path) -> bool:
        """Tell whether something was said about this very place."""
        return _pointer(path) in self._told

    def _tell(self, where: list[Problem], path: Path, found: str, expected: str) -> None:
        if len(where) < PROBLEMS_MAX:
            problem = Problem(_pointer(path), found, expected)
            where.append(problem)
            self._told.add(problem.pointer)


def explain(shape: Shape, payload: bytes, *, tolerant: bool) -> Report:
    """Look at all of a payload. Raises ``MalformedJson`` if it is not JSON."""
    report = Report(tolerant)
    report.seen = kind_of(shape).look(read_exactly(payload), None, report)
    return report


class Kind(Protocol):
    """What a value may be."""

    @property
    def name(self) -> str:
        """Name it as the draft's tables do, in the column of types."""

    @property
    def expected(self) -> str:
        """Describe it to a person."""

    @property
    def empty(self) -> object:
        """What rules get to see in place of a value that is missing or wrong."""

    def look(self, value: object, path: Path, report: Report) -> object:
        """Report what is wrong with a value; return what rules get to see of it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string with a size, a pattern, or both."""

    name: str
    """Its type, spelled as in the draft: ``CiAsciiString[1..36]``."""
    description: str
    length_min: int
    length_max: int | None
    pattern: re.Pattern[str] | None
    tolerant: re.Pattern[str] | None
    empty: str = ""

    @property
    def expected(self) -> str:
        """Name and describe it."""
        return f"{self.name}, {self.description}"

    def look(self, value: object, path: Path, report: Report) -> str:
        """Report what is wrong with it."""
        if type(value) is str and self._fits(value, tolerant=report.tolerant) and _is_unicode(value):
            return value
        report.wrong(path, shorten(value), self.expected)
        return self.empty

    def _fits(self, value: str, *, tolerant: bool) -> bool:
        if tolerant and self.tolerant is not None:
            return self.tolerant.search(value) is not None
        return (
            len(value) >= self.length_min
            and (self.length_max is None or len(value) <= self.length_max)
            and (self.pattern is None or self.pattern.search(value) is not None)
        )


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number, whole or not, between limits or not."""

    name: str
    """Its type, spelled as in the draft: ``int[1..5]``."""
    description: str
    whole: bool
    at_least: float | None
    at_most: float | None
    empty: int = 0

    @property
    def expected(self) -> str:
        """Name and describe it."""
        return f"{self.name}, {self.description}"

    def look(self, value: object, path: Path, report: Report) -> Decimal | int:
        """Report what is wrong with it."""
        if type(value) is NumberText:
            number = exact(value)
            if (
                (not self.whole or is_whole(number))
                and (self.at_least is None or number >= self.at_least)
                and (self.at_most is None or number <= self.at_most)
            ):
                return number
        report.wrong(path, shorten(value), self.expected)
        return self.empty


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""

    name: str = "boolean"
    expected: str = "true or false"
    empty: None = None

    def look(self, value: object, path: Path, report: Report) -> bool | None:
        """Report what is wrong with it."""
        if type(value) is bool:
            return value
        report.wrong(path, shorten(value), self.expected)
        return self.empty


@dataclass(frozen=True, slots=True)
class Anything:
    """What the draft calls any JSON value."""

    name: str = "any JSON value"
    expected: str = "any JSON value"
    empty: None = None

    def look(self, value: object, _path: Path, _report: Report) -> object:
        """Find nothing wrong with it."""
        return value


@dataclass(frozen=True, slots=True)
class Values:
    """An enum or OpenEnum."""

    values: type[ClosedEnum]
    empty: str = ""

    @property
    def name(self) -> str:
        """Name the enum."""
        return self.values.__name__

    @property
    def is_open(self) -> bool:
        """Tell whether any other string is a value too."""
        return issubclass(self.values, OpenEnum)

    @property
    def expected(self) -> str:
        """List the values, all of them."""
        names = ", ".join(self.values)
        if self.is_open:
            return f"a text, of {self.name} or another one: {names}"
        return f"one of {self.name}: {names}"

    def look(self, value: object, path: Path, report: Report) -> str:
        """Report what is wrong with it."""
        if type(value) is not str or not _is_unicode(value):
            report.wrong(path, shorten(value), self.expected)
            return self.empty
        if value not in self.values._value2member_map_ and not self.is_open:
            report.missing(path, shorten(value), self.expected)
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind of thing."""

    items: Kind
    at_least: int

    @property
    def name(self) -> str:
        """Name its items: that it is a list, the cardinality says."""
        return self.items.name

    @property
    def expected(self) -> str:
        """Describe the list by its items."""
        return f"a list of {'one or more: ' if self.at_least else ''}{self.items.expected}"

    @property
    def empty(self) -> list[Any]:
        """Return what rules see instead."""
        return []

    def look(self, value: object, path: Path, report: Report) -> list[Any]:
        """Report what is wrong with it."""
        if type(value) is not list:
            report.wrong(path, shorten(value), self.expected)
            return self.empty
        if len(value) < self.at_least:
            report.missing(path, shorten(value), self.expected)
        return [self.items.look(item, (path, index), report) for index, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a class table."""

    name: str
    """Name of the field in JSON."""
    attribute: str
    """Name of the field in Python."""
    required: bool
    kind: Kind
    meaning: str

    @property
    def cardinality(self) -> str:
        """Tell how often it is there, in the draft's sign."""
        if isinstance(self.kind, ListOf):
            return "+" if self.required else "*"
        return "1" if self.required else "?"

    @property
    def empty(self) -> object:
        """Return what rules see instead."""
        return self.kind.empty if self.required else None

    def look(self, value: dict[str, Any], path: Path, report: Report) -> object:
        """Report what is wrong with it."""
        item = value.get(self.name)
        if item is not None:
            return self.kind.look(item, (path, self.name), report)
        if not self.required:
            return None
        found = "null" if self.name in value else "nothing"
        report.missing((path, self.name), found, self.kind.expected)
        return self.empty


@dataclass(frozen=True, slots=True)
class Table:
    """A class table, as its declaration says."""

    table: type[OcpiClass]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Name the class."""
        return self.table.__name__

    @property
    def expected(self) -> str:
        """Name the class."""
        return f"an object {self.name}"

    @property
    def empty(self) -> SimpleNamespace:
        """Return an object in which everything is missing."""
        return SimpleNamespace(**{row.attribute: row.empty for row in self.rows})

    def look(self, value: object, path: Path, report: Report) -> SimpleNamespace:
        """Report what is wrong with it."""
        if type(value) is not dict:
            report.wrong(path, shorten(value), self.expected)
            return self.empty
        seen = SimpleNamespace(**{row.attribute: row.look(value, path, report) for row in self.rows})
        if issubclass(self.table, RuledClass):
            self._look_at_rules(seen, path, report)
        return seen

    def _look_at_rules(self, seen: SimpleNamespace, path: Path, report: Report) -> None:
        tell = {Weight.WRONG: report.wrong, Weight.MISSING: report.missing, Weight.ODD: report.odd}
        for where, breach in list(self._breaches(seen, path, report)):
            if not report.told(where):
                tell[breach.weight](where, _cut(breach.found), breach.expected)

    def _breaches(self, seen: SimpleNamespace, path: Path, report: Report) -> Iterator[tuple[Path, Breach]]:
        """Yield what breaks a rule, unless it is wrong in itself already, or in something that is."""
        for breach in self.table.rules(seen):  # type: ignore[attr-defined]  # a look-alike of the table
            where, steps = path, []
            for token in breach.where:
                where = (where, token)
                steps.append(where)
            if not any(map(report.told, steps)):
                yield where, breach


def kind_of(shape: Shape) -> "Table | Values":
    """Read the declaration of a class table or of an enum."""
    return table_of(shape) if issubclass(shape, OcpiClass) else Values(shape)


@cache
def table_of(table: type[OcpiClass]) -> Table:
    """Read the declaration of a class table."""
    hints = get_type_hints(table, include_extras=True)
    return Table(table, tuple(_row(field, hints[field.name]) for field in msgspec.structs.fields(table)))


def _row(field: msgspec.structs.FieldInfo, hint: Any) -> Row:
    (meaning,) = (note for note in hint.__metadata__ if isinstance(note, str))
    return Row(field.encode_name, field.name, field.required, _kind(hint), meaning)


def _kind(hint: Any, *metas: msgspec.Meta) -> Kind:
    """Turn the right side of a row into what it allows; ``metas``: what stands around it, innermost first."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return _kind(inner, *(note for note in notes if isinstance(note, msgspec.Meta)), *metas)
    if get_origin(hint) in {Union, UnionType}:
        inner, *others = (arm for arm in get_args(hint) if arm is not NoneType)
        kind = _kind(inner, *metas)
        # A number with limits is a whole one at the limits, or a float between them.
        return dataclasses.replace(kind, whole=False) if isinstance(kind, Numeric) and others else kind
    if get_origin(hint) is list:
        (items,) = get_args(hint)
        return ListOf(_kind(items), max((meta.min_length or 0 for meta in metas), default=0))
    if hint is Any:
        return Anything()
    if issubclass(hint, OcpiClass):
        return table_of(hint)
    if issubclass(hint, ClosedEnum):
        return Values(hint)
    if hint is bool:
        return Boolean()
    if hint is str:
        return _text(metas)
    return _number(metas, whole=hint is int)


def _text(metas: tuple[msgspec.Meta, ...]) -> Text:
    pattern = _last(metas, "pattern")
    return Text(
        _last(metas, "title"),
        _last(metas, "description"),
        _last(metas, "min_length") or 0,
        _last(metas, "max_length"),
        re.compile(pattern) if pattern else None,
        (_last(metas, "extra") or {}).get(TOLERANT),
    )


def _number(metas: tuple[msgspec.Meta, ...], *, whole: bool) -> Numeric:
    return Numeric(_last(metas, "title"), _last(metas, "description"), whole, _last(metas, "ge"), _last(metas, "le"))


def _last(metas: tuple[msgspec.Meta, ...], name: str) -> Any:
    """Return what the outermost declaration says of this."""
    return next((given for meta in reversed(metas) if (given := getattr(meta, name)) is not None), None)


def shorten(value: object) -> str:
    """Show a JSON value to a person, in a line that is safe to log and to send."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = _cut(str(value) if type(value) is NumberText else json.dumps(_head(value)))
    if type(value) is str and len(value) > FOUND_LENGTH_MAX:
        text += f" ({len(value)} characters)"
    return text


def _cut(text: str) -> str:
    return text if len(text) <= FOUND_LENGTH_MAX else text[:FOUND_LENGTH_MAX] + "…"


def _head(value: object) -> object:
    return value[:FOUND_LENGTH_MAX] if isinstance(value, str) else value


def _is_unicode(text: str) -> bool:
    """Tell whether there is no half of a surrogate pair in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pointer(path: Path) -> str:
    tokens: list[str | int] = []
    while path is not None:
        path, token = path
        tokens.append(token)
    return pointer(*reversed(tokens))
