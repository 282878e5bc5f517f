"""Settings: one frozen value, read once from ``engine.toml`` and the environment, all problems reported at once.

A variable ``OCPI_ENGINE_<SECTION>__<NAME>`` overrides the file, for instance
``OCPI_ENGINE_LISTENER__PORT=8443``. Nothing else reads the environment but ``engine.faults``, for tests.
"""

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from engine.protocol.ids import party_id
from engine.protocol.registration import check_base_url

ENVIRONMENT_PREFIX = "OCPI_ENGINE_"
SETTINGS_FILE = "engine.toml"

PLAIN_HTTP_NETWORKS: Final = tuple(
    map(
        ip_network,
        (
            *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
            *("::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)
"""Where a proxy may be that talks to us without TLS: here, and in networks that the internet does not route."""


class BadSettings(Exception):
    """The settings cannot be used; the message lists every problem."""


def _check_store_url(url: str) -> str:
    if url and urlsplit(url).scheme.partition("+")[0] not in {"postgresql", "sqlite"}:
        raise ValueError("write postgresql://USER@HOST:5432/DATABASE, or leave it out for SQLite in the folder")
    return url


def _check_broker_url(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"amqp", "amqps"} or not parts.hostname):
        raise ValueError("write amqp://USER@HOST:5672/VHOST, or leave it out for queues in memory")
    return url


def _check_parties(parties: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(party_id, parties))


def _check_webhook_url(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None):
        raise ValueError("write https://HOST/PATH, or http://HOST:PORT/PATH for one that is near")
    if parts.scheme == "http" and parts.hostname != "localhost":
        try:
            near = _is_near(ip_network(parts.hostname or ""))
        except ValueError:
            near = False
        if not near:
            raise ValueError("http:// is for an address of a private network, or localhost: write https://")
    return url


def _split(given: object) -> object:
    """Take what the environment has as one text for a list of words."""
    return given.replace(",", " ").split() if isinstance(given, str) else given


def _check_header_name(name: str) -> str:
    if name and not (name.isascii() and name.replace("-", "").isalnum()):
        # Underscores are legal in HTTP, and dropped or turned into hyphens on the way by half of its proxies.
        raise ValueError("write a header's name of letters, digits and hyphens, for instance Client-Cert")
    return name


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for text in networks:
        try:
            everybody = ip_network(text).prefixlen == 0
        except ValueError as error:
            raise ValueError(f"{error}: write an address or a network, for instance 10.0.0.5 or 10.0.0.0/24") from None
        if everybody:
            raise ValueError(f"{text} is everybody, and whoever is named here may call himself any partner")
    return networks


def with_password(url: str, password: str) -> str:
    """Put a password into a URL that has none."""
    parts = urlsplit(url)
    user = unquote(parts.username or "")
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{place}").geturl()


BaseUrl = Annotated[str, AfterValidator(check_base_url)]
Count = Annotated[int, Field(gt=0)]
StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
Parties = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_check_parties)]
WebhookUrl = Annotated[str, AfterValidator(_check_webhook_url)]
BrokerUrl = Annotated[str, AfterValidator(_check_broker_url)]
HeaderName = Annotated[str, AfterValidator(_check_header_name)]
Networks = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_check_networks)]
Duration = Annotated[float, Field(gt=0)]  # in the unit that the setting's name ends with


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Platform(Section):
    """Who we are."""

    identity: str = Field(description="our Platform Identity: a domain name of ours (R.01.01.02)")
    base_url: BaseUrl = Field(description="where partners reach us; a reverse proxy's path prefix is part of it")


