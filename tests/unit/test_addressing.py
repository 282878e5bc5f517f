"""Paths between platforms and between parties, and the ids that requests carry."""

from contextlib import suppress
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.protocol.addressing import (
    RESERVED_OPERATIONS,
    PartyPath,
    PlatformPath,
    acceptable_id,
    parse_path,
    party_path,
    platform_path,
)
from engine.protocol.errors import NotFound
from engine.protocol.ids import PartyId

X, Y = PartyId("DEPTX"), PartyId("USPTY")


@pytest.mark.requirement("R.02.02.02")
def test_a_party_path_names_sender_and_receiver_after_the_base_path():
    """The segments come in the order of the draft, below whatever prefix a reverse proxy adds."""
    path = party_path(X, Y, "locations", "update")

    assert path == "/from/DEPTX/to/USPTY/locations/update"
    assert parse_path("/proxy/ocpi" + path, "/proxy/ocpi") == PartyPath(X, Y, ("locations", "update"))


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        ("/versions", ("versions",)),
        ("/connection/renew-credentials/a%2Fb", ("connection", "renew-credentials", "a/b")),
        ("/parties?offset=1", ("parties",)),
        ("/%76ersions", ("versions",)),
        ("/from", None),
        ("/callbacks/%C3%A9", ("callbacks", "é")),
        ("/..", ("..",)),
    ],
)
def test_platform_paths_are_decoded_segment_by_segment(raw, segments):
    """An encoded slash stays inside its segment; a query is not part of the path; dots mean nothing."""
    if segments is None:
        with pytest.raises(NotFound):
            parse_path("/ocpi" + raw, "/ocpi")
    else:
        assert parse_path("/ocpi" + raw, "/ocpi") == PlatformPath(segments)


def test_party_ids_are_taken_in_any_case():
    """Party IDs are compared without case and kept in upper case (B10)."""
    assert parse_path("/from/deptx/to/Uspty/tokens", "") == PartyPath(X, Y, ("tokens",))


@pytest.mark.parametrize("party", ["DEPT", "DEPTXX", "12345", "DE%2FPT", "%E2%82%ACuro", "D" * 4000])
def test_a_party_id_that_none_can_have_is_nobody_s(party):
    """It is kept as it came, for the operation to answer as an unknown party (B16)."""
    path = parse_path(f"/from/{party}/to/{party}/locations", "")

    assert isinstance(path, PartyPath)
    assert path.sender == path.receiver == unquote(party)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "/",
        "*",
        "/other/versions",
        "/ocpiversions",
        "/ocpi",
        "/ocpi/",
        "/ocpi//versions",
        "/ocpi/versions/",
        "/ocpi/%zz",
        "/ocpi/%2",
        "/ocpi/%",
        "/ocpi/%00",
        "/ocpi/%0d%0aSet-Cookie:",
        "/ocpi/%7f",
        "/ocpi/%C2%85",
        "/ocpi/%ff%fe",
        "/ocpi/a b",
        "/ocpi/a#b",
        "/ocpi/\x01",
        "/ocpi/é",
        "/ocpi/\udcff",
        "/ocpi/from/DEPTX",
        "/ocpi/from/DEPTX/to",
        "/ocpi/from/DEPTX/at/USPTY/locations",
        "/ocpi/from//to/USPTY/locations",
        "/ocpi/" + "/".join("a" * 50),
    ],
)
def test_paths_that_are_nobody_s_are_not_found(raw):
    """Outside of the base path, badly escaped, with controls, empty segments, or far too many."""
    with pytest.raises(NotFound):
        parse_path(raw, "/ocpi")


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1), min_size=1, max_size=8)
)
@example(["a/b", "%2F", "?", "#", "from"])
def test_what_is_written_is_read_again(segments):
    """Whatever is printable survives the way through a path."""
    path = platform_path("x", *segments)

    assert path.isascii()
    assert parse_path("/p" + path, "/p") == PlatformPath(("x", *segments))


@given(st.text())
def test_any_text_is_a_path_or_not_found(text):
    """Nothing else comes of a path, whatever it is."""
    with suppress(NotFound):
        parse_path("/ocpi/" + text, "/ocpi")


@pytest.mark.parametrize("text", ["a", "55b28c1a-62c0-42b3-9fac-69b5b5d08e5c", "x" * 128, "with space"])
def test_ids_that_can_be_echoed_are(text):
    """An id need not be a UUID."""
    assert acceptable_id(text) == text


@pytest.mark.parametrize("text", [None, "", "x" * 129, "a\r\nb", "a\nb", "é", "\x00", "a\n"])
def test_ids_that_would_break_a_line_or_a_log_are_not_taken(text):
    """Missing, long or with anything but printable ASCII: a new one is made instead."""
    assert acceptable_id(text) is None


def test_reserved_names_are_all_of_chapter_three_s_operations():
    """No remote procedure call may have one of these names (B14)."""
    assert len(RESERVED_OPERATIONS) == 8
    assert "update" in RESERVED_OPERATIONS
