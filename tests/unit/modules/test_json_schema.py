"""The JSON Schemas, as an independent validator reads them, and what they promise to whoever reads them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from engine.protocol.modules import Module, SchemaViolation, all_modules
from engine.protocol.modules.check import accept
from engine.protocol.modules.classes import (
    Shape,
)
from engine.protocol.modules.explain import ListOf, Table, Values, kind_of
from engine.protocol.modules.json_schema import UnknownPart, definitions_of, document, schema_of
from tests.support.generated import REPOSITORY
from tests.support.things import THING, THINGS, Thing
from tests.unit.modules.full import EXAMPLES, FULL

MODULES: Final = [*all_modules(), THINGS]
PARTS: Final = {module.id: [None, *definitions_of(module)] for module in MODULES}
"""What can be the root of a schema; None: the payload, in the whole document."""
CALLS: Final = [(module, call) for module in MODULES for call in module.calls]

every_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.id)


@cache
def schema(module: Module, part: str | None = None) -> dict[str, Any]:
    """Write each document once."""
    return schema_of(module, part)


def errors(module: Module, part: str | None, value: object) -> list[str]:
    """Ask the independent validator, and return the place of each error."""
    validator = Draft202012Validator(schema(module, part))
    return sorted("/" + "/".join(map(str, error.absolute_path)) for error in validator.iter_errors(value))


def schemas(whole: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if isinstance(whole, dict):
        yield whole
        for name, inner in whole.items():
            if name in {"properties", "$defs"}:
                yield from (found for each in inner.values() for found in schemas(each))
            elif name in {"items", "if", "then", "else"}:
                yield from schemas(inner)
            elif name == "anyOf":
                yield from (found for each in inner for found in schemas(each))


def declared(shape: Shape) -> Iterator[str]:
    """Yield the name of a class or enum and of everything in it."""
    waiting: list[Any] = [kind_of(shape)]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, ListOf):
            waiting.append(kind.items)
        elif isinstance(kind, Table | Values):
            yield kind.name
            waiting += [row.kind for row in kind.rows] if isinstance(kind, Table) else []


# -- documents ----------------------------------------------------------------------------------------------


@every_module
def test_is_a_schema(module):
    """Every document, and a part of it, is a schema by the rules of JSON Schema 2020-12."""
    for part in (None, "update"):
        Draft202012Validator.check_schema(schema(module, part))


@every_module
def test_stands_by_itself(module):
    """Every reference leads to a definition in the same document, and a part has no definition without need."""
    for part in PARTS[module.id]:
        defined = {f"#/$defs/{name}" for name in schema(module, part)["$defs"]}
        references = {found["$ref"] for found in schemas(schema(module, part)) if "$ref" in found}

        assert references <= defined
        if part is not None:
            assert references == defined


@every_module
def test_everything_is_there(module):
    """The definitions have every class and enum of the payload and of the calls."""
    names = {*declared(module.payload)}
    for call in module.calls:
        names |= {name for shape in (call.request, call.result, call.error) if shape for name in declared(shape)}

    assert names <= definitions_of(module).keys()


def test_nothing_else_is_there():
    """Only what is used is defined: the types, classes and enums, and the bodies, in this order."""
    assert [*definitions_of(THINGS)] == [
        *("URL", "PartyID", "DateTime", "AsyncResultType", "ImmediateResponseToAsyncRequest"),
        *("Thing", "Colour", "Part", "ThingError", "Material"),
        *("update", "lend.request", "lend.response", "lend.callback"),
        *("drop.request", "drop.response", "drop.callback"),
        *("paint.request", "paint.response", "tell.request", "tell.response"),
        *("burn.request", "burn.response", "burn.callback"),
    ]


@every_module
def test_everything_is_described(module):
    """The document, every definition and every field say what they are, in more than white space."""
    for found in (schema(module), *schema(module)["$defs"].values()):
        assert found["title"].strip()
        assert found["description"].strip().endswith(".")
        for field in found.get("properties", {}).values():
            assert field["description"].strip().endswith(".")


@every_module
def test_where_it_is_in_the_draft(module):
    """The last line of each class's and enum's description is the draft's number of its table."""
    for shape in set(declared(module.payload)):
        assert re.search(
            r"\n\nOCPI 3\.0-2, ([0-9]+\.[0-9.]+|fundamental data types)\.\Z",
            schema(module)["$defs"][shape]["description"],
        )