class Listener(Section):
    """The mutual-TLS listener that partners talk to."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 or :: for all of this machine's")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8443, description="0: any that is free")
    path: str = Field(default="", description="path below which we serve; empty: the path of base_url")
    certificate: str = Field(default="tls/server-chain.pem", description="server certificate, leaf first")
    key: str = Field(default="tls/server-key.pem", description="its private key, mode 0600")
    body_max_bytes: Count = Field(default=4 * 1024 * 1024, description="the largest real Locations have under 1 MB")
    head_timeout_s: Duration = Field(
        default=10.0, description="a request's head arrives within this; slower ones hold a connection for nothing"
    )
    body_timeout_s: Duration = Field(default=20.0, description="a request's body arrives within this: 4 MB at 2 Mbit/s")
    idle_timeout_s: Duration = Field(default=75.0, description="longer than a peer keeps a connection")
    connections_max: Count = Field(default=4096, description="some 250 MB when all are open, at 60 KB each with TLS")
    requests_per_platform_max: Count = Field(
        default=256, description="in progress at once from one platform; sixteen subscriptions at parallelism 16"
    )
    client_certificate_header: HeaderName = Field(
        default="",
        description="empty: off; Client-Cert: a proxy ends TLS and hands on client certificates in this header",
    )
    proxy_addresses: Networks = Field(
        default=(), description="of that proxy, addresses or networks: nobody else is answered, or believed"
    )
    proxy_tls: bool = Field(
        default=False, description="that proxy speaks TLS to us, too; false: plain HTTP, and it must be near"
    )

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Where requests come from that were taken in by a proxy."""
        return tuple(map(ip_network, self.proxy_addresses))

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if not self.client_certificate_header:
            if self.proxy_addresses or self.proxy_tls:
                raise ValueError("proxy_addresses and proxy_tls need client_certificate_header: name that header, too")
            return self
        if not self.proxy_addresses:
            raise ValueError(
                "client_certificate_header needs proxy_addresses: whoever may send that header may call himself any "
                "partner, so write where the proxy is"
            )
        far = [network for network in self.proxy_networks if not self.proxy_tls and not _is_near(network)]
        if far:
            raise ValueError(
                f"proxy_addresses: {far[0]} is not a private network, and plain HTTP would cross it: "
                "let the proxy speak TLS to us, and set proxy_tls"
            )
        return self


class Peers(Section):
    """Requests that we make to partners."""

    request_timeout_ms: Annotated[int, Field(ge=1_000, le=120_000)] = Field(
        default=10_000, description="announced in the handshake: how long a partner waits for us (B30)"
    )
    request_timeout_max_ms: Annotated[int, Field(ge=1_000, le=120_000)] = Field(
        default=120_000, description="the longest that we let a partner make us wait (B19)"
    )
    connect_timeout_s: Duration = Field(
        default=5.0, description="TCP and TLS to a partner; whoever takes longer is not there"
    )
    response_max_bytes: Count = Field(
        default=8 * 1024 * 1024, description="answers are envelopes; the longest is a hub's list of 20 000 parties"
    )
    idle_timeout_s: Duration = Field(
        default=10.0, description="shorter than a partner keeps a connection, so that no request meets its end"
    )
    allow_private_addresses: bool = Field(
        default=False, description="partners on private or loopback addresses (tests, demos)"
    )
    parties_refresh_s: Duration = Field(
        default=3600.0, description="fetch a partner's parties this often: the hour until a party that left is noticed"
    )
    parties_refresh_min_s: Annotated[float, Field(ge=0)] = Field(
        default=5.0,
        description="at most this often when an unknown party turns up, so that a stranger cannot make us ask",
    )
    parties_max: Count = Field(
        default=20_000, description="more parties of one partner are left out, so that no list fills the memory"
    )


