"""The command line, as far as it goes without a platform."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer.main

from engine.cli import objects, output, validate
from engine.cli.api import _lines
from engine.cli.failure import Failure
from engine.cli.main import app, run
from engine.cli.state import _laid_out
from engine.protocol import modules
from engine.protocol.modules.module import Replacement

GOOD = '{"status":"AVAILABLE"}'
BAD = '{"status":"SLEEPING"}'


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, by the words that call it."""
    for name, command in typer.main.get_group(app).commands.items():
        for sub_name, sub_command in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub_name}".strip(), sub_command


def test_every_command_has_help_and_json():
    """Each says what it does, each argument and option what it is, and each can answer in JSON."""
    for name, command in commands():
        assert command.help, name
        assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == [], name
        if name != "demo":
            assert "--json" in [option for parameter in command.params for option in parameter.opts], name


def test_the_help_of_replace_says_what_happens_in_each_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In the words of the modules that replace their objects, and of no others."""
    tariffs, locations = modules.registry["tariffs"], modules.registry["locations"]
    told = Replacement(summary="All good things come to an end.", make=lambda _old, _wanted, _related, _now: [])
    monkeypatch.setattr(modules, "all_modules", lambda: (replace(tariffs, replacement=told), locations))

    assert run(["replace", "--help"]) == 0

    assert " ".join(capsys.readouterr().out.split()).endswith("tariffs: All good things come to an end.")


def test_the_folder_comes_first():
    """The first argument of every command is the platform's folder, but where there is none."""
    for name, command in commands():
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        assert name in {"demo", "validate", "schema"} or arguments[0].name == "folder", name


def test_help_is_there_at_once():
    """The help needs none of the large libraries: a command loads only what it needs."""
    code = (
        "import sys; from engine.cli.main import run; run(['--help']);"
        "print([name for name in ('httpx', 'pydantic', 'sqlalchemy', 'aiohttp', 'fastapi', 'cryptography', 'msgspec')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "validate" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish"],
        ["nothing"],
        ["state", "--colour"],
        ["init", "DIR"],
        ["init", "DIR", "--identity", "cpo.example.org", "--party", "BEBEC", "--listen", "here"],
        ["init", "DIR", "--identity", "cpo.example.org", "--party", "BEBEC", "--server-key", "/nowhere/key.pem"],
        ["renegotiate", "DIR", "in-1"],
        ["parties", "rename", "DIR", "BEBEC"],
    ],
)
def test_wrong_use_is_2(arguments, capsys):
    """Missing arguments, unknown commands and options end with 2, and the usage is shown."""
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.err + captured.out


def test_a_folder_without_a_platform_is_refused_with_a_way_out(tmp_path, capsys):
    """What is refused ends with 1 and says what to do; with --json as JSON."""
    assert run(["state", str(tmp_path)]) == 1
    assert "ocpi-engine init" in capsys.readouterr().err

    assert run(["state", str(tmp_path), "--json"]) == 1
    assert "ocpi-engine init" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_init_makes_a_platform_once(tmp_path, capsys):
    """A folder is made with all that a platform needs; a second time it is refused, and nothing is changed."""
    folder = tmp_path / "cpo"
    words = ["init", str(folder), "--identity", "cpo.example.org", "--party", "BEBEC", "--listen", "127.0.0.1:9443"]
    assert run([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["base_url"] == "https://cpo.example.org:9443/ocpi"
    assert Path(made["server_ca"]).read_text().startswith("-----BEGIN CERTIFICATE")
    settings = (folder / "engine.toml").read_text()

    assert run(words) == 1
    assert "holds a platform already" in capsys.readouterr().err
    assert (folder / "engine.toml").read_text() == settings

    assert run(["state", str(folder)]) == 1
    assert f"ocpi-engine serve {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"--identity": "not a domain"},
        {"--party": "X"},
        {"--role": "KING"},
        {"--base-url": "http://cpo.example.org"},
    ],
)
def test_init_leaves_nothing_behind_when_it_is_refused(tmp_path, capsys, change):
    """A value that cannot be used is named, and no half a folder stays."""
    options = {"--identity": "cpo.example.org", "--party": "BEBEC"} | change
    folder = tmp_path / "cpo"
    code = run(["init", str(folder), *(word for option in options.items() for word in option)])

    assert "✗" in capsys.readouterr().err
    assert code == 1
    assert not folder.exists()


