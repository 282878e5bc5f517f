"""Generated objects of all nine modules for the demo, the benchmark and the tests.

The same seed gives the same bytes. Now and then a payload is written as other programs write: with line breaks,
with escapes, with decimals that a float would spoil, with a field of the operator's own; all of it has to arrive
as it is.
"""

from engine.samples.chances import NEWEST, SEED, Sample
from engine.samples.charging import cdrs, irrs, meter_samples, sessions, tokens
from engine.samples.places import (
    LOCATION_SIZE_BYTES,
    capable_locations,
    evse_statuses,
    evse_uids,
    location_of_size,
    locations,
    status_payload,
)
from engine.samples.prices import tariff_associations, tariffs

__all__ = [
    "LOCATION_SIZE_BYTES",
    "NEWEST",
    "SEED",
    "Sample",
    "capable_locations",
    "cdrs",
    "evse_statuses",
    "evse_uids",
    "irrs",
    "location_of_size",
    "locations",
    "meter_samples",
    "sessions",
    "status_payload",
    "tariff_associations",
    "tariffs",
    "tokens",
]
