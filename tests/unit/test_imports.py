"""Imports run one way, and each library has one home.

    __main__ → cli → supervisor → app → server → {backoffice, federation} → {replication, relay} → {store, peers}
        → {settings, clock, lifecycle, logs, samples} → protocol

Whatever stands further left may import whatever stands further right; names in braces do not import each
other. `brokers` and `certs` stand beside all this: they import nothing of `engine` and not each other.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("engine", "brokers", "certs")

LAYERS = [  # from the bottom up
    {"protocol"},
    {"settings", "clock", "lifecycle", "logs", "samples", "faults", "refusals"},
    {"store", "peers"},
    {"registration"},
    {"replication", "relay"},
    {"backoffice", "federation"},
    {"server"},
    {"app"},
    {"supervisor"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}

HOMES = {  # library → the only places that import it
    "aio_pika": ["brokers/rabbitmq"],
    "aiohttp": ["engine/server", "engine/peers"],
    "aiormq": ["brokers/rabbitmq"],
    "aiosqlite": ["engine/store"],
    "alembic": ["engine/store"],
    "click": ["engine/cli", "engine/__main__.py"],
    "cryptography": ["certs"],
    "fastapi": ["engine/server/operator"],
    "httpx": ["engine/backoffice", "engine/cli"],
    "msgspec": ["engine"],
    "multidict": ["engine/server", "engine/peers"],
    "pamqp": ["brokers/rabbitmq"],
    "pydantic": ["engine/settings.py", "engine/server/operator"],
    "rich": ["engine/cli", "engine/__main__.py"],
    "sqlalchemy": ["engine/store"],
    "sqlite3": ["engine/store"],
    "starlette": ["engine/server/operator"],
    "typer": ["engine/cli", "engine/__main__.py"],
    "uvicorn": ["engine/server/operator"],
    "yarl": ["brokers/rabbitmq", "engine/server", "engine/peers"],
}

IMPURE = {  # what would give the protocol a clock, a die or a wire
    *("asyncio", "http", "io", "logging", "os", "pathlib", "random", "secrets", "selectors", "socket", "ssl"),
    *("subprocess", "tempfile", "threading", "time"),
}


def imported(tree: ast.AST, file: PurePosixPath) -> Iterator[tuple[int, str]]:
    """Every module that the tree imports, by its full name, with its line; also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [".".join(file.parts[: -node.level])] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def unit_of(file: PurePosixPath) -> str:
    """Which member of a layer a file of `engine` belongs to; empty for `engine/__init__.py`."""
    return "" if str(file) == "engine/__init__.py" else file.parts[1].removesuffix(".py")


def objection(file: PurePosixPath, name: str) -> str | None:
    """Say why this file must not import this module, if it must not."""
    package, _, rest = name.partition(".")
    if package in PACKAGES:
        return objection_to_own(file, package, rest.partition(".")[0])
    if package in {"tests", "benchmarks"}:
        return f"{name} is not installed with the engine"
    if package in HOMES:
        if any(file.is_relative_to(home) for home in HOMES[package]):
            return None
        return f"{package} is imported only in {', '.join(HOMES[package])}"
    if package not in sys.stdlib_module_names:
        return f"{package} has no home: name one in HOMES"
    if package in IMPURE and file.is_relative_to("engine/protocol"):
        return f"the protocol gets values and never asks for them; it does not import {package}"
    return None


def objection_to_own(file: PurePosixPath, package: str, unit: str) -> str | None:
    """The same for a module of our own."""
    importer = file.parts[0]
    if package != "engine":
        if importer in {"engine", package} and not file.is_relative_to("engine/protocol"):
            return None
        return f"{importer} does not import {package}" if importer != "engine" else "the protocol imports itself only"
    if importer != "engine":
        return f"{importer} imports nothing of engine"
    mine = unit_of(file)
    if unit not in HEIGHT:
        return f"engine.{unit} has no place in the order: name it in LAYERS"
    if mine == unit or (mine in HEIGHT and HEIGHT[mine] > HEIGHT[unit]):
        return None
    return f"engine.{mine or '__init__'} does not import engine.{unit}"


def objections(path: str, source: str) -> list[str]:
    """Everything that is wrong with the imports of one file."""
    file = PurePosixPath(path)
    tree = ast.parse(source)
    found = [(line, objection(file, name)) for line, name in imported(tree, file)]
    if file.is_relative_to("engine/protocol"):
        found += [
            (node.lineno, "the protocol never awaits")
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef)
        ]
    return [f"{path}:{line}: {why}" for line, why in found if why]