def test_a_text_of_a_declaration():
    """Of a docstring the paragraphs stay and the indentation goes; rules say that they are not checked."""
    assert definitions_of(THINGS)["Thing"]["description"] == (
        "A thing with `parts`.\n\nIt has a second paragraph.\n\n"
        "Not checked by this schema: Whoever lends it owns it.\n\nThat is `owner`.\n\nOCPI 3.0-2, 90.2.1."
    )


def test_one_name_each():
    """No two documents have the same id, and none of them claims a domain."""
    ids = [schema(module, part)["$id"] for module in MODULES for part in PARTS[module.id]]

    assert len({*ids}) == len(ids)
    assert all(re.fullmatch(r"urn:ocpi-engine:ocpi-3\.0-2:[a-z]+(:[A-Za-z.-]+)?", each) for each in ids)


def test_text():
    """A document is written the same way every time, for people: indented, letters as they are."""
    text = document(THINGS)

    assert text == document(THINGS)
    assert json.loads(text) == schema_of(THINGS)
    assert text.startswith('{\n  "$schema": "https://json-schema.org/draft/2020-12/schema",\n  "$id"')
    assert text.endswith("}\n")
    assert "Like “the sky” — mostly." in text


def test_no_such_part():
    """Names are spelled as they are."""
    with pytest.raises(UnknownPart):
        schema_of(THINGS, "thing")


def test_files():
    """There is a file for each module, and no other."""
    files = {file.name for file in (REPOSITORY / "docs" / "schemas").iterdir()}

    assert files == {"README.md", *(f"{module.id}.schema.json" for module in all_modules())}


@every_module
def test_patterns_of_any_engine(module):
    """Patterns have only what all regular expressions write alike, from beginning to end of the text."""
    patterns = {found["pattern"] for found in schemas(schema(module)) if "pattern" in found}
    assert patterns
    for pattern in patterns:
        assert re.fullmatch(r"\^[^\n]*\$", pattern)
        assert not re.findall(r"\\[^.\-x]|\(\?[^:]|[+*?}][+?]|[^\\]\$.", pattern), pattern


