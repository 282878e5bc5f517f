"""The reference pages in ``docs/modules/``: one for each module, written from its declarations, and their index.

``tests.support.generated`` writes them to their files.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from engine.protocol import scalars
from engine.protocol.modules import Module, all_modules
from engine.protocol.modules.bodies import (
    AsyncRequest,
    AsyncResponse,
    AsyncResultType,
    ImmediateResponseToAsyncRequest,
    OcpiResponse,
    PartyIssuedObjectUpdate,
)
from engine.protocol.modules.classes import Shape, meaning, rules_of
from engine.protocol.modules.explain import Kind, ListOf, Numeric, Row, Table, Text, Values, kind_of
from engine.protocol.modules.json_schema import DRAFT, place, shapes_of
from engine.protocol.modules.module import Call

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "modules" / "examples"

WRITTEN: Final = "<!-- Written by `python -m tests.support.generated`; a test compares it with the code. -->"
ROLES: Final = {"CPO": "CPOs", "EMSP": "eMSPs"}

TYPES: Final[Sequence[Any]] = (
    scalars.UnicodeString,
    scalars.AsciiString,
    scalars.CiAsciiString,
    scalars.Int,
    scalars.DecimalNumber,
    scalars.Number,
    scalars.URL,
    scalars.PartyID,
    scalars.DateTime,
)
"""The draft's fundamental types, in its order."""
DESCRIBED: Final = {declared.title: declared.description for _, declared in map(get_args, TYPES)}

BODIES: Final[Sequence[Shape]] = (
    OcpiResponse,
    PartyIssuedObjectUpdate,
    AsyncRequest,
    AsyncResponse,
    AsyncResultType,
    ImmediateResponseToAsyncRequest,
)

INDEX_HEAD: Final = f"""\
# Modules

{WRITTEN}

What the modules of {DRAFT} replicate, field by field, and the calls that go with them.
These pages are written from the declarations by which the engine accepts payloads, and so are the
[JSON Schemas](../schemas/README.md); `ocpi-engine validate MODULE FILE` looks at a file by them.
Descriptions are in our words, and where the draft can be read in two ways, by
[our reading](../decisions.md#objects-and-their-fields); what counts is the draft.
"""

READING: Final = """\
## How to read the tables

| Card. | |
|---|---|
| `1` | has to be there |
| `?` | may be left out |
| `*` | a list, which may be empty or left out |
| `+` | a list of at least one |

What may be left out may also be `null` in what we read; we never write one (W21).
Fields that no table has are allowed and kept.
A size in brackets counts code points of a text, and digits of an `int`.
"""

BODIES_HEAD: Final = """\
## Bodies

What payloads and parameters travel in.
"""


def page(module: Module) -> str:
    """Write the page of a module."""
    shapes = shapes_of(module)
    parts = [
        f"# {module.title}",
        WRITTEN,
        _about(module),
        _list(_facts(module)),
        *(["## Calls", *(part for call in module.calls for part in _call(module, call))] if module.calls else []),
        "## Classes",
        "[How to read the tables](README.md#how-to-read-the-tables)",
        " · ".join(_link(each.name) for each in shapes),
        *(part for each in shapes for part in _shape(each)),
        "## Example",
        "Every field of every class is filled in here, also where one would leave it out.",
        *_example(module.id),
    ]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """Write the page that lists the others."""
    heads = ("module", "chapter", "objects", "issued by", "calls", "schema")
    rows = [
        (
            f"[{module.title}]({module.id}.md)",
            str(module.chapter),
            _link(module.payload.__name__, f"{module.id}.md"),
            _issuers(module),
            ", ".join(_link(call.operation, f"{module.id}.md") for call in module.calls),
            f"[{module.id}.schema.json](../schemas/{module.id}.schema.json)",
        )
        for module in all_modules()
    ]
    types = _table(("type", ""), ((f"`{name}`", _cell(about)) for name, about in DESCRIBED.items()))
    bodies = [part for body in BODIES for part in _shape(kind_of(body))]
    return "\n".join([INDEX_HEAD, _table(heads, rows), "", READING, types, "", BODIES_HEAD, "\n\n".join(bodies), ""])


# -- parts of a page ----------------------------------------------------------------------------------------


def _about(module: Module) -> str:
    """Take the first paragraph of its file, after the number of the chapter."""
    file = sys.modules[module.payload.__module__].__doc__ or ""
    return _sentence(" ".join(file.partition("\n\n")[0].partition(": ")[2].split()))


