"""Routes of simulated CPOs: look at their stations, and let something happen there. For whoever tries a platform."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from engine.backoffice.simulation import ACTS, Simulations
from engine.refusals import NotFoundHere
from engine.server.operator import models
from engine.server.operator.access import Engine
from engine.server.operator.services import Services

router = APIRouter(prefix="/api/v1/simulated", tags=["simulated CPOs"])


@router.get("", summary="Show the stations of simulated CPOs")
async def simulated(engine: Engine) -> list[dict[str, Any]]:
    """Show each EVSE: its status, whether a car is plugged in, and its session."""
    return [each.shown() for each in _simulations(engine).all()]


@router.post("/{party}/{act}", status_code=204, summary="Let something happen at a station")
async def act(
    engine: Engine,
    party: str,
    act: Annotated[str, Path(json_schema_extra={"enum": list(ACTS)})],
    details: models.SimulatedAct,
) -> None:
    """Let a driver, a fault or the CPO itself do something. What nobody could do is refused with 409."""
    await _simulations(engine).get(party).act(act, **details.model_dump(exclude_none=True))


def _simulations(engine: Services) -> Simulations:
    if engine.simulations is None:
        raise NotFoundHere("no CPO is simulated here; start the platform with `ocpi-engine sandbox`")
    return engine.simulations
