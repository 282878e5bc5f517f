"""Lines of the log: one for each event, with the exchange that it belongs to, and counted where it matters."""

import asyncio
import io
import json
import logging
import uuid

import pytest

from engine import logs


@pytest.fixture
def written():
    """A stream that the root logger writes to, and everything back as it was afterwards."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    stream = io.StringIO()
    yield stream
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_a_line_of_text_is_one_line_whatever_is_in_it(written):
    """Line ends and controls in messages and fields are escaped: nobody forges a second line."""
    logs.set_up("info", "text", written)

    logging.getLogger("engine.x").info("hello %s", "a\nb", extra={"action": "greet", "path": "/\r\n\x1b[31m\u2028"})

    (line,) = written.getvalue().splitlines()
    assert line.endswith(r"INFO    engine.x: hello a\x0ab action=greet path=/\x0d\x0a\x1b[31m\x2028")


def test_a_line_of_json_carries_all_fields_and_the_trace(written):
    """Fields by name, the exchange, and the exception."""
    logs.set_up("info", "json", written)

    def fail():
        logs.enter("r", "c", "emsp.example.org")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logging.getLogger("engine.x").exception("oh", extra={"action": "failed", "odd": {1}})

    asyncio.run(asyncio.to_thread(fail))

    line = json.loads(written.getvalue())
    assert (line["level"], line["logger"], line["message"], line["action"]) == ("error", "engine.x", "oh", "failed")
    assert (line["request_id"], line["correlation_id"], line["platform"]) == ("r", "c", "emsp.example.org")
    assert "ZeroDivisionError" in line["exception"]
    assert line["odd"] == "{1}"


def test_levels_are_kept_and_libraries_are_quiet(written):
    """What is below the level is not written, nor what libraries tell of their daily work."""
    logs.set_up("warning", "text", written)
    logging.getLogger("engine.x").info("not this")
    logs.set_up("debug", "text", written)
    logging.getLogger("sqlalchemy.engine").info("nor this")
    logging.getLogger("engine.x").debug("this")

    assert [line.split(": ")[1] for line in written.getvalue().splitlines()] == ["this"]


def test_security_events_are_warnings_and_are_counted(caplog):
    """By platform and action; a field may be called as a record's own is."""
    events = logs.SecurityEvents()
    events.note("refused", "a", 1.0)
    events.note("refused", "a", 2.0)
    logs.security_event("refused", "no", platform="b.example.org", module="locations")

    (record,) = caplog.records
    assert (record.levelname, record.name, record.platform) == ("WARNING", "engine.security", "b.example.org")
    assert events.counts() == {"a": {"refused": {"count": 2, "last_at": 2.0}}}
    assert logs.security_counts()["b.example.org"]["refused"]["count"] == 1


def test_strangers_cannot_fill_the_counters(monkeypatch):
    """Beyond a limit all share one entry."""
    monkeypatch.setattr(logs, "PLATFORMS_COUNTED_MAX", 2)
    events = logs.SecurityEvents()
    for number in range(10):
        events.note("refused", f"p{number}", 0.0)

    assert set(events.counts()) == {"p0", "p1", logs.UNKNOWN_PLATFORM}


@pytest.mark.requirement("R.02.02.12", "R.02.02.14")
def test_new_ids_are_random_uuids():
    """Version 4, and never twice the same."""
    made = {logs.new_id() for _ in range(1000)}

    assert len(made) == 1000
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in made} == {(4, uuid.RFC_4122)}
    assert all(str(uuid.UUID(each)) == each for each in made)