# validate


def test_validate_takes_files_of_every_kind(tmp_path, capsys):
    """A payload on one line or many, lines to publish, lines of payloads, an array of them: all are found."""
    names = ("a.json", "b.json", "c.ndjson", "d.txt", "e.json")
    pretty, single, lines, payloads, array = (tmp_path / name for name in names)
    pretty.write_text('{\n  "status":\n    "AVAILABLE"\n}\n')
    single.write_text(GOOD)
    lines.write_text(f'{{"id":"E1","payload":{GOOD}}}\n\n{{"id":"E2","payload":{GOOD}}}\n')
    payloads.write_text(f"{GOOD}\n{GOOD}\n")

    array.write_text(f"[{GOOD},\n {GOOD}]\n")

    assert run(["validate", "evsestatuses", *map(str, (pretty, single, lines, payloads, array))]) == 0
    assert "8 objects conform to EVSE Status" in capsys.readouterr().out
    assert run(["validate", "evsestatuses", str(single)]) == 0
    assert "1 object conforms to EVSE Status" in capsys.readouterr().out


def test_validate_says_where_and_what(tmp_path, capsys):
    """Each bad object is named by file, line and id, with the place of each problem; the exit code is 1."""
    file = tmp_path / "a.ndjson"
    file.write_text(
        f'{{"id":"E1","payload":{GOOD}}}\n{{"id":"E2","payload":{BAD}}}\nnonsense\n{{"payload":{GOOD}}}\n'
        f'{{"id":"{"x" * 37}","payload":{GOOD}}}\n'
        f'{{"id":"E6","payload":{{"status":"AVAILABLE","status":"CHARGING"}}}}\n'
    )
    assert run(["validate", "evsestatuses", str(file)]) == 1
    told = capsys.readouterr().err
    for words in (f"{file}:2 E2", "/status", '"SLEEPING"', ":3: not JSON", ":4: the line has no id", "36"):
        assert words in told
    assert "5 of 6 objects do not conform to EVSE Status" in told

    assert run(["validate", "evsestatuses", str(file), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], answer["invalid"]) == (1, 5)
    assert answer["results"][0]["problems"][0]["pointer"] == "/status"


def test_validate_can_be_tolerant(tmp_path, capsys):
    """What a tolerant platform takes is a warning (B23)."""
    file = tmp_path / "a.json"
    file.write_text(BAD)

    assert run(["validate", "evsestatuses", str(file)]) == 1
    capsys.readouterr()
    assert run(["validate", "evsestatuses", str(file), "--tolerant"]) == 0
    told = capsys.readouterr()
    assert "SLEEPING" in told.err
    assert "1 object conforms to EVSE Status, 1 with warnings" in told.out
    assert run(["validate", "evsestatuses", str(file), "--tolerant", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], answer["invalid"], answer["with_warnings"]) == (1, 0, 1)
    assert answer["results"][0]["warnings"][0]["pointer"] == "/status"


def test_validate_reads_standard_input(monkeypatch, capsys):
    """A minus sign is standard input."""
    monkeypatch.setattr("sys.stdin", _Stdin(BAD.encode()))

    assert run(["validate", "evsestatuses", "-"]) == 1
    assert "standard input" in capsys.readouterr().err