def test_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """What `docs/schemas/README.md` shows in Python can be copied: it finds nothing wrong, and then what is."""
    readme = (REPOSITORY / "docs" / "schemas" / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locations.schema.json").write_text(document(all_modules()[0]), encoding="utf-8")
    for location, told in [
        (FULL["locations"], ""),
        ({**FULL["locations"], "publish": 1}, "$.publish 1 is not of type 'boolean'\n"),
    ]:
        (tmp_path / "my-location.json").write_text(json.dumps(location), encoding="utf-8")
        exec(lines, {})  # noqa: S102 - that is what a reader does with it
        assert capsys.readouterr().out == told


# -- payloads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", all_modules(), ids=lambda module: module.id)
def test_examples(module):
    """The example of each module is valid for both, and not any more without a field that it has to have."""
    example = FULL[module.id]
    assert module.accept(json.dumps(example).encode()) == ()
    assert errors(module, None, example) == []

    for field in schema(module)["$defs"][module.payload.__name__]["required"]:
        less = {name: value for name, value in example.items() if name != field}
        assert errors(module, None, less) == ["/"]
        with pytest.raises(SchemaViolation, match=f"^/{field}: "):
            module.accept(json.dumps(less).encode())


def test_what_a_field_may_be():
    """The document of a class, seen once as a whole."""
    thing = definitions_of(THINGS)["Thing"]

    assert thing["required"] == ["id", "colour", "times"]
    assert "additionalProperties" not in thing
    assert {
        name: {key: told[key] for key in told if key != "description"} for name, told in thing["properties"].items()
    } == {
        "id": {
            "$comment": "CiAsciiString[1..36], printable ASCII without spaces",
            "type": "string",
            "minLength": 1,
            "maxLength": 36,
            "pattern": "^[!-~]*$",
        },
        "colour": {"$ref": "#/$defs/Colour"},
        "material": {"$ref": "#/$defs/Material"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "times": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/DateTime"}},
        "owner": {"$ref": "#/$defs/PartyID"},
        "page": {"$ref": "#/$defs/URL"},
        "count": {"$comment": "int, a whole number from 0", "type": "integer", "minimum": 0},
        "width": {
            "$comment": "int[1..5], a whole number from 0 to 99999",
            "type": "integer",
            "minimum": 0,
            "maximum": 99999,
        },
        "price": {"$comment": "decimal, a number", "type": "number"},
        "share": {"$comment": "number, a number from 0 to 100", "type": "number", "minimum": 0, "maximum": 100},
        "lent": {"type": "boolean"},
    }


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"unheard_of": {"x": [None]}}, True),
        ({"material": "WOOD"}, True),
        ({"material": "JELLY"}, True),
        ({"material": 1}, False),
        ({"colour": "GREEN"}, False),
        ({"colour": "red"}, False),
        ({"parts": []}, True),
        ({"parts": [{"name": "🔌" * 10}]}, True),
        ({"parts": [{"name": "🔌" * 11}]}, False),
        ({"parts": [{"name": ""}]}, False),
        ({"times": []}, False),
        ({"times": ["2026-02-29T09:30:00Z"]}, False),
        ({"times": ["2028-02-29T09:30:00.123Z"]}, True),
        ({"times": ["2028-02-29T09:30:00.12Z"]}, False),
        ({"owner": "NLTN"}, False),
        ({"page": "https://exämple.org/ä?q=1"}, True),
        ({"page": "two words"}, False),
        ({"page": "x" * 256}, False),
        ({"count": 1.0}, True),
        ({"count": 1.5}, False),
        ({"count": -1}, False),
        ({"width": 99_999}, True),
        ({"width": 100_000}, False),
        ({"price": -0.125}, True),
        ({"price": "1"}, False),
        ({"share": 100.5}, False),
        ({"lent": 1}, False),
    ],
)
def test_like_our_own_check(change, valid):
    """Our own check and the independent validator with our schema say the same."""
    thing = {**THING, **change}
    try:
        accept(Thing, json.dumps(thing).encode())
        accepted = True
    except SchemaViolation:
        accepted = False

    assert accepted is valid
    assert (errors(THINGS, None, thing) == []) is valid


@pytest.mark.parametrize("field", ["material", "parts", "owner", "count", "price", "lent"])
def test_null_is_nothing_to_send(field):
    """What may be left out may be null for us (W21); the schemas tell what to send, and do not have it."""
    thing = {**THING, field: None}
    accept(Thing, json.dumps(thing).encode())

    assert errors(THINGS, None, thing) == [f"/{field}"]


def test_rules_are_not_checked():
    """A rule between fields is for us alone."""
    thing = {**THING, "lent": True}
    assert errors(THINGS, None, thing) == []

    with pytest.raises(SchemaViolation, match="an owner, since lent is true"):
        accept(Thing, json.dumps(thing).encode())


def test_a_last_line_end():
    """Python's regular expressions let a line end pass after `$`: docs/schemas/README.md warns of it. We do not."""
    thing = {**THING, "owner": "NLTNM\n"}
    assert errors(THINGS, None, thing) == []

    with pytest.raises(SchemaViolation, match=r"^/owner: "):
        accept(Thing, json.dumps(thing).encode())


