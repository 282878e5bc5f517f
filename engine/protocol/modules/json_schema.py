"""JSON Schemas (2020-12) of what a module sends and is sent, written from its declarations.

A module has one document that stands by itself::

    $ref    → $defs/Location                  a payload is the whole document
    $defs     DateTime …                      types of the draft that are more than a size
              Location, Connector, Status …   every class and enum, in the order of the draft
              update                          the body of an update, and of each call …
              reserve-now.request             … the body of the request,
              reserve-now.response            … what is answered at once,
              reserve-now.callback            … and the result, where it comes later

Any of the definitions can be the root instead: a part of the document, with what it needs.

Schemas tell what to send. So there is no ``null`` in them (W21), although readers take it for absent; fields
that no table knows are allowed, because readers keep them. What JSON Schema cannot say, or not so that one
could still read it, are the rules between fields: they stand in the description of their class, in the words
of the declaration. All of them do, so that nobody has to ask which ones a validator knows.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from engine.protocol.errors import SUCCESS
from engine.protocol.modules.bodies import (
    AsyncRequest,
    AsyncResponse,
    AsyncResultType,
    ImmediateResponseToAsyncRequest,
    OcpiResponse,
    PartyIssuedObjectUpdate,
)
from engine.protocol.modules.classes import OcpiClass, Shape, chapter, meaning, rules_of
from engine.protocol.modules.explain import Boolean, Kind, ListOf, Numeric, Row, Table, Text, Values, kind_of, table_of
from engine.protocol.modules.module import Call, Module

DRAFT: Final = "OCPI 3.0-2"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
NAMESPACE: Final = "urn:ocpi-engine:ocpi-3.0-2"
"""Names documents; a name and not an address, since nothing is to be fetched and no domain is claimed."""

FORMATS: Final = {"URL": None, "PartyID": None, "DateTime": "date-time"}
"""Texts with a definition of their own, in the draft's order, and what JSON Schema calls their format.

There is none for a URL: ``uri-reference`` refuses letters beyond ASCII, and few know ``iri-reference``.
"""

UPDATE: Final = "update"
"""Name of the definition of an update's body."""

Schema = dict[str, Any]

_DEFINITIONS = "#/$defs/"
_END_OF_TEXT = r"\Z"
_LEFT_OUT: Final = {"description": "Left out.", "not": {}}  # a mere `false` is told by some without its place

_REVOKED: Final = {
    "description": "An earlier SUCCESS is taken back.",
    "properties": {
        "result_type": {"const": AsyncResultType.FAILED.value},
        "error": _LEFT_OUT,
        "payload": {"description": "Why, in words.", "type": "string"},
    },
}


class UnknownPart(ValueError):
    """A module's document has no such definition."""


def schema_of(module: Module, part: str | None = None) -> Schema:
    """Write the document of a module, or the part of it that has this definition as its root.

    Raises ``UnknownPart``.
    """
    definitions = definitions_of(module)
    name = f"{NAMESPACE}:{module.id}"
    if part is None:
        head = {"$id": name, "title": module.title, "description": _about(module)}
        return {"$schema": DIALECT, **head, **_ref(module.payload.__name__), "$defs": definitions}
    if part not in definitions:
        raise UnknownPart(part)
    return {"$schema": DIALECT, "$id": f"{name}:{part}", **_ref(part), "$defs": _needed(part, definitions)}


def document(module: Module, part: str | None = None) -> str:
    """Write a schema as the text of a file.

    Raises ``UnknownPart``.
    """
    return json.dumps(schema_of(module, part), indent=2, ensure_ascii=False) + "\n"


def definitions_of(module: Module) -> dict[str, Schema]:
    """Return whatever can be the root of a schema, by name: types, classes and enums, and the whole bodies."""
    return {kind.name: _definition(kind) for kind in _reached(_ends(module))} | dict(_bodies(module))


def shapes_of(module: Module) -> list[Table | Values]:
    """Return every class and enum of a module's payload and calls, in the order of the draft."""
    ends = [module.payload, *(shape for call in module.calls for shape in _shapes(call))]
    return [kind for kind in _reached(map(kind_of, ends)) if isinstance(kind, Table | Values)]


