"""The local API: for the back office and the operator, on this machine only."""

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.server.operator import calls, errors, events, models, objects, registration, simulated, state, subscriptions
from engine.server.operator.access import operator_only, operator_token
from engine.server.operator.services import Services

_DESCRIPTION = """
What the command line does, and what a back office needs: publish objects, read what was issued and received, follow
changes, see the platform's state. Every request but the two health checks carries `Authorization: Bearer <token>`.
An answer that is not 2xx is `{"error": {"message", "hint", "problems"}}`, and says what to do.
"""


def create_app(services: Services) -> FastAPI:
    """Build the API. Raises ``UnsafeTokenFile`` if others can read the operator's token."""
    app = FastAPI(
        title="ocpi-engine",
        version=version("ocpi-engine"),
        summary="The local API of an OCPI 3.0 platform",
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": models.ErrorAnswer, "description": "why not, and what to do"}},
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.closing = asyncio.Event()
    app.state.operator_token = operator_token(services.folder.path(services.settings.api.token_file))
    app.add_middleware(BodyLimit, bytes_max=services.settings.api.body_max_bytes)
    errors.install(app)
    operators = [Depends(operator_only)]
    app.include_router(state.open_router)
    app.include_router(state.router, dependencies=operators)
    app.include_router(registration.router, dependencies=operators)
    app.include_router(subscriptions.router, dependencies=operators)
    app.include_router(simulated.router, dependencies=operators)
    # Open to a party's token; each route says for what.
    app.include_router(calls.router)
    app.include_router(events.router)
    app.include_router(objects.router)  # last: its paths begin with any word

    @app.get("/api/v1/openapi.json", dependencies=operators, include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return app.openapi()

    return app


class BodyLimit:
    """Refuse a body that is too long before it is in memory, also when its length was not announced."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        """Wrap an application."""
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        received = int(announced) if announced.isdigit() and int(announced) > self._bytes_max else 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise HTTPException(
                    413,
                    f"the body is longer than {self._bytes_max} bytes; send it in parts (setting api.body_max_bytes)",
                )
            return message

        await self._app(scope, counted, send)
