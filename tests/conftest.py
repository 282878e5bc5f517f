"""What holds for all tests."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.database import BACKENDS

# No deadline for one example: the machine that runs this also runs the other half of the tests.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker a session of its own.

    Linux shares the CPU out to sessions first (``sched_autogroup_enabled``). Within one, all workers and what they run
    would have together what a single process has that a test put into another session, as a demo does.
    """
    if hasattr(config, "workerinput"):
        with contextlib.suppress(PermissionError):  # it leads a session already
            os.setsid()


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def database_url(request, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, of each kind in turn."""
    async with request.param.make(tmp_path) as url:
        yield url