def place(table: type) -> str:
    """Say where the draft has a class or enum; the fundamental types have no number."""
    number = chapter(table)
    return number if "." in number else "fundamental data types"


# -- what is in a document ----------------------------------------------------------------------------------


def _about(module: Module) -> str:
    return (
        f"The payload of an object of the module `{module.id}`."
        " The definitions also have the body of an update, and those of the module's calls.\n\n"
        f"{DRAFT}, chapter {module.chapter}."
    )


def _shapes(call: Call) -> Iterator[Shape]:
    yield from (shape for shape in (call.request, call.result, call.error) if shape)


def _ends(module: Module) -> Iterator[Kind]:
    """Yield what the bodies of a module lead to."""
    yield kind_of(module.payload)
    yield from (row.kind for row in table_of(PartyIssuedObjectUpdate).rows)
    for call in module.calls:
        yield from map(kind_of, _shapes(call))
        yield from (row.kind for row in table_of(OcpiResponse).rows)
        if call.asynchronous:
            yield kind_of(ImmediateResponseToAsyncRequest)
            yield from (row.kind for row in table_of(AsyncResponse).rows)


def _reached(ends: Iterable[Kind]) -> list[Kind]:
    """Find everything with a definition of its own, and put it into the order of the draft."""
    found: dict[str, Kind] = {}
    waiting = list(ends)
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, ListOf):
            waiting.append(kind.items)
        elif _is_defined(kind) and kind.name not in found:
            found[kind.name] = kind
            waiting += [row.kind for row in kind.rows] if isinstance(kind, Table) else []
    return sorted(found.values(), key=_place)


def _is_defined(kind: Kind) -> bool:
    return isinstance(kind, Table | Values) or (isinstance(kind, Text) and kind.name in FORMATS)


def _place(kind: Kind) -> tuple[int, ...]:
    """Say where the draft has it: the fundamental types are before all classes."""
    if isinstance(kind, Table | Values):
        return tuple(map(int, chapter(kind.table if isinstance(kind, Table) else kind.values).split(".")))
    return (0, [*FORMATS].index(kind.name))