class Subscriptions(Section):
    """What we ask for as a consumer, and allow as a producer."""

    retry_interval_s: Duration = Field(
        default=5.0, description="asked for, unless told otherwise: the pause after a first failure; it doubles"
    )
    parallelism_limit: Count = Field(
        default=8, description="asked for, unless told otherwise: what we take at once in one subscription"
    )
    parallelism_max: Count = Field(
        default=64, description="the most requests that we send at once for one, whatever it asks for"
    )
    queue_size_max: Count = Field(
        default=1_000_000,
        description="objects owed before a subscription is cancelled (B24); they cost a log entry each",
    )
    snapshot_days: Duration = Field(
        default=90.0,
        description="a snapshot leaves out what was over longer ago (D20): a quarter, in which bills are settled",
    )
    retry_interval_max_s: Duration = Field(
        default=86_400.0, description="longer ones are refused, so that dates stay finite"
    )
    state_check_s: Duration = Field(
        default=3600.0, description="ask a producer for its state this often, in case it lost the subscription (B29)"
    )
    ask_again_s: Duration = Field(default=5.0, description="first pause when a subscribe is not answered; doubles")
    ask_again_max_s: Duration = Field(default=300.0, description="longest pause when a subscribe is not answered")
    refused_again_s: Duration = Field(default=86_400.0, description="ask again this long after a refusal (B29)")
    overflow_again_s: Duration = Field(
        default=60.0, description="first pause after QUEUE_OVERFLOW; doubles up to a day"
    )
    notice_again_s: Annotated[float, Field(gt=0)] = Field(
        default=5.0, description="first pause before a cancellation is told again; doubles"
    )
    notice_again_max_s: Annotated[float, Field(gt=0)] = Field(
        default=3600.0, description="longest pause: a receiver may be away for months, and is told within the hour"
    )


class Replication(Section):
    """The push workers."""

    window_min: Count = Field(default=64, description="objects read ahead by a worker: one page of the walk")
    watermark_save_s: Duration = Field(default=2.0, description="a crash repeats at most this much")
    booking_margin_s: Duration = Field(default=2.0, description="a booked retry is sent within this or booked again")
    heartbeat_s: Duration = Field(
        default=30.0, description="a quiet log shows its end this often, in case its last segment was lost"
    )
    accept_batch_max: Count = Field(
        default=512, description="received updates that share one commit: bounds the longest"
    )
    probe_pause_max_s: Duration = Field(default=60.0, description="longest pause between probes (B6)")
    down_after_failures: Count = Field(
        default=3, description="failed connections in a row until a platform counts as down"
    )
    stop_deadline_s: Duration = Field(
        default=15.0, description="a graceful stop waits this long for answers; longer than request_timeout_ms"
    )
    overflow_check_s: Duration = Field(
        default=2.0, description="look for full queues this often; each look counts what is owed"
    )
    lease_s: Duration = Field(
        default=5.0, description="how long a process that is gone still counts as owner; renewed every third of it"
    )


class Calls(Section):
    """Remote procedure calls."""

    result_within_s: Duration = Field(
        default=300.0,
        description="ours: without a result by then they have timed out; longer than devices take, and their CPOs wait",
    )
    conclude_within_s: Duration = Field(
        default=120.0, description="partners': the back office has this long for a result, then TIMEOUT is told"
    )
    hand_over_again_s: Duration = Field(
        default=1.0, description="first pause when the back office did not take a call; doubles until it times out"
    )
    callback_again_s: Duration = Field(default=1.0, description="first pause when a result was not taken; doubles")
    callback_again_max_s: Duration = Field(
        default=3600.0, description="longest pause: a partner that is back hears within the hour"
    )
    callback_give_up_h: Duration = Field(default=168.0, description="a result is owed this long (B34)")
    callbacks_at_once: Count = Field(
        default=8, description="results on their way to one platform; a partner takes as many updates at once"
    )
    open_max: Count = Field(
        default=10_000, description="calls of one platform that wait for a result; more are answered with 429"
    )
    keep_days: Duration = Field(
        default=90.0, description="calls that ended are kept this long: a quarter, in which bills are settled"
    )