def test_values_and_what_they_mean():
    """Values stand where tools look for them, and are no less explained to people."""
    colour, material = (definitions_of(THINGS)[name] for name in ("Colour", "Material"))

    assert colour["enum"] == ["RED", "BLUE"]
    assert "- `RED`: Like a rose.\n- `BLUE`: Like “the sky” — mostly.\n" in colour["description"]
    assert "enum" not in material
    assert material["examples"] == ["WOOD"]
    assert "Any other text is allowed too." in material["description"]
    assert "- `WOOD`: Of a tree." in material["description"]


# -- bodies -------------------------------------------------------------------------------------------------


def update(payload: object) -> dict[str, Any]:
    """Wrap a payload."""
    return {"issuer_party": "NLTNM", "id": "X1", "version": 7, "payload": payload}


@pytest.mark.parametrize("module", all_modules(), ids=lambda module: module.id)
def test_updates(module):
    """The example of a module is valid in an update, and what is wrong in the payload is wrong there."""
    assert errors(module, "update", update(FULL[module.id])) == []
    assert errors(module, "update", update("text")) == ["/payload"]
    assert set(errors(module, "update", update({}))) == {"/payload"}


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("issuer_party", "NLTNM", True),
        ("issuer_party", "NL-TNM", False),
        ("id", "x" * 39, True),
        ("id", "x" * 40, False),
        ("id", "", False),
        ("id", "a b", False),
        ("version", 0, True),
        ("version", 2.0, True),
        ("version", -1, False),
        ("version", 1.5, False),
        ("version", "1", False),
        ("payload", None, False),
        ("further", None, True),
    ],
)
def test_fields_of_an_update(field, value, valid):
    """An update's own fields are looked at like those of a payload."""
    assert errors(THINGS, "update", {**update(THING), field: value}) == ([] if valid else [f"/{field}"])


@pytest.mark.parametrize("field", ["issuer_party", "id", "version", "payload"])
def test_an_update_has_four_fields(field):
    """None of them may be missing."""
    assert errors(THINGS, "update", {k: v for k, v in update(THING).items() if k != field}) == ["/"]


def callback(result_type: str, **fields: object) -> dict[str, Any]:
    """Write the body of a callback."""
    return {"result_type": result_type, **fields}


def response(code: int, **fields: object) -> dict[str, Any]:
    """Write an answer."""
    return {"status_code": code, "timestamp": "2026-05-04T09:30:00Z", **fields}


PART: Final = {"name": "leg"}


