"""What is sent: Locations of 2.4 KB and statuses of 60 bytes, each with bytes of its own in every revision; calls."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from engine.protocol.objects import update_body
from engine.samples import location_of_size, status_payload

PARTY = "BEBEC"
REVISIONS_FROM = datetime(2026, 1, 1, tzinfo=UTC)

UNLOCK = {"location_id": "L1", "evse_uid": "E1", "connector_id": "1"}
"""What is asked for: ``locations/unlock-connector``."""
RESULT = b'{"result_type":"SUCCESS"}'
"""What comes of it."""


@dataclass(frozen=True)
class Kind:
    """A kind of object, by its module."""

    module: str
    title: str

    def object_id(self, number: int) -> str:
        """Name an object."""
        return f"{PARTY}-L{number:06d}" if self.module == LOCATIONS.module else f"{PARTY}-E{number:06d}"

    def payload(self, number: int, revision: int) -> bytes:
        """Write an object; every revision has the same size and other bytes."""
        if self.module == LOCATIONS.module:
            return _location(number).replace(b"+3220000000", b"+32%08d" % revision)
        return status_payload("CHARGING", f"{REVISIONS_FROM + timedelta(seconds=revision):%Y-%m-%dT%H:%M:%S.000Z}")

    def update(self, number: int, revision: int) -> bytes:
        """Write the body of its push."""
        return update_body(PARTY, self.object_id(number), revision, self.payload(number, revision))


LOCATIONS = Kind("locations", "Locations, 2.4 KB")
STATUSES = Kind("evsestatuses", "EVSE statuses, 60 bytes")
KINDS = {kind.module: kind for kind in (LOCATIONS, STATUSES)}


@cache
def _location(number: int) -> bytes:
    return location_of_size(number=number, party=PARTY).payload
