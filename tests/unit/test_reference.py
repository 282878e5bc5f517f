"""The reference pages read well: everything is there once, tables are tables, and links have somewhere to go."""

import re

import pytest

from engine.protocol.modules import all_modules
from engine.protocol.modules.explain import Table
from engine.protocol.modules.json_schema import shapes_of
from tests.support.reference import index, page
from tests.support.things import THINGS

MODULES = [*all_modules(), THINGS]
PAGES: dict[str, str] = {"README": index(), **{module.id: page(module) for module in MODULES}}

every_page = pytest.mark.parametrize("text", PAGES.values(), ids=PAGES.keys())


def headings(text: str) -> list[str]:
    """The headings of a page."""
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.id)
def test_everything_has_its_place(module):
    """Each class, enum and call has a heading, and each field and value a line."""
    text = PAGES[module.id]
    shapes = shapes_of(module)

    expected = [call.operation for call in module.calls] + [shape.name for shape in shapes]
    assert [heading for heading in headings(text) if heading in expected] == expected
    for shape in shapes:
        section = text.partition(f"\n### {shape.name}\n")[2].partition("\n#")[0]
        lines = [row.name for row in shape.rows] if isinstance(shape, Table) else [*map(str, shape.values)]
        assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == lines


@every_page
def test_headings_stand_once(text):
    """A link to a heading leads to that one."""
    names = [heading.lower() for heading in headings(text)]

    assert len({*names}) == len(names)


@every_page
def test_links_within_a_page(text):
    """Whatever a page says of itself is there."""
    anchors = {heading.lower().replace(" ", "-") for heading in headings(text)}

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@every_page
def test_tables_are_tables(text):
    """All lines of a table have as many cells as its head, and no cell is empty but where nothing is to be said."""
    tables = re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_class():
    """Type, cardinality and meaning stand as in the draft; what Markdown would take for its own is escaped."""
    assert (
        "### Thing\n\n90.2.1: A thing with `parts`.\n\nIt has a second paragraph.\n\n"
        "| field | type | card. | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `id` | `CiAsciiString[1..36]` | `1` | Tells it apart. |\n"
        "| `colour` | [Colour](#colour) | `1` | Its colour. |\n"
        "| `material` | [Material](#material) | `?` | What it is made of. |\n"
        "| `parts` | [Part](#part) | `*` | Its parts: a &lt;leg> \\| an arm, or LEG\\*2\\*ARM and `x*y*z`. |\n"
        "| `times` | `DateTime` | `+` | When it was seen. |\n"
    ) in PAGES["things"]
    assert "| `width` | `int[1..5]`: a whole number from 0 to 99999 | `?` | Millimetres. |\n" in PAGES["things"]
    assert "| `lent` | `boolean` | `?` | Whether somebody has it. |\n" in PAGES["things"]
    assert "\n**Rules**: Whoever lends it owns it.\n\nThat is `owner`.\n" in PAGES["things"]


def test_enums():
    """Values stand with their meanings, and an open enum says that it is one."""
    closed = PAGES["things"].partition("### Colour\n")[2].partition("\n###")[0]
    known = PAGES["things"].partition("### Material\n")[2].partition("\n#")[0]

    assert "| `RED` | Like a rose. |" in closed
    assert "Any other text" not in closed
    assert "| `WOOD` | Of a tree. |\n\nAny other text is allowed too." in known


def test_calls():
    """A call says what goes back and forth."""
    text = PAGES["things"]

    assert (
        "### lend\n\nUse case 90.02: Lend a thing.\n\n"
        "- Request: [AsyncRequest](README.md#asyncrequest); `payload`: [Part](#part)\n"
        "- Answer: [OcpiResponse](README.md#ocpiresponse); `data`:"
        " [ImmediateResponseToAsyncRequest](README.md#immediateresponsetoasyncrequest)\n"
        "- Result: [AsyncResponse](README.md#asyncresponse); `payload`: [Part](#part)\n"
        "- Failure: [AsyncResponse](README.md#asyncresponse); `error`: [ThingError](#thingerror)\n"
    ) in text
    assert "- Taken back: " in text.partition("### drop\n")[2].partition("\n###")[0]
    assert "- Request: [Part](#part)\n- Answer: [OcpiResponse](README.md#ocpiresponse); `data`: nothing\n" in text


def test_the_index_lists_every_module():
    """With its page, its class and its schema."""
    for module in all_modules():
        assert f"[{module.title}]({module.id}.md) | {module.chapter} |" in PAGES["README"]
        assert f"](../schemas/{module.id}.schema.json)" in PAGES["README"]
