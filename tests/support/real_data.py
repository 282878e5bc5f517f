"""Where the objects of a real operator are: beside the repository, never in it."""

import os
from pathlib import Path
from typing import Final

import pytest

BESIDE: Final = Path(__file__).parents[2].parent / "shared"
DATA: Final = Path(os.environ.get("OCPI_SHARED_DATA", BESIDE / "data"))

need_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no folder of real data at {DATA} (OCPI_SHARED_DATA)")


def lines(name: str) -> bytes:
    """Read a file of ``{"id": …, "payload": …}`` lines."""
    return (DATA / name).read_bytes()
