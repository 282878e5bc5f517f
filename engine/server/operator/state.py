"""Routes of health and state."""

from typing import Any

from fastapi import APIRouter, Response

from engine.server.operator import models
from engine.server.operator.access import Engine

open_router = APIRouter(tags=["health"])
router = APIRouter(tags=["state"])


@open_router.get("/healthz", summary="Is the process alive?")
async def healthz() -> models.Health:
    """Answer as long as there is a process; no token needed."""
    return models.Health(status="ok")


@open_router.get(
    "/readyz",
    summary="Does the platform serve?",
    responses={503: {"model": models.Health, "description": "starting or stopping"}},
)
async def readyz(engine: Engine, response: Response) -> models.Health:
    """Answer 200 while partners are served; no token needed."""
    if engine.ready():
        return models.Health(status="ok")
    response.status_code = 503
    return models.Health(status="starting or stopping")


@router.get("/state", summary="Everything that an operator wants to know", operation_id="state_short")
@router.get("/api/v1/state", summary="Everything that an operator wants to know", operation_id="state")
async def state(engine: Engine) -> dict[str, Any]:
    """Show platforms, subscriptions, calls, and what is stuck: since when, why, and when it is tried next (P9)."""
    found = await engine.state.state()
    found["calls"], stuck = await engine.calls_state.state()
    found["stuck"] += stuck
    return found