def _needed(part: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Choose the definitions that this one leads to."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _mentioned(definitions[name])
    return {name: schema for name, schema in definitions.items() if name in found}


def _mentioned(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(ref := schema.get("$ref"), str):
            yield ref.removeprefix(_DEFINITIONS)
        for inner in schema.values():
            yield from _mentioned(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _mentioned(inner)


# -- types, classes and enums -------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"{_DEFINITIONS}{name}"}


def _definition(kind: Kind) -> Schema:
    """Define what has a name."""
    match kind:
        case Table():
            about = _described(meaning(kind.table), _not_said(kind.table), where=place(kind.table))
            return {"title": kind.name, "description": about, **_object(kind)}
        case Values():
            return _enum(kind)
        case Text():
            about = f"{kind.description[0].upper()}{kind.description[1:]}."
            format_ = {"format": FORMATS[kind.name]}
            return {"title": kind.name, "description": about, **_text(kind), **_given(format_)}
    raise TypeError(kind)


def _described(*paragraphs: str, where: str) -> str:
    """Write a description: paragraphs, of which empty ones fall away, and where the draft has it."""
    return "\n\n".join(filter(None, [*paragraphs, f"{DRAFT}, {where}."]))


def _not_said(table: type[OcpiClass]) -> str:
    rules = rules_of(table)
    return f"Not checked by this schema: {rules}" if rules else ""


def _enum(kind: Values) -> Schema:
    """Define an enum: its values where tools look for them, their meanings where people do."""
    values = [*kind.values]
    lines = "\n".join(f"- `{value}`: {value.meaning}" for value in values)
    known = "Any other text is allowed too. Known values:" if kind.is_open else "Values:"
    return {
        "title": kind.name,
        "description": _described(meaning(kind.values), f"{known}\n\n{lines}", where=place(kind.values)),
        "type": "string",
        ("examples" if kind.is_open else "enum"): [value.value for value in values],
    }


def _object(table: Table) -> Schema:
    properties = {row.name: _property(row) for row in table.rows}
    required = [row.name for row in table.rows if row.required]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _property(row: Row) -> Schema:
    return {"description": row.meaning, **_kind(row.kind)}


def _kind(kind: Kind) -> Schema:
    """Say what a value may be, in the place where it is used."""
    if _is_defined(kind):
        return _ref(kind.name)
    match kind:
        case ListOf():
            at_least = {"minItems": kind.at_least or None}
            return {"type": "array", **_given(at_least), "items": _kind(kind.items)}
        case Text():
            return {"$comment": kind.expected, **_text(kind)}
        case Numeric():
            return {"$comment": kind.expected, **_number(kind)}
        case Boolean():
            return {"type": "boolean"}
    return {}


def _text(kind: Text) -> Schema:
    # ECMA-262 has no other sign for the end of the text than $.
    pattern = f"{kind.pattern.pattern.removesuffix(_END_OF_TEXT)}$" if kind.pattern else None
    limits = {"minLength": kind.length_min or None, "maxLength": kind.length_max, "pattern": pattern}
    return {"type": "string", **_given(limits)}


def _number(kind: Numeric) -> Schema:
    limits = {"minimum": kind.at_least, "maximum": kind.at_most}
    return {"type": "integer" if kind.whole else "number", **_given(limits)}


def _given(limits: Schema) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


# -- bodies -------------------------------------------------------------------------------------------------


def _bodies(module: Module) -> Iterator[tuple[str, Schema]]:
    """Yield the whole bodies that go over the wire."""
    payload = module.payload.__name__
    yield UPDATE, _body(PartyIssuedObjectUpdate, f"The body of an update to a {payload}.", {"payload": _ref(payload)})
    for call in module.calls:
        yield from _of_call(call)


def _of_call(call: Call) -> Iterator[tuple[str, Schema]]:
    request = _ref(call.request.__name__)
    if not call.asynchronous:
        about = _described(call.summary, where=f"use case {call.use_case}")
        yield f"{call.operation}.request", {"title": call.request.__name__, "description": about, **request}
        yield f"{call.operation}.response", _response(f"The answer to {call.operation}.", call.result)
        return
    yield f"{call.operation}.request", _body(AsyncRequest, call.summary, {"payload": request})
    yield (
        f"{call.operation}.response",
        _response(f"The answer at once to {call.operation}.", ImmediateResponseToAsyncRequest),
    )
    yield f"{call.operation}.callback", _callback(call)


def _body(table: type[OcpiClass], about: str, inside: dict[str, Schema]) -> Schema:
    """Define a body by its table, and by what is inside of it."""
    schema = _object(table_of(table))
    for name, inner in inside.items():
        schema["properties"][name] |= inner
    schema["required"] = [name for name in schema["properties"] if name in {*schema["required"], *inside}]
    return {"title": table.__name__, "description": _described(about, meaning(table), where=place(table)), **schema}


def _response(about: str, data: Shape | None) -> Schema:
    """Define an OcpiResponse: a success has the data that was asked for, if any; an error has what it likes."""
    return {
        **_body(OcpiResponse, about, {}),
        "if": _is("status_code", SUCCESS),
        "then": _fields(data=data),
    }


def _callback(call: Call) -> Schema:
    """Define an AsyncResponse: a result after SUCCESS, an error after all else (R.04.03.12, R.04.03.13)."""
    failed = _fields(error=call.error, payload=None) if call.error else _fields(payload=None)
    if call.revocable:
        failed = {"anyOf": [failed, _REVOKED]}
    return {
        **_body(AsyncResponse, f"The result of {call.operation}.", {}),
        "if": _is("result_type", AsyncResultType.SUCCESS.value),
        "then": _fields(error=None, payload=call.result),
        "else": failed,
    }


def _is(name: str, value: object) -> Schema:
    return {"properties": {name: {"const": value}}, "required": [name]}


def _fields(**fields: Shape | None) -> Schema:
    """Say what fields have to be there, and which must not."""
    required = [name for name, shape in fields.items() if shape]
    return {
        "properties": {name: _ref(shape.__name__) if shape else _LEFT_OUT for name, shape in fields.items()},
        **({"required": required} if required else {}),
    }
