"""Settings: a file, the environment over it, and every problem in one go."""

import pytest
from pydantic import ValidationError

from engine.settings import BadSettings, PlatformFolder, is_private, read_settings

PLATFORM = {"identity": "cpo.example.org", "base_url": "https://cpo.example.org/ocpi"}


def settings(environment=None, **sections):
    """Read settings with what every platform has."""
    return read_settings({"platform": PLATFORM} | sections, environment or {})


def problems(environment=None, **sections) -> list[str]:
    """Read settings that are refused, and return what is said about them."""
    with pytest.raises(BadSettings) as refused:
        settings(environment, **sections)
    headline, *lines = str(refused.value).splitlines()
    assert headline == "the settings cannot be used:"
    return [line.strip() for line in lines]


def test_a_platform_needs_a_name_and_an_address():
    """Everything else has a default."""
    assert settings().listener.port == 8443
    assert problems(platform={}) == ["platform.identity: Field required", "platform.base_url: Field required"]
    with pytest.raises(BadSettings, match="platform: Field required"):
        read_settings({}, {})


def test_all_problems_are_reported_at_once():
    """Whoever mends a file needs one look, not five starts."""
    found = problems(
        platform=PLATFORM | {"base_url": "http://cpo.example.org"},
        listener={"port": 70_000, "prot": 1},
        peers={"request_timeout_ms": 500},
        logs={"level": "loud"},
        replikation={},
    )

    assert [problem.partition(":")[0] for problem in found] == [
        *(
            "platform.base_url",
            "listener.port",
            "listener.prot",
            "peers.request_timeout_ms",
            "logs.level",
            "replikation",
        ),
    ]


@pytest.mark.parametrize(
    ("sections", "name"),
    [({"listener": {"prot": 8443}}, "listener.prot"), ({"listner": {"port": 8443}}, "listner"), ({"port": 1}, "port")],
)
def test_unknown_settings_are_refused(sections, name):
    """A name with a slip in it would otherwise be a setting that does nothing."""
    assert problems(**sections) == [f"{name}: there is no such setting; deploy/engine.toml lists them all"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("listener", {"head_timeout_s": 0}),
        ("listener", {"connections_max": -1}),
        ("replication", {"lease_s": float("inf")}),
        ("replication", {"lease_s": float("nan")}),
        ("subscriptions", {"queue_size_max": 1.5}),
        ("subscriptions", {"parallelism_max": "many"}),
        ("peers", {"request_timeout_max_ms": 120_001}),
        ("api", {"page_max": 0}),
        ("certificates", {"renew_automatically": "perhaps"}),
    ],
)
def test_values_outside_their_limits_are_refused(section, values):
    """Each is named."""
    ((name, _),) = values.items()

    assert [problem.partition(":")[0] for problem in problems(**{section: values})] == [f"{section}.{name}"]


@pytest.mark.requirement("R.01.03.01")
@pytest.mark.parametrize(
    "url", ["http://a.example", "https://", "https://u:p@a.example", "https://a.example?x", "https://a.example:0", ""]
)
def test_the_base_url_is_https(url):
    """What partners are told has to be what they may use."""
    (problem,) = problems(platform=PLATFORM | {"base_url": url})

    assert problem.startswith("platform.base_url: ")


def test_the_environment_overrides_the_file():
    """By section and name; also what the file does not set, and with no regard to other variables."""
    changed = settings(
        {
            "OCPI_ENGINE_LISTENER__PORT": "9443",
            "OCPI_ENGINE_LOGS__FORMAT": "json",
            "OCPI_ENGINE_CERTIFICATES__RENEW_AUTOMATICALLY": "false",
            "OCPI_ENGINE_FAULT": "none",
            "PATH": "/usr/bin",
            "LISTENER__PORT": "1",
        },
        listener={"port": 8444, "host": "0.0.0.0"},  # noqa: S104 - never listened on
    )

    assert (changed.listener.port, changed.listener.host) == (9443, "0.0.0.0")  # noqa: S104 - as above
    assert changed.logs.format == "json"
    assert not changed.certificates.renew_automatically


def test_the_environment_is_checked_as_the_file_is():
    """A variable with a slip in it is named like a setting."""
    found = problems({"OCPI_ENGINE_LISTENER__PORT": "x", "OCPI_ENGINE_LISTENER__PROT": "1"})
    assert [problem.partition(":")[0] for problem in found] == ["listener.port", "listener.prot"]

    found = problems({"OCPI_ENGINE_LISTENER__PORT": "1"}, listener=5)
    assert [problem.partition(":")[0] for problem in found] == ["listener"]


def test_reading_leaves_the_values_alone():
    """The environment changes the settings, not what was read from the file."""
    values = {"platform": dict(PLATFORM), "listener": {"port": 1}}
    read_settings(values, {"OCPI_ENGINE_LISTENER__PORT": "2"})

    assert values["listener"] == {"port": 1}


BEHIND = {"client_certificate_header": "Client-Cert", "proxy_addresses": ["10.0.0.5", "fd00::/64"]}


