"""Locations and EVSE Statuses of a real operator, replicated byte for byte. They lie beside the repository."""

from pathlib import Path

import msgspec
import pytest

from tests.support.backing import Backing
from tests.support.processes import connected_platforms
from tests.support.real_data import DATA, lines, need_data
from tests.support.replicas import copies, difference, subscribe

FILES = {"locations": "locations-deslb.ndjson", "evsestatuses": "evsestatuses-deslb.ndjson"}


class _Line(msgspec.Struct):
    id: str
    payload: msgspec.Raw


@need_data
@pytest.mark.requirement("R.03.02.08", "R.03.02.10")
async def test_real_objects_arrive_as_they_are(tmp_path: Path, backing: Backing) -> None:
    """What a real operator publishes from its files, before and after the subscribe, arrives with its own bytes."""
    async with connected_platforms(tmp_path, backing=backing) as (cpo, emsp):
        await subscribe(emsp, cpo, "locations", parallelism_limit=8)
        for module, name in FILES.items():
            await cpo.command("publish", module, str(DATA / name))
        await subscribe(emsp, cpo, "evsestatuses", parallelism_limit=8)
        await cpo.drained()
        for module, name in FILES.items():
            decoder = msgspec.json.Decoder(_Line)
            read = [decoder.decode(line) for line in lines(name).splitlines() if line.strip()]
            wanted = {line.id: bytes(line.payload) for line in read}
            received = await copies(emsp, "received", module)

            assert len(wanted) >= 100
            assert {object_id: copy.payload for (_, object_id), copy in received.items()} == wanted
            assert difference(await copies(cpo, "issued", module), received) == []
