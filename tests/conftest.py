"""What holds for all tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.database import BACKENDS

# No deadline for one example: the machine that runs this also runs the other half of the tests.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def database_url(request, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, of each kind in turn."""
    async with request.param.make(tmp_path) as url:
        yield url