def test_validate_knows_its_modules(tmp_path, capsys):
    """An unknown module is refused with those that are known, a missing file with its name."""
    assert run(["validate", "nothing", "x"]) == 1
    assert "locations" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path, capsys):
    """Missing, a folder, empty, not text: each is told with its reason, and the others are looked at."""
    good, empty, noise, half = (tmp_path / name for name in ("good.json", "empty.json", "noise.json", "half.json"))
    good.write_text(GOOD)
    empty.write_bytes(b" \n\n")
    noise.write_bytes(bytes(range(128, 256)))
    half.write_text(GOOD[:-4])

    assert run(["validate", "evsestatuses", *map(str, (tmp_path / "missing", tmp_path, empty, noise, half, good))]) == 1

    told = capsys.readouterr().err
    for words in ("missing: No such file", "Is a directory", "nothing in it", "not valid UTF-8", "half.json: not JSON"):
        assert words in told
    assert "5 of 6 objects do not conform" in told


def test_what_is_longer_than_anybody_takes_is_not_looked_at(tmp_path, capsys):
    """Files of any length are read line by line, and an object beyond what `publish` takes costs nothing."""
    long = '{"status":"AVAILABLE","x":"%s"}' % ("x" * objects.LINE_BYTES_MAX)
    one, pretty, lines = (tmp_path / name for name in ("one.json", "pretty.json", "lines.ndjson"))
    one.write_text(long)
    pretty.write_text(long.replace(",", ",\n"))
    lines.write_text(f"{GOOD}\n{long}\n{BAD}\n" + f"{GOOD}\n" * 3)

    assert run(["validate", "evsestatuses", *map(str, (one, pretty, lines))]) == 1

    told = capsys.readouterr().err
    assert [line.split(": ")[0] for line in told.splitlines() if "longer than" in line] == [
        f"✗ {one}",
        f"✗ {pretty}",
        f"✗ {lines}:2",
    ]
    assert "4 of 8 objects do not conform" in told


