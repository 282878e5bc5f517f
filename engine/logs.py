"""What the process says: lines of text for people, or of JSON for machines, each with the exchange it belongs to.

``logging.getLogger(__name__)`` everywhere; ``extra={"action": …}`` names what happened, for filters and tests.
Whoever takes in a request calls ``enter`` once; every line that is written while it is handled then carries the
request id, the correlation id and the platform.

Refusals that someone should look at go through ``security_event``: one line on ``engine.security``, and a count
per platform that the state endpoint shows.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from random import SystemRandom
from typing import Any, Final, Literal, NamedTuple, TextIO

SECURITY: Final = logging.getLogger("engine.security")
PLATFORMS_COUNTED_MAX: Final = 10_000  # distinct names in the counters; certificates that we issued are fewer
UNKNOWN_PLATFORM: Final = "unknown"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
# One line of a log is one event, whatever a peer writes into the fields of it.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


class Exchange(NamedTuple):
    """The request that is being handled."""

    request_id: str = ""
    correlation_id: str = ""
    platform: str = ""


_NONE: Final = Exchange()
current: Final[ContextVar[Exchange]] = ContextVar("exchange", default=_NONE)
"""The exchange that the running task works for."""


def enter(request_id: str, correlation_id: str, platform: str) -> None:
    """Let the lines of this task carry these, from here on."""
    current.set(Exchange(request_id, correlation_id, platform))


_bits = SystemRandom().getrandbits
_VERSION_AND_VARIANT: Final = ~((0xF000 << 64) | (0xC000 << 48)), (4 << 76) | (0x8000 << 48)


def new_id() -> str:
    """Make a random UUID for a request or a correlation (R.02.02.12, R.02.02.14)."""
    mask, bits = _VERSION_AND_VARIANT
    text = f"{_bits(128) & mask | bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# -- lines --------------------------------------------------------------------------------------------------


def set_up(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send every logger's lines, from this level on, to the stream (standard error unless told otherwise)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Libraries tell of every connection; what matters of that is said here in our own words.
    for name in ("aiohttp", "aiosqlite", "asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("aio_pika", "aiormq"):  # a RabbitMQ that restarts is a page of their tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as ``extra``, and the exchange."""
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    exchange = current.get()
    if exchange is not _NONE:
        fields = {**{name: value for name, value in exchange._asdict().items() if value}, **fields}
    return fields


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """``time LEVEL logger: message name=value …``, one line for each event, a trace below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one event."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{record.levelname:<7} {record.name}: {record.getMessage()}{fields}".translate(_CONTROLS)
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{_moment(record)} {line}{trace}"


class JsonLines(logging.Formatter):
    """One JSON object for each event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one event."""
        line = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


# -- security -----------------------------------------------------------------------------------------------


class SecurityEvents:
    """How often what was refused to which platform."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._counts: dict[str, dict[str, list[float]]] = {}

    def note(self, action: str, platform: str, now: float) -> None:
        """Count one event; ``now`` in seconds since the epoch."""
        if platform not in self._counts and len(self._counts) >= PLATFORMS_COUNTED_MAX:
            platform = UNKNOWN_PLATFORM
        entry = self._counts.setdefault(platform, {}).setdefault(action, [0, now])
        entry[0] += 1
        entry[1] = now

    def counts(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Return ``{platform: {action: {"count": …, "last_at": seconds since the epoch}}}``."""
        return {
            platform: {
                action: {"count": int(count), "last_at": last_at} for action, (count, last_at) in actions.items()
            }
            for platform, actions in self._counts.items()
        }


events: Final = SecurityEvents()


def security_event(action: str, message: str, *, platform: str = "", **fields: object) -> None:
    """Tell of a refusal: a warning on ``engine.security`` with these fields, and one more in the counters.

    ``action`` is a short name that stays the same, ``platform`` the Platform Identity that it came from.
    """
    platform = platform or current.get().platform or UNKNOWN_PLATFORM
    events.note(action, platform, time.time())
    # A field that a log record has of its own (`module`) gets an underscore.
    named = {name + "_" if name in _STANDARD else name: value for name, value in fields.items()}
    SECURITY.warning(message, extra={**named, "action": action, "platform": platform})


def security_counts() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Return what was counted since the process began, for the state endpoint."""
    return events.counts()