class Backoffice(Section):
    """The systems of the parties hosted here, which carry out what partners ask of them."""

    kind: Literal["none", "stream", "webhook", "simulated"] = Field(
        default="none",
        description="stream: who follows /api/v1/events concludes calls; webhook: each is posted; simulated: a sandbox",
    )
    parties: Parties = Field(default=(), description="of the parties hosted here, those that this is for; empty: all")
    webhook_url: WebhookUrl = Field(default="", description="https://, or http:// in a private network")
    webhook_secret_file: str = Field(
        default="", description="holds the signing secret, whsec_… (Standard Webhooks), or several, one a line"
    )
    webhook_timeout_s: Duration = Field(
        default=5.0, description="for one attempt: below request_timeout_ms, in which the partner waits for an answer"
    )
    webhook_answer_max_bytes: Count = Field(default=1024 * 1024, description="longer answers are none")
    authorize: Literal["tokens", "webhook"] = Field(
        default="tokens", description="who answers tokens/authorize: the Tokens issued here, or the webhook"
    )
    simulated_speed: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="how much faster simulated stations are than real ones; beyond 1000 nothing is seen"
    )
    simulated_drivers: bool = Field(
        default=True, description="somebody plugs in where a simulated session waits for a cable, and leaves after it"
    )

    @model_validator(mode="after")
    def _check_webhook(self) -> Self:
        if self.kind == "webhook" and not (self.webhook_url and self.webhook_secret_file):
            raise ValueError("kind webhook needs webhook_url and webhook_secret_file")
        if self.authorize == "webhook" and self.kind != "webhook":
            raise ValueError('authorize webhook needs kind = "webhook"')
        return self


class Store(Section):
    """The database."""

    url: StoreUrl = Field(
        default="", description="empty: SQLite in the platform's folder; PostgreSQL: postgresql://USER@HOST:5432/NAME"
    )
    password_file: str = Field(default="", description="holds the password, so that no settings file has to")
    mark_s: Duration = Field(
        default=10.0,
        description="the database is marked anew this often; one that is older by less is not noticed by itself",
    )


class Broker(Section):
    """The queues of subscriptions: in this process's memory, or in RabbitMQ."""

    url: BrokerUrl = Field(
        default="", description="empty: in memory; RabbitMQ: amqp://USER@HOST:5672/VHOST, or amqps:// and port 5671"
    )
    password_file: str = Field(default="", description="holds the password, so that no settings file has to")
    ca_file: str = Field(default="", description="amqps: whom to trust; empty: the system's authorities")
    certificate: str = Field(default="", description="amqps: our client certificate, if it wants one")
    key: str = Field(default="", description="its private key")
    queue_type: Literal["classic", "quorum"] = Field(
        default="classic", description="quorum: replicated in a cluster, and dearer; nothing is lost either way"
    )
    name_prefix: str = Field(default="", description="of exchanges and queues; empty: ocpi, a dot and our identity")
    queue_length_max: Count = Field(
        default=1000, description="commits that wait for one subscription; further behind, reading the log is cheaper"
    )
    prefetch: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=64, description="commits that RabbitMQ hands over ahead, for each subscription"
    )
    timeout_s: Duration = Field(default=10.0, description="a declaration or confirm that takes longer has failed")


class Api(Section):
    """The local API."""

    listen: str = Field(default="unix:run/api.sock", description="unix:PATH or 127.0.0.1:PORT")
    token_file: str = Field(default="run/api-token", description="the operator's bearer token, mode 0600")
    body_max_bytes: Count = Field(default=64 * 1024 * 1024, description="a batch of objects: some 25 000 Locations")
    page_max: Count = Field(default=1000, description="objects in one page: a few MB of Locations")


class Certificates(Section):
    """Client certificates that we issue, and renewal of those issued to us."""

    lifetime_days: Duration = Field(
        default=365.0, description="of a client certificate that we issue; renewal is automatic"
    )
    renew_automatically: bool = Field(
        default=True, description="ask for new ones in time (B37), and issue them when asked"
    )
    check_s: Duration = Field(default=3600.0, description="look for certificates to renew this often")
    answer_within_h: Duration = Field(
        default=168.0, description="how long a partner may take to answer our renewal request (R.01.04.04)"
    )