def _facts(module: Module) -> Iterator[tuple[str, str]]:
    ids = [f"`{name}`" for name in (module.id, *module.aliases)]
    yield "ModuleID", ", also ".join(ids)
    yield "Draft", f"{DRAFT}, chapter {module.chapter}"
    yield "Objects", _link(module.payload.__name__)
    yield "Issued by", _issuers(module)
    yield "Changes", _changes(module)
    if module.replacement:
        yield "Replacement", _cell(module.replacement.summary)
    if module.calls:
        yield "Calls", ", ".join(_link(call.operation) for call in module.calls)
    yield "JSON Schema", f"[{module.id}.schema.json](../schemas/{module.id}.schema.json)"
    yield "Example", "[with every field](#example)"


def _changes(module: Module) -> str:
    if module.immutable:
        return "never; another version is answered 6003"
    if module.final is Module.__dataclass_fields__["final"].default:
        return "yes, with a new version"
    example = EXAMPLES / f"{module.id}.json"
    why = module.final(example.read_bytes()) if example.exists() else None
    return f"yes, with a new version, but its issuer makes none once it is final{f'; {why}' if why else ''}"


def _issuers(module: Module) -> str:
    return " and ".join(ROLES[role] for role in sorted(module.issued_by))


def _shape(shape: Table | Values) -> Iterator[str]:
    """Write a class or an enum under a heading of its own."""
    declared = shape.table if isinstance(shape, Table) else shape.values
    yield f"### {shape.name}"
    yield f"{_sentence(place(declared))}: {_words(meaning(declared))}"
    if isinstance(shape, Table):
        rows = [(f"`{row.name}`", _type(row), f"`{row.cardinality}`", _cell(row.meaning)) for row in shape.rows]
        yield _table(("field", "type", "card.", "meaning"), rows)
        if rules := rules_of(declared):
            yield f"**Rules**: {_words(rules)}"
        return
    yield _table(("value", "meaning"), ((f"`{value}`", _cell(value.meaning)) for value in shape.values))
    if shape.is_open:
        yield "Any other text is allowed too."


def _call(module: Module, call: Call) -> Iterator[str]:
    """Write a call under a heading of its own."""
    yield f"### {call.operation}"
    yield f"Use case {call.use_case}: {_words(call.summary)}"
    yield _list(_sides(call))
    for example in _example(f"{module.id}.{call.operation}"):
        yield from ("For example, a payload:" if call.asynchronous else "For example:", example)


def _sides(call: Call) -> Iterator[tuple[str, str]]:
    """Tell what goes back and forth."""
    result = _link(call.result.__name__) if call.result else "nothing"
    if not call.asynchronous:
        yield "Request", _link(call.request.__name__)
        yield "Answer", f"{_body(OcpiResponse)}; `data`: {result}"
        return
    yield "Request", f"{_body(AsyncRequest)}; `payload`: {_link(call.request.__name__)}"
    yield "Answer", f"{_body(OcpiResponse)}; `data`: {_body(ImmediateResponseToAsyncRequest)}"
    yield "Result", f"{_body(AsyncResponse)}; `payload`: {result}"
    if call.error:
        yield "Failure", f"{_body(AsyncResponse)}; `error`: {_link(call.error.__name__)}"
    if call.revocable:
        yield (
            "Taken back",
            f"{_body(AsyncResponse)}; `result_type`: `FAILED`, `payload`: a text that says why, or nothing",
        )


def _example(name: str) -> Iterator[str]:
    file = EXAMPLES / f"{name}.json"
    if file.exists():
        yield f"```json\n{file.read_text(encoding='utf-8').strip()}\n```"


# -- Markdown -----------------------------------------------------------------------------------------------


def _type(row: Row) -> str:
    """Write a type as the draft does, and what it means if its name does not say it."""
    kind: Kind = row.kind.items if isinstance(row.kind, ListOf) else row.kind
    if isinstance(kind, Table | Values):
        return _link(kind.name)
    if isinstance(kind, Text | Numeric) and kind.description != DESCRIBED[kind.name.partition("[")[0]]:
        return f"`{kind.name}`: {_cell(kind.description)}"
    return f"`{kind.name}`"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _body(shape: Shape) -> str:
    return _link(shape.__name__, "README.md")


def _link(name: str, file: str = "") -> str:
    return f"[{name}]({file}#{name.lower()})"


def _list(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {what}: {told}" for what, told in facts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Write words so that they stay in their cell."""
    return " ".join(_words(text).split()).replace("|", r"\|")


def _words(text: str) -> str:
    """Write words of which only what is in backticks is markup."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
