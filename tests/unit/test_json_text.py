"""Bodies are read exactly, and bad ones are refused for the right reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.json_text import (
    DEPTH_MAX,
    DUPLICATES_MAX,
    DuplicateKeys,
    MalformedJson,
    NumberText,
    check_object,
    pointer,
    read_exactly,
)

GOOD = {
    "empty": b"{}",
    "compact": b'{"a":[1,{"b":null}],"c":"d"}',
    "spaces": b' {\r\n\t"a" : [ 1 , 2 ] }\n',
    "digits that a float would lose": b'{"a":0.1234567890123456789,"b":0.10,"c":1E+2,"d":-0.0}',
    "beyond any float": b'{"a":1E400,"b":1E-400,"c":1e99999999999999999999}',
    "a number of 100 000 digits": b'{"a":' + b"7" * 100_000 + b"}",
    "an emoji": '{"a":"🔌"}'.encode(),
    "an emoji in escapes": rb'{"a":"\ud83d\udd0c"}',
    "an escaped backslash before ud800": rb'{"a":"\\ud800"}',
    "brackets in a string": b'{"a":"' + b"[{" * 1000 + b'"}',
    "quotes and brackets in a string": b'{"a":"' + rb"\"[\\" * 1000 + b'"}',
    "the same key in two objects": b'{"a":{"x":1},"b":{"x":1}}',
    "the same key in another case": b'{"a":1,"A":2}',
    "as deep as allowed": b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}",
    "wide, not deep": b'{"a":[' + b"[]," * 1000 + b"[]]}",
    "a string of 1 MB": b'{"a":"' + b"x" * 1_000_000 + b'"}',
}

MALFORMED = {
    "nothing": b"",
    "space": b" ",
    "text": b"hello",
    "HTML": b"<html></html>",
    "a list": b"[]",
    "a string": b'"a"',
    "a number": b"1",
    "null": b"null",
    "cut off": b'{"a":"b',
    "cut off in a list": b'{"a":[1,',
    "something after it": b'{"a":1}{"a":1}',
    "a comma too many": b'{"a":1,}',
    "no quotes": b"{a:1}",
    "single quotes": b"{'a':1}",
    "a leading zero": b'{"a":01}',
    "a point without digits": b'{"a":1.}',
    "a plus": b'{"a":+1}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":[-Infinity]}',
    "a line break in a string": b'{"a":"\n"}',
    "a control character": b'{"a":"\x00"}',
    "an unknown escape": rb'{"a":"\x41"}',
    "not UTF-8": b'{"a":"\xff"}',
    "not UTF-8 in a key": b'{"\xc3":1}',
    "a raw surrogate": b'{"a":"\xed\xa0\x80"}',
    "an overlong slash": b'{"a":"\xc0\xaf"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "half of a pair": rb'{"a":"\ud83d"}',
    "the other half": rb'{"a":"\udd0c"}',
    "halves in the wrong order": rb'{"a":"\udd0c\ud83d"}',
    "half of a pair in a key": rb'{"a":{"\uD800":1}}',
    "half of a pair behind escapes": rb'{"a":"\\\\\ud800"}',
    "one too deep": b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}",
    "10 000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "millions deep and never closed": b"[" * 5_000_000,
    "deep after a string of brackets": b'{"b":"]]]]]]","a":' + b"[" * 200 + b"]" * 200 + b"}",
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
def test_good(body):
    """JSON objects pass, whatever their numbers, spaces and escapes."""
    check_object(body)


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(body):
    """What is not a JSON object is refused as malformed."""
    with pytest.raises(MalformedJson) as refused:
        check_object(body)

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b'{"a":1,"a":1}', ("/a",)),
        (b'{"a":1,"b":2,"a":3,"a":4}', ("/a",)),
        (b'{"a":[0,{"b":1,"b":{}}],"c":1,"c":2}', ("/c", "/a/1/b")),
        (rb'{"a":1,"\u0061":2}', ("/a",)),
        (b'{"x/y":1,"x/y":2,"~":{"":1,"":2}}', ("/x~1y", "/~0/")),
    ],
)
def test_duplicates(body, pointers):
    """A key that stands twice is named by its JSON Pointer, also when it is spelled in escapes."""
    with pytest.raises(DuplicateKeys) as refused:
        check_object(body)

    assert refused.value.pointers == pointers


def test_duplicates_without_end():
    """Of many duplicates some are named, and long keys are cut, so that the message stays short."""
    keys = [f"{n:05d}{'x' * 1000}" for n in range(1000)]
    body = "{" + ",".join(f'"{key}":1,"{key}":2' for key in keys) + "}"

    with pytest.raises(DuplicateKeys) as refused:
        check_object(body.encode())

    assert len(refused.value.pointers) == DUPLICATES_MAX
    assert len(str(refused.value)) < DUPLICATES_MAX * 100


def test_depth_by_setting():
    """The depth that is allowed can be set."""
    check_object(b'{"a":[[]]}', depth_max=3)

    with pytest.raises(MalformedJson, match="deeper than 2"):
        check_object(b'{"a":[[]]}', depth_max=2)


def test_numbers_stay_text():
    """Numbers are read as they were written; words that look like numbers stay strings."""
    read = read_exactly(b'{"a":0.10,"b":"0.10","c":1E400,"d":true}')

    assert read == {"a": "0.10", "b": "0.10", "c": "1E400", "d": True}
    assert [type(value) for value in read.values()] == [NumberText, str, NumberText, bool]


def test_pointer():
    """JSON Pointers escape as RFC 6901 says."""
    assert pointer() == ""
    assert pointer("a/b", 0, "m~n", "") == "/a~1b/0/m~0n/"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values), st.booleans(), st.sampled_from([None, 1]))
def test_any_object(value, ascii_only, indent):
    """Every JSON object passes, in whatever style it is written."""
    check_object(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes(body):
    """Of any bytes, what passes is an object to an independent reader; all else is refused with our own errors."""
    try:
        check_object(body)
    except (MalformedJson, DuplicateKeys):
        return

    assert isinstance(json.loads(body), dict)