@pytest.mark.parametrize(
    ("part", "body", "wrong"),
    [
        # an asynchronous request has a callback id and parameters
        ("lend.request", {"callback_id": "c1", "payload": PART}, []),
        ("lend.request", {"callback_id": "c 1", "payload": PART, "more": None}, []),
        ("lend.request", {"payload": PART}, ["/"]),
        ("lend.request", {"callback_id": "c1"}, ["/"]),
        ("lend.request", {"callback_id": "", "payload": PART}, ["/callback_id"]),
        ("lend.request", {"callback_id": "c" * 37, "payload": PART}, ["/callback_id"]),
        ("lend.request", {"callback_id": 1, "payload": PART}, ["/callback_id"]),
        ("lend.request", {"callback_id": "c1", "payload": {}}, ["/payload"]),
        ("lend.request", PART, ["/", "/"]),
        # what is said at once
        ("lend.response", response(1000, data="ACCEPTED"), []),
        ("lend.response", response(1000, data="REJECTED", routed_receiver="NLTNM", status_message=""), []),
        ("lend.response", response(1000, data="SUCCESS"), ["/data"]),
        ("lend.response", response(1000), ["/"]),
        ("lend.response", response(2001), []),
        ("lend.response", response(2001, data=[{"field": "/payload"}]), []),
        ("lend.response", response(2001, data=None), []),
        ("lend.response", {"status_code": 1000, "data": "ACCEPTED"}, ["/"]),
        ("lend.response", response(1000, data="ACCEPTED", routed_receiver="NLTNMX"), ["/routed_receiver"]),
        # a result, with and without something in it
        ("lend.callback", callback("SUCCESS", payload=PART), []),
        ("lend.callback", callback("SUCCESS"), ["/"]),
        ("lend.callback", callback("SUCCESS", payload={}), ["/payload"]),
        ("lend.callback", callback("SUCCESS", payload=PART, error="GONE"), ["/error"]),
        ("burn.callback", callback("SUCCESS"), []),
        ("burn.callback", callback("SUCCESS", payload=PART), ["/payload"]),
        ("burn.callback", callback("SUCCESS", error="GONE"), ["/error"]),
        # a failure, with an error of the call's own type if it has one
        *(("lend.callback", callback(name, error="GONE"), []) for name in ("FAILED", "TIMEOUT", "REJECTED")),
        ("lend.callback", callback("NOT_SUPPORTED", error="GONE"), []),
        ("lend.callback", callback("FAILED"), ["/"]),
        ("lend.callback", callback("FAILED", error="LOST"), ["/error"]),
        ("lend.callback", callback("FAILED", error="GONE", payload=PART), ["/payload"]),
        ("lend.callback", callback("DONE", error="GONE"), ["/result_type"]),
        ("lend.callback", {"error": "GONE"}, ["/"]),
        ("burn.callback", callback("FAILED"), []),
        ("burn.callback", callback("FAILED", error={"any": "thing"}), []),
        ("burn.callback", callback("FAILED", payload=PART), ["/payload"]),
        # a success that is taken back
        ("drop.callback", callback("SUCCESS"), []),
        ("drop.callback", callback("FAILED", error="GONE"), []),
        ("drop.callback", callback("FAILED", payload="the truck needs it"), []),
        ("drop.callback", callback("FAILED"), []),
        ("drop.callback", callback("FAILED", payload=1), ["/"]),
        ("drop.callback", callback("FAILED", payload="x", error="GONE"), ["/"]),
        ("drop.callback", callback("TIMEOUT", payload="x"), ["/"]),
        ("drop.callback", callback("TIMEOUT"), ["/"]),
        # synchronous: the parameters themselves, and the result in the answer
        ("paint.request", PART, []),
        ("paint.request", {"callback_id": "c1", "payload": PART}, ["/"]),
        ("paint.response", response(1000, data="RED"), []),
        ("paint.response", response(1000, data="GREEN"), ["/data"]),
        ("paint.response", response(1000), ["/"]),
        ("paint.response", response(7001), []),
        ("tell.request", PART, []),
        ("tell.response", response(1000), []),
        ("tell.response", response(1000, data=PART), ["/data"]),
        ("tell.response", response(2000, data=PART), []),
    ],
)
def test_bodies_of_calls(part, body, wrong):
    """Requests, answers and callbacks are right or wrong as a whole, and at the right place."""
    assert errors(THINGS, part, body) == wrong


@pytest.mark.parametrize(("module", "call"), CALLS, ids=lambda each: getattr(each, "operation", each))
def test_every_call_has_its_bodies(module, call):
    """The schema of each call's request is that of its class, in what it travels in."""
    bodies = {
        name.removeprefix(f"{call.operation}.")
        for name in definitions_of(module)
        if name.startswith(f"{call.operation}.")
    }
    assert bodies == {"request", "response", *(["callback"] if call.asynchronous else [])}

    file = EXAMPLES / f"{module.id}.{call.operation}.json"
    if module is THINGS:
        return
    request = json.loads(file.read_text(encoding="utf-8"))
    assert accept(call.request, json.dumps(request).encode()) == ()
    whole = {"callback_id": "c1", "payload": request} if call.asynchronous else request
    assert errors(module, f"{call.operation}.request", whole) == []
    assert errors(module, f"{call.operation}.request", []) != []
    if call.asynchronous:
        assert errors(module, f"{call.operation}.request", {"payload": request}) == ["/"]