def test_imports_run_one_way_and_libraries_stay_at_home():
    """No file of the three packages imports what it must not."""
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    assert files

    found = [line for file in files for line in objections(file.relative_to(REPOSITORY).as_posix(), file.read_text())]

    assert not found, "\n" + "\n".join(found)


def test_every_unit_has_its_place():
    """A new file or folder in `engine` is named in the order, so that nobody forgets to think about it."""
    units = {unit_of(PurePosixPath(f"engine/{entry.name}")) for entry in (REPOSITORY / "engine").iterdir()}

    assert units - {"", "__pycache__"} <= HEIGHT.keys()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engine/app.py", "from engine.server.site import Site"),
        ("engine/cli/state.py", "import engine.protocol.errors"),
        ("engine/__main__.py", "from engine.cli import main\nimport typer"),
        ("engine/server/objects.py", "from engine.store import objects\nimport aiohttp.web"),
        ("engine/server/operator/api.py", "from fastapi import FastAPI\nfrom engine.server import site"),
        ("engine/store/objects.py", "from . import tables\nfrom .tables import objects\nimport sqlalchemy"),
        ("engine/replication/push.py", "import asyncio\nfrom brokers.base import Taken"),
        ("engine/protocol/objects.py", "import msgspec\nfrom engine.protocol import errors\nimport re"),
        ("certs/policy.py", "from cryptography import x509\nfrom certs import names"),
        ("brokers/embedded.py", "from brokers.base import Taken"),
    ],
)
def test_what_is_allowed(path, source):
    """Downwards, within one unit, and a library at home."""
    assert objections(path, source) == []


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("engine/store/objects.py", "import engine.server", "engine.store does not import engine.server"),
        ("engine/store/objects.py", "from engine import app", "engine.store does not import engine.app"),
        ("engine/store/objects.py", "from engine.peers import client", "does not import engine.peers"),
        ("engine/store/objects.py", "from ..peers import client", "does not import engine.peers"),
        ("engine/store/objects.py", "from .. import peers", "does not import engine.peers"),
        ("engine/store/objects.py", "def f():\n    import engine.cli", ":2: engine.store does not"),
        ("engine/replication/push.py", "import engine.relay.calls", "does not import engine.relay"),
        ("engine/federation/link.py", "import engine.backoffice", "does not import engine.backoffice"),
        ("engine/clock.py", "from engine.settings import Settings", "does not import engine.settings"),
        ("engine/samples/places.py", "from engine.clock import Clock", "does not import engine.clock"),
        ("engine/protocol/errors.py", "import engine.clock", "does not import engine.clock"),
        ("engine/protocol/errors.py", "import certs.names", "the protocol imports itself only"),
        ("engine/protocol/errors.py", "import time", "does not import time"),
        ("engine/protocol/errors.py", "async def f(): ...", "the protocol never awaits"),
        ("engine/server/site.py", "from engine.app import App", "does not import engine.app"),
        ("engine/__init__.py", "from engine.app import App", "engine.__init__ does not import engine.app"),
        ("engine/store/objects.py", "from engine.helpers import x", "engine.helpers has no place"),
        ("engine/cli/state.py", "from engine.__main__ import main", "does not import engine.__main__"),
        ("brokers/embedded.py", "from engine.clock import Clock", "brokers imports nothing of engine"),
        ("brokers/embedded.py", "import certs.tls", "brokers does not import certs"),
        ("certs/tls.py", "import engine", "certs imports nothing of engine"),
        ("engine/peers/client.py", "from tests.support import x", "is not installed with the engine"),
        ("engine/replication/push.py", "from sqlalchemy import select", "only in engine/store"),
        ("engine/cli/state.py", "import aiohttp", "only in engine/server, engine/peers"),
        ("engine/server/site.py", "import fastapi", "only in engine/server/operator"),
        ("engine/server/registration.py", "import cryptography.x509", "only in certs"),
        ("engine/peers/client.py", "import httpx", "only in engine/backoffice, engine/cli"),
        ("engine/app.py", "import rich.table", "only in engine/cli"),
        ("engine/protocol/scalars.py", "import pydantic", "only in engine/settings.py"),
        ("engine/settings_more.py", "import pydantic", "only in engine/settings.py"),
        ("brokers/embedded.py", "import aio_pika", "only in brokers/rabbitmq"),
        ("engine/store/objects.py", "import psycopg", "psycopg has no home"),
    ],
)
def test_what_is_not_allowed(path, source, why):
    """Every rule above is seen to bite."""
    (found,) = objections(path, source)

    assert found.startswith(path)
    assert why in found
