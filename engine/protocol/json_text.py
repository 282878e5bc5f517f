"""Reading JSON text exactly, before anything is made of it.

A payload leaves as the bytes that came in, so what matters here is only whether a body *is* JSON that every
reader understands alike. Two kinds of no, which OCPI answers differently (B18):

* ``MalformedJson``: not JSON at all, or not a JSON object → HTTP 400, status 2001.
* ``DuplicateKeys``: JSON, but two readers may see two different objects → HTTP 200, status 2001.

The quick yes: a body that a strict parser reads, and that comes out as the same bytes when written again,
lost nothing on the way; so no key stood twice and no escape was odd. Most bodies of machines are like that.
The others (spaces, escapes, decimals like ``0.10``) are read a second time, key by key.

No number is ever converted for keeps: ``0.1234567890123456789`` and ``1E400`` pass, and stay text.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NoReturn

import msgspec

DEPTH_MAX = 100
"""Brackets inside brackets. A Location needs 9; the parsers below give up at some hundreds."""

DUPLICATES_MAX = 20
"""Duplicate keys that are listed: enough to see what went wrong, not enough to fill a log."""

TOKEN_LENGTH_MAX = 80
"""Characters of one key in a JSON Pointer that we write into a message."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class MalformedJson(ValueError):
    """The bytes are not JSON, or not a JSON object."""


class DuplicateKeys(ValueError):
    """A key stands twice in one object; ``pointers`` are JSON Pointers to such keys."""

    def __init__(self, pointers: tuple[str, ...]) -> None:
        super().__init__("the same key stands more than once: " + ", ".join(pointers))
        self.pointers = pointers


class NumberText(str):
    """A JSON number as it was written."""

    __slots__ = ()


def check_object(body: bytes, *, depth_max: int = DEPTH_MAX) -> None:
    """See whether ``body`` is one JSON object that every reader understands alike.

    Raises ``MalformedJson`` or ``DuplicateKeys``. Linear in the size of the body, whatever is in it.
    """
    if _brackets(body) > depth_max and _depth(body) > depth_max:
        raise MalformedJson(f"nested deeper than {depth_max}")
    try:
        value = _decode(body)
        if type(value) is dict and _encode(value) == body:
            return
    except (ValueError, RecursionError):
        pass  # the careful reader says what it is
    _check_slowly(body)


def read_exactly(text: bytes) -> Any:
    """Read JSON with its numbers as ``NumberText``; of a key that stands twice the last value counts.

    Raises ``MalformedJson``.
    """
    return _read(text, hook=None)


def pointer(*tokens: str | int) -> str:
    """Write a JSON Pointer (RFC 6901); long keys are shortened, since it is for people."""
    return "".join("/" + _token(token) for token in tokens)


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _brackets(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[")


def _depth(body: bytes) -> int:
    """Return how deep the brackets outside of strings go; for JSON this is exact."""
    outside = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


class _Twice(dict[str, Any]):
    """An object in which a key stands twice; ``keys_twice`` says which."""

    keys_twice: tuple[str, ...] = ()


def _check_slowly(body: bytes) -> None:
    found_twice = False

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found_twice
        if len(read := dict(pairs)) == len(pairs):
            return read
        found_twice = True
        twice = _Twice(pairs)
        twice.keys_twice = tuple(_repeated(key for key, _ in pairs))
        return twice

    value = _read(body, hook=to_dict)
    if not isinstance(value, dict):
        raise MalformedJson("a JSON object was expected")
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_lone_surrogates(value)
    if found_twice:
        raise DuplicateKeys(tuple(_first(_duplicates(value), DUPLICATES_MAX)))


def _read(text: bytes, hook: Any) -> Any:
    try:
        return json.loads(
            str(text, "utf-8"),
            object_pairs_hook=hook,
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise MalformedJson(f"not valid UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedJson("nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"not JSON: {name} is no JSON number")


def _refuse_lone_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedJson("half of a surrogate pair stands alone in a string") from None


def _repeated(keys: Iterable[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 2:  # noqa: PLR2004 - named once, however often it stands there
            yield key


def _duplicates(value: object, *path: str | int) -> Iterator[str]:
    if isinstance(value, _Twice):
        yield from (pointer(*path, key) for key in value.keys_twice)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _duplicates(item, *path, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _duplicates(item, *path, index)


def _first(items: Iterator[str], count: int) -> Iterator[str]:
    yield from (item for item, _ in zip(items, range(count), strict=False))


def _token(token: str | int) -> str:
    text = str(token)
    if len(text) > TOKEN_LENGTH_MAX:
        text = text[:TOKEN_LENGTH_MAX] + "…"
    return text.replace("~", "~0").replace("/", "~1")