class Logs(Section):
    """What the process says."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug: a line for each request; error: only what needs somebody"
    )
    format: Literal["text", "json"] = Field(default="text", description="json: one object a line, for collectors")


class Settings(Section):
    """Everything that can be set, with its default."""

    platform: Platform
    listener: Listener = Listener()
    peers: Peers = Peers()
    subscriptions: Subscriptions = Subscriptions()
    replication: Replication = Replication()
    calls: Calls = Calls()
    backoffice: Backoffice = Backoffice()
    store: Store = Store()
    broker: Broker = Broker()
    api: Api = Api()
    certificates: Certificates = Certificates()
    logs: Logs = Logs()

    @property
    def serving_path(self) -> str:
        """The path prefix that requests arrive with, without a slash at its end."""
        return (self.listener.path or urlsplit(self.platform.base_url).path).rstrip("/")


class PlatformFolder:
    """A platform's folder: where its settings, keys, authority and database are."""

    def __init__(self, root: Path) -> None:
        """Take the folder's path; nothing is read yet."""
        self.root = root.absolute()

    @property
    def settings_file(self) -> Path:
        """The settings."""
        return self.root / SETTINGS_FILE

    @property
    def keys(self) -> Path:
        """Our private keys for certificates that partners issued, mode 0600 each."""
        return self.root / "keys"

    @property
    def authority(self) -> Path:
        """The authority that issues client certificates to partners."""
        return self.root / "authority"

    @property
    def tls(self) -> Path:
        """The server certificate."""
        return self.root / "tls"

    @property
    def run(self) -> Path:
        """Socket, token and lock of a running platform."""
        return self.root / "run"

    @property
    def mark_file(self) -> Path:
        """The marks by which we know our database; one that has another is an older one."""
        return self.root / "database-marks.json"

    def path(self, text: str) -> Path:
        """Resolve a path of the settings, relative to the folder."""
        return self.root / text

    def database_url(self, settings: Settings) -> str:
        """Name the database: the one that is set, or SQLite in this folder.

        Raises ``BadSettings`` for a password file that cannot be read.
        """
        store = settings.store
        if not store.url:
            return f"sqlite+aiosqlite:///{self.root / 'engine.sqlite'}"
        password = self.secret(store.password_file, "[store] password_file")
        return store.url if password is None else with_password(store.url, password)

    def secret(self, file: str, setting: str) -> str | None:
        """Read a secret that stands in a file by itself; None if no file is named.

        Raises ``BadSettings``, naming the setting that names the file.
        """
        if not file:
            return None
        try:
            return self.path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"{setting} cannot be read: {error}") from error

    def settings(self, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        Raises ``BadSettings`` with all problems.
        """
        if not self.settings_file.exists():
            msg = f"{self.root} holds no platform: make one with `ocpi-engine init {self.root} --identity … --party …`"
            raise BadSettings(msg)
        try:
            values = tomllib.loads(self.settings_file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{self.settings_file}: {error}"
            raise BadSettings(msg) from error
        return read_settings(values, environment)


def read_settings(values: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Check values of a settings file, overridden by the environment.

    Raises ``BadSettings`` with all problems.
    """
    merged = {name: dict(section) if isinstance(section, dict) else section for name, section in values.items()}
    for name, value in environment.items():
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and separator and isinstance(merged.setdefault(section, {}), dict):
            merged[section][key] = value
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise BadSettings("the settings cannot be used:\n" + "\n".join(map(_in_words, error.errors()))) from error


def _in_words(problem: Mapping[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"  {name}: there is no such setting; deploy/engine.toml lists them all"
    return f"  {name}: {problem['msg'].removeprefix('Value error, ')}"


def _is_near(network: IPv4Network | IPv6Network) -> bool:
    first, last = network[0], network[-1]
    return any(first in near and last in near for near in PLAIN_HTTP_NETWORKS)


def is_private(address: str) -> bool:
    """Say whether an IP address is one that the public internet does not route."""
    return not ip_address(address).is_global
