"""Updates as bytes, what a receiver decides about them, and how changes are numbered."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.errors import InvalidParameters
from engine.protocol.ids import PartyId
from engine.protocol.objects import (
    VERSION_EPOCH_S,
    VERSION_MAX,
    Verdict,
    decide,
    next_version,
    read_int,
    read_string,
    read_update,
    reissued_version,
    update_body,
)

NOW = VERSION_EPOCH_S + 1_000_000.75


def body(**fields):
    """Write an update from JSON texts; a field given as None is left out."""
    texts = {"issuer_party": '"NLTNM"', "id": '"LOC1"', "version": "1", "payload": "{}"} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if text is not None) + "}").encode()


def wrong_fields(**fields):
    """Read an update that is refused, and return the fields that are named."""
    with pytest.raises(InvalidParameters) as refused:
        read_update(body(**fields))
    return [problem["field"] for problem in refused.value.data]


# -- reading and writing ------------------------------------------------------------------------------------


def test_reading_an_update():
    """Its fields are typed, its id keeps its spelling, its payload keeps its bytes."""
    update = read_update(body(issuer_party='"nltnm"', payload='{"z" : 0.10, "a":1E+2,  "z":"\\u00e9"}', extra="[1]"))

    assert (update.issuer, update.object_id, update.key, update.version) == ("NLTNM", "LOC1", "loc1", 1)
    assert update.payload == b'{"z" : 0.10, "a":1E+2,  "z":"\\u00e9"}'


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0", 0),
        ("-0", 0),
        ("1.0", 1),
        ("1e0", 1),
        ("1E2", 100),
        ("10e-1", 1),
        (str(VERSION_MAX), VERSION_MAX),
        (f"{VERSION_MAX}.00", VERSION_MAX),
    ],
)
def test_versions_may_be_written_in_any_way(text, version):
    """A number without a fraction other than zero is a version, however it is written (B18, B44)."""
    assert read_update(body(version=text)).version == version


@pytest.mark.parametrize(
    "text",
    [
        *("-1", "1.5", '"1"', "true", "null", "[]", "{}", "1e-1", "1e-99999999999999999999", "-1e400"),
        *(str(2**63), "1E400", "1E999999", "1E99999999999999999999", "9" * 10_000),
        None,
    ],
)
def test_versions_that_are_none(text):
    """Anything else is refused with the field's name, and no number is too large to be looked at."""
    assert wrong_fields(version=text) == ["/version"]


@pytest.mark.parametrize("text", ['"NLTN"', '""', "5", "1e400", "null", "{}", None])
def test_issuers_that_are_none(text):
    """The issuer has to be a Party ID."""
    assert wrong_fields(issuer_party=text) == ["/issuer_party"]


@pytest.mark.parametrize("text", ['""', '"a b"', '"\\n"', '"é"', json.dumps("a" * 40), "5", "1e400", "null", None])
def test_ids_that_are_none(text):
    """The id has to be one, of at most 39 characters: it may be a credit CDR's (B11)."""
    assert wrong_fields(id=text) == ["/id"]


def test_an_id_of_39_characters_is_read():
    """Which ids are too long for what they name is for the sender to know; 39 is the longest of all."""
    assert read_update(body(id=json.dumps("a" * 39))).object_id == "a" * 39


def test_all_wrong_fields_are_named_at_once():
    """Whoever mends an update learns all of it from one answer."""
    assert wrong_fields(issuer_party=None, id="5", version="-1", payload=None) == [
        "/issuer_party",
        "/id",
        "/version",
        "/payload",
    ]


@given(
    object_id=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=36),
    version=st.integers(0, VERSION_MAX),
    payload=st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.none(), max_size=5),
)
def test_what_is_written_is_read(object_id, version, payload):
    """An update comes out of its own bytes unchanged, whatever its id is made of."""
    text = msgspec.json.encode(payload)

    update = read_update(update_body(PartyId("NLTNM"), object_id, version, text))

    assert (update.issuer, update.object_id, update.version, update.payload) == ("NLTNM", object_id, version, text)