def test_bad_objects_beyond_number_are_counted(tmp_path, capsys, monkeypatch):
    """So many are told about one by one, and the rest is a number; in JSON too."""
    monkeypatch.setattr(validate, "BAD_SHOWN_MAX", 2)
    file = tmp_path / "a.ndjson"
    file.write_text(f"{BAD}\n" * 5)

    assert run(["validate", "evsestatuses", str(file)]) == 1
    told = capsys.readouterr().err
    assert told.count("SLEEPING") == 2
    assert "and 3 objects more" in told
    assert run(["validate", "evsestatuses", str(file), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["invalid"], len(answer["results"])) == (5, 2)


def test_an_id_is_as_long_as_the_payload_lets_it(tmp_path, capsys, monkeypatch):
    """The module is asked, as when it is published."""
    short = replace(modules.registry["evsestatuses"], id_length_max=lambda payload: 3 if b"BLOCKED" in payload else 36)
    monkeypatch.setattr(modules, "module", lambda _name: short)
    file = tmp_path / "a.ndjson"
    file.write_text(
        "".join(f'{{"id":"E123","payload":{{"status":"{status}"}}}}\n' for status in ("BLOCKED", "AVAILABLE"))
    )

    assert run(["validate", "evsestatuses", str(file)]) == 1
    assert "a.ndjson:1 E123: an id has at most 3 characters" in capsys.readouterr().err


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = BytesIO(data)


# reading lines


def test_lines_are_read_in_large_requests():
    """A file becomes few requests, each with the numbers of its lines, none larger than is allowed."""
    lines = [b'{"id":"%d"}' % number for number in range(2000)]
    batches = list(objects._ReadAhead(BytesIO(b"\n\n".join(lines))))  # noqa: SLF001 - the reader alone

    assert [line for batch in batches for line in batch.lines] == lines
    assert [number for batch in batches for number in batch.numbers] == list(range(1, 4000, 2))
    assert max(len(batch.lines) for batch in batches) <= objects.BATCH_LINES_MAX


def test_a_slow_pipe_is_not_waited_for():
    """A line that came is handed on before the next one comes."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as pipe:
        batches = iter(objects._ReadAhead(source))  # noqa: SLF001 - the reader alone
        for number in range(3):
            pipe.write(b"line %d\r\n" % number)
            assert next(batches).lines == [b"line %d" % number]
        pipe.close()
        assert list(batches) == []


def test_a_line_without_end_is_passed_over(monkeypatch):
    """A line that is too long is not kept, and the others keep their numbers."""
    monkeypatch.setattr(objects, "LINE_BYTES_MAX", 10)
    batches = list(objects._ReadAhead(BytesIO(b"one\n" + b"x" * 95 + b"\nthree\n" + b"y" * 10)))  # noqa: SLF001

    assert [number for batch in batches for number in batch.too_long] == [2, 4]
    assert [number for batch in batches for number in batch.numbers] == [1, 3]
    assert sum(batch.read_bytes for batch in batches) == 4 + 96 + 6 + 10


def test_an_input_that_breaks_is_reported():
    """What goes wrong while reading is not mistaken for the end."""

    class Broken(BytesIO):
        def readline(self, _size: int | None = -1) -> bytes:
            raise OSError("the disk is gone")

    with pytest.raises(Failure, match="the disk is gone"):
        list(objects._ReadAhead(Broken()))  # noqa: SLF001 - the reader alone
    assert threading.active_count() >= 1


def test_events_are_split_at_line_feeds_only():
    """Separators that JSON allows in strings, such as U+2028, split no event."""
    text = 'data: {"x":"a\u2028b\u0085c\x0bd"}\n\n'.encode()
    pieces = [text[start : start + 3] for start in range(0, len(text), 3)]

    assert list(_lines(iter(pieces))) == [text[:-2], b""]


# what people see


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (1.44, "1.4 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (31_536_000, "365 d"),
        (None, None),
    ],
)
def test_time_spans_are_told_in_two_units(seconds, text):
    """As a person would say it."""
    assert output.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (2400, "2.4 kB"), (6_900_000, "6.9 MB")])
def test_sizes_are_told_in_fitting_units(count, text):
    """As a person would say it."""
    assert output.size(count) == text


def test_what_is_stuck_for_the_same_reason_is_one_line(capsys):
    """A hundred objects that wait for one partner are not a hundred lines."""
    stuck = [
        {
            "what": f"locations BEBEC L{number} for NLEMS at emsp.example.org",
            "subscription": 1,
            "since": "2026-05-01T00:00:00.000Z",
            "why": "refused: connection refused",
            "next_attempt_at": "2026-05-01T00:00:05.000Z",
        }
        for number in range(100)
    ]
    process = {"host": "one", "since": None, "subscriptions": 7, "periodic_work": ["parties"]}
    shown: dict[str, Any] = {
        "time": "2026-05-01T00:00:01.000Z",
        "processes": [process | {"pid": 11, "answers_this": False}, process | {"pid": 12, "answers_this": True}],
        "platforms": [],
        "subscriptions_here": [],
        "subscriptions_of_ours": [],
        "objects": {"issued": [], "received": []},
        "calls": {"asked": {"open": 0}, "received": {"open": 2, "oldest_since": None}, "results_owed": 1},
        "stuck": stuck,
    }
    output.reset()
    output.console().print(_laid_out(shown))

    told = capsys.readouterr().out
    assert "12 (answers this)" in told
    assert "2 of partners wait" in told
    assert "1 result owed" in told
    assert "stuck: 100" in told
    assert "L0 for NLEMS at emsp.example.org, and 99 more" in told
    assert told.count("refused: connection refused") == 1


def test_text_of_others_is_not_taken_for_markup(capsys):
    """Square brackets in what a partner said are shown as they are."""
    output.reset()
    output.print_table(["why"], [["[bold]boo[/bold] [/] \x1b[31m"]], none="")
    output.say("[red]x[/red]")

    assert "[bold]boo[/bold] [/]" in (told := capsys.readouterr().out)
    assert "[red]x[/red]" in told
    assert "\x1b" not in told
