"""What a common name may be."""

import pytest

from certs.errors import BadName
from certs.names import common_name, domain_name, host, serial_text


@pytest.mark.requirement("R.01.01.02")
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub.example.org", "hub.example.org"),
        ("HUB.Example.Org", "hub.example.org"),
        ("a.b", "a.b"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("3com.example", "3com.example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_domain_names_are_taken_in_lower_case(text, name):
    """A domain name is a domain name, however its letters were typed."""
    assert domain_name(text) == name


@pytest.mark.requirement("R.01.01.02")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a domain name"),
        ("localhost", "only one label"),
        ("*.example.org", "wildcard"),
        ("hub.example.org.", "not a domain name"),
        (".example.org", "not a domain name"),
        ("hub..example.org", "not a domain name"),
        ("-hub.example.org", "not a domain name"),
        ("hub-.example.org", "not a domain name"),
        ("hub_1.example.org", "not a domain name"),
        ("hub example.org", "not a domain name"),
        ("hub.example.org\0.evil.example", "not a domain name"),
        ("hub.example.org\n", "not a domain name"),
        ("https://hub.example.org", "not a domain name"),
        ("ops@hub.example.org", "not a domain name"),
        ("bücher.example", "xn--"),
        ("hub.example。org", "xn--"),
        ("192.0.2.7", "IP address"),
        ("2001:db8::7", "not a domain name"),
        ("a" * 64 + ".example", "not a domain name"),
        (".".join(["a" * 63] * 4), "longer than"),
    ],
)
def test_other_names_are_refused_with_the_reason(text, reason):
    """Whatever is no domain name is refused, and the message says in what way, on one line of ASCII."""
    with pytest.raises(BadName, match=reason) as refused:
        domain_name(text)

    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


def test_a_common_name_has_the_length_that_x509_gives_it():
    """A domain name of 64 characters can be certified, one of 65 cannot."""
    assert common_name("a" * 60 + ".org") == "a" * 60 + ".org"
    with pytest.raises(BadName, match="too long"):
        common_name("a" * 61 + ".org")


@pytest.mark.parametrize(
    ("text", "name"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("LocalHost", "localhost"), ("Hub.example", "hub.example")],
)
def test_servers_may_also_have_addresses(text, name):
    """A server certificate may be for an address, or for this machine."""
    assert host(text) == name


def test_other_hosts_are_refused():
    """What is neither an address nor a domain name is no host."""
    with pytest.raises(BadName):
        host("hub")


def test_serial_numbers_are_written_in_hexadecimal():
    """One way to write them, so that they can be compared as text."""
    assert serial_text(0xABC123) == "abc123"