def test_a_proxy_is_named_in_the_file_or_in_the_environment():
    """Off unless a header is named; a variable holds several addresses."""
    environment = {"OCPI_ENGINE_LISTENER__PROXY_ADDRESSES": "127.0.0.1, ::1 192.168.1.0/24"}
    assert settings().listener.client_certificate_header == ""
    assert settings().listener.proxy_networks == ()

    assert [str(one) for one in settings(listener=BEHIND).listener.proxy_networks] == ["10.0.0.5/32", "fd00::/64"]
    changed = settings(environment, listener=BEHIND).listener
    assert changed.proxy_addresses == ("127.0.0.1", "::1", "192.168.1.0/24")


@pytest.mark.parametrize(
    ("change", "named", "said"),
    [
        ({"proxy_addresses": []}, "listener", "needs proxy_addresses"),
        ({"client_certificate_header": ""}, "listener", "need client_certificate_header"),
        (
            {"client_certificate_header": "", "proxy_addresses": [], "proxy_tls": True},
            "listener",
            "need client_certificate_header",
        ),
        ({"client_certificate_header": "Client_Cert"}, "listener.client_certificate_header", "hyphens"),
        ({"client_certificate_header": "Client-Cert:"}, "listener.client_certificate_header", "hyphens"),
        ({"proxy_addresses": ["10.0.0.5/24"]}, "listener.proxy_addresses", "has host bits set"),
        ({"proxy_addresses": ["proxy.example"]}, "listener.proxy_addresses", "write an address or a network"),
        ({"proxy_addresses": ["10.0.0.5", "0.0.0.0/0"]}, "listener.proxy_addresses", "is everybody"),
        ({"proxy_addresses": ["::/0"], "proxy_tls": True}, "listener.proxy_addresses", "is everybody"),
        ({"proxy_addresses": [5]}, "listener.proxy_addresses.0", "valid string"),
        ({"proxy_addresses": ["1.1.1.1"]}, "listener", "plain HTTP would cross it"),
        ({"proxy_addresses": ["10.0.0.0/7"]}, "listener", "plain HTTP would cross it"),
        ({"proxy_addresses": ["2606:4700::/64"]}, "listener", "plain HTTP would cross it"),
    ],
)
def test_half_a_proxy_or_an_open_one_is_refused(change, named, said):
    """A header without addresses would let anybody be anybody, and addresses without a header do nothing."""
    (problem,) = problems(listener=BEHIND | change)

    assert problem.startswith(f"{named}: ")
    assert said in problem


def test_a_proxy_that_speaks_tls_to_us_may_be_anywhere():
    """What passes between us is encrypted then."""
    assert settings(listener=BEHIND | {"proxy_addresses": ["1.1.1.1"], "proxy_tls": True}).listener.proxy_tls


def test_settings_do_not_change():
    """They are read once and passed down."""
    with pytest.raises(ValidationError, match="frozen"):
        settings().listener.port = 1


@pytest.mark.parametrize(
    ("base_url", "path", "serving"),
    [
        ("https://a.example", "", ""),
        ("https://a.example/", "", ""),
        ("https://a.example/ocpi/", "", "/ocpi"),
        ("https://a.example/ocpi", "/inside/", "/inside"),
    ],
)
def test_the_path_that_is_served(base_url, path, serving):
    """The base URL's own, unless a proxy takes something off or adds to it."""
    read = settings(platform=PLATFORM | {"base_url": base_url}, listener={"path": path})

    assert read.serving_path == serving


def test_a_folder_names_what_is_in_it(tmp_path):
    """Relative paths are relative to the folder; the database is there, too, unless another is named."""
    folder = PlatformFolder(tmp_path)
    folder.settings_file.write_text('[platform]\nidentity = "a.example"\nbase_url = "https://a.example"\n')
    read = folder.settings({})

    assert folder.path(read.listener.key) == tmp_path / "tls/server-key.pem"
    assert folder.path("/etc/key.pem").as_posix() == "/etc/key.pem"
    assert folder.database_url(read) == f"sqlite+aiosqlite:///{tmp_path}/engine.sqlite"
    assert folder.database_url(read.model_copy(update={"store": read.store.model_copy(update={"url": "x"})})) == "x"


def test_a_folder_without_a_platform(tmp_path):
    """The message says how to make one."""
    with pytest.raises(BadSettings, match=r"holds no platform: make one with `ocpi-engine init"):
        PlatformFolder(tmp_path).settings({})


@pytest.mark.parametrize("text", [b"[platform", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_cannot_be_read(tmp_path, text):
    """The message names the file."""
    folder = PlatformFolder(tmp_path)
    folder.settings_file.write_bytes(text)

    with pytest.raises(BadSettings, match=r"engine\.toml"):
        folder.settings({})


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.1", True),
        ("169.254.1.1", True),
        ("::1", True),
        ("fd00::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),  # noqa: S104 - never listened on
        ("1.1.1.1", False),
        ("2606:4700::1111", False),
    ],
)
def test_addresses_that_the_internet_does_not_route(address, private):
    """Requests go to none of these unless the operator allowed it."""
    assert is_private(address) is private