def test_an_update_that_is_sent_is_plain_json():
    """The payload goes in as it is."""
    assert update_body("NLTNM", 'a"\\', 7, b'{"x":0.10}') == (
        b'{"issuer_party":"NLTNM","id":"a\\"\\\\","version":7,"payload":{"x":0.10}}'
    )


def test_integers_have_the_maximum_that_is_asked_for():
    """A smaller limit than a version's is kept and named."""
    assert read_int(b"10", maximum=10) == 10
    with pytest.raises(ValueError, match="from 0 to 10 is required"):
        read_int(b"11", maximum=10)


@pytest.mark.parametrize(
    ("text", "read"), [(b'"a\\n"', "a\n"), (b'""', ""), (b"1e400", None), (b"", None), (b"[]", None)]
)
def test_reading_strings(text, read):
    """A string is read, and any other value is none, however odd it is."""
    assert read_string(text) == read


# -- deciding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("immutable", [False, True])
@pytest.mark.parametrize("same_life", [False, True])
def test_an_object_that_we_do_not_have_is_new(same_life, immutable):
    """Without a copy the update is stored, at any version."""
    assert decide(None, 0, same_life=same_life, immutable=immutable) is Verdict.STORE_NEW


@pytest.mark.parametrize(
    ("stored", "version", "verdict"),
    [(5, 4, Verdict.NOT_NEWER), (5, 5, Verdict.NOT_NEWER), (5, 6, Verdict.STORE_CHANGED), (0, 0, Verdict.NOT_NEWER)],
)
def test_within_a_life_copies_only_grow(stored, version, verdict):
    """A version at or below ours changes nothing, the next one does (P2, B27)."""
    assert decide(stored, version, same_life=True, immutable=False) is verdict


@pytest.mark.parametrize(
    ("version", "verdict"), [(0, Verdict.NOT_NEWER), (1, Verdict.NOT_NEWER), (2, Verdict.IMMUTABLE)]
)
def test_an_immutable_object_stays_as_it_is(version, verdict):
    """Not newer comes before immutable (B1); a newer version is what cannot be."""
    assert decide(1, version, same_life=True, immutable=True) is verdict


@pytest.mark.parametrize("immutable", [False, True])
@pytest.mark.parametrize("version", [1, 5, 9])
def test_in_a_new_life_any_version_counts(version, immutable):
    """The first update of each object replaces the copy of an earlier life (B27, B48)."""
    assert decide(5, version, same_life=False, immutable=immutable) is Verdict.STORE_CHANGED


# -- numbering ----------------------------------------------------------------------------------------------


def test_versions_count_from_the_clock():
    """The first version is the time; later ones are at least one more (B9)."""
    assert next_version(None, NOW, immutable=False) == 1_000_000
    assert next_version(1_000_000, NOW, immutable=False) == 1_000_001
    assert next_version(10, NOW, immutable=False) == 1_000_000


def test_versions_grow_while_the_clock_stands_or_goes_back():
    """A clock before the epoch, or one that was set back, takes nothing away (B9)."""
    assert next_version(None, 0.0, immutable=False) == 1
    assert next_version(2_000_000, NOW, immutable=False) == 2_000_001


@pytest.mark.parametrize("last", [None, 1])
def test_immutable_objects_have_version_one(last):
    """There is nothing to count (B9)."""
    assert next_version(last, NOW, immutable=True) == 1


def test_a_reissue_is_above_all_that_was_ever_sent():
    """A day ahead of the clock and of the last number known, which may have grown since it was copied (B9)."""
    assert reissued_version(10, NOW) == 1_000_000 + 86_400
    assert reissued_version(5_000_000, NOW) == 5_000_000 + 86_400


def test_what_an_earlier_restore_gave_out_is_passed_too():
    """By objects that the older database has, and by those that it lost, once they are issued again (B9)."""
    assert reissued_version(10, NOW, above=2_000_000) == 2_000_000 + 86_400
    assert next_version(None, NOW, immutable=False, above=2_000_000) == 2_000_001
    assert next_version(None, NOW, immutable=False, above=10) == 1_000_000
    assert next_version(3_000_000, NOW, immutable=False, above=2_000_000) == 3_000_001
    assert next_version(None, NOW, immutable=True, above=2_000_000) == 1
