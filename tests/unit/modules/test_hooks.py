"""What a module reads of a payload that it accepted: it never fails, however much a tolerant reader lets pass."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from engine.protocol.ids import CREDIT_CDR_ID_LENGTH_MAX, OBJECT_ID_LENGTH_MAX, party_id
from engine.protocol.modules import Module, SchemaViolation, all_modules
from engine.protocol.modules.module import Issued
from tests.unit.modules.full import FULL, Place, drop, put, rows, written

ODD: tuple[Any, ...] = (None, [], "NOT IN ANY TABLE", "", 0, -1, 1e300, True, {}, [{}], "2026-05-04T11:30:00.000+02:00")


def payloads(module: Module) -> Iterator[bytes]:
    """Yield everything that a reader accepts of what comes about when one place of the example is another or gone."""
    full = FULL[module.id]
    places: dict[Place, None] = {place: None for place, _ in rows(module.payload, full)}
    changed = [*(drop(full, place) for place in places), *(put(full, place, odd) for place in places for odd in ODD)]
    for payload in map(written, [full, {}, *changed]):
        try:
            module.accept(payload, tolerant=True)
        except SchemaViolation:
            continue
        yield payload


@pytest.mark.parametrize("module", all_modules(), ids=lambda module: module.id)
def test_a_payload_that_was_accepted_can_be_read(module: Module):
    """Whom it is for, when it was over, whether it is final, what it refers to, and how long its id may be."""
    read = 0
    for payload in payloads(module):
        audience, concluded_at, final = module.audience(payload), module.concluded_at(payload), module.final(payload)
        assert audience is None or {party_id(party) for party in audience} == audience, payload
        assert concluded_at is None or math.isfinite(concluded_at), payload
        assert final is None or final, payload
        assert module.id_length_max(payload) in (OBJECT_ID_LENGTH_MAX, CREDIT_CDR_ID_LENGTH_MAX), payload
        if module.reference is not None and module.reference.to(payload) is not None:
            for other in (None, Issued("OTHER", written(FULL[module.id])), Issued("OTHER", payload)):
                problems = module.reference.check(Issued("ID", payload), other)
                assert all(problem.expected for problem in problems), payload
        read += 1

    assert read > 1
