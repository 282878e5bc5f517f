"""Party IDs and object ids: what they look like, and when two are the same."""

import pytest

from engine.protocol.ids import (
    CREDIT_CDR_ID_LENGTH_MAX,
    OBJECT_ID_LENGTH_MAX,
    check_object_id,
    object_key,
    party_id,
)


@pytest.mark.parametrize(("text", "read"), [("NLTNM", "NLTNM"), ("nltnm", "NLTNM"), ("dE0a9", "DE0A9")])
def test_party_ids_are_kept_in_upper_case(text, read):
    """A Party ID is taken in any case (B10)."""
    assert party_id(text) == read


@pytest.mark.parametrize(
    "text", ["", "NLTN", "NLTNMM", "N1TNM", "NL*TNM", "NL-TN", "NLTN ", "NLTNM\n", "ÑLTNM", "NLTN①"]
)
def test_what_is_no_party_id(text):
    """Anything else is refused in words that show an example."""
    with pytest.raises(ValueError, match="for instance NLTNM"):
        party_id(text)


def test_a_huge_party_id_is_shown_in_part():
    """What a stranger sent does not fill a log."""
    with pytest.raises(ValueError, match="is not a Party ID") as refused:
        party_id("N" * 100_000)

    assert len(str(refused.value)) < 200


def test_object_ids_are_compared_without_case():
    """Two spellings of one id are one object (B10)."""
    assert object_key("Loc-aB") == object_key("LOC-AB")
    assert object_key("a/b") != object_key("a%2Fb")


@pytest.mark.parametrize("text", ["a", "!", "~", "a" * OBJECT_ID_LENGTH_MAX, "a/b", "%2F", '"', "\\", "#?&"])
def test_object_ids_are_printable_ascii(text):
    """Every printable character but the space may stand in an id."""
    check_object_id(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one or more"),
        (" ", "without spaces"),
        ("a b", "without spaces"),
        ("a\n", "printable"),
        ("\x00", "printable"),
        ("\x7f", "printable"),
        ("é", "ASCII"),
        ("a" * (OBJECT_ID_LENGTH_MAX + 1), "at most 36 characters, this one has 37"),
    ],
)
def test_object_ids_that_are_none(text, says):
    """An id that is empty, too long, or has other characters is refused with the reason."""
    with pytest.raises(ValueError, match=says):
        check_object_id(text)


def test_a_credit_cdr_may_have_a_longer_id():
    """Three characters more than others, and no more (B11)."""
    check_object_id("c" * 39, CREDIT_CDR_ID_LENGTH_MAX)
    with pytest.raises(ValueError, match="at most 39 characters, this one has 40"):
        check_object_id("c" * 40, CREDIT_CDR_ID_LENGTH_MAX)
