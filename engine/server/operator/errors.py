"""Everything that can go wrong, as ``{"error": {"message", "hint", "problems"}}``: converted here and nowhere else."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from certs.errors import CertificateError
from engine.refusals import NotAccepted, NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.store.database import StoreUnavailable

_log = logging.getLogger(__name__)

MEND = "nothing was stored; mend it and send it again"


class Problem(Exception):
    """A refusal of the local API itself."""

    def __init__(self, http_status: int, message: str, hint: str | None = None, problems: Sequence[Any] = ()) -> None:
        """Say what is wrong, and what to do."""
        super().__init__(message)
        self.http_status = http_status
        self.message = message
        self.hint = hint
        self.problems = list(problems)


def refusal(http_status: int, error: Exception, hint: str | None = None) -> Problem:
    """Pass on what another part of the engine said."""
    return Problem(http_status, str(error), hint)


def _answer(problem: Problem) -> JSONResponse:
    body: dict[str, Any] = {"message": problem.message}
    if problem.hint:
        body["hint"] = problem.hint
    if problem.problems:
        body["problems"] = problem.problems
    headers = {"www-authenticate": "Bearer"} if problem.http_status == 401 else None  # noqa: PLR2004
    return JSONResponse({"error": body}, problem.http_status, headers=headers)


def problem_of(error: Exception) -> Problem:
    """Say what an exception of the engine means to whoever asked."""
    match error:
        case Problem():
            return error
        case NotFoundHere():
            return refusal(404, error)
        case NotAccepted():
            return Problem(422, str(error), MEND, [asdict(problem) for problem in error.problems])
        case PeerSaidNo():
            return refusal(502, error, "the partner decides this; ask its operator, or look at `ocpi-engine state`")
        case PeerUnreachable():
            return refusal(504, error, "see `ocpi-engine state`; `ocpi-engine platforms` shows where we look for it")
        case Refused():
            return refusal(409, error)
        case CertificateError():
            return refusal(422, error)
        case StoreUnavailable():
            return Problem(
                503,
                f"nothing was stored: the database says {error}",
                "make room, or the folder writable, then send it again; what is stored already is then `unchanged`",
            )
        case RequestValidationError():
            return Problem(422, "the request is not as it should be", "see problems", _fields(error))
        case ClientDisconnect():
            _log.info("a client hung up in the middle of its request", extra={"action": "api.hung_up"})
            return Problem(400, "the request ended before its body did", MEND)
        case HTTPException():
            return Problem(error.status_code, str(error.detail), _hint(error.status_code))
        case _:
            _log.error("the local API failed", exc_info=error, extra={"action": "api.error"})
            return Problem(500, "an internal error", "the log of `ocpi-engine serve` has the details")


def _fields(error: RequestValidationError) -> list[dict[str, str]]:
    return [
        {
            "pointer": "/" + "/".join(str(part) for part in problem["loc"]),
            "found": _shortened(problem.get("input")),
            "expected": problem["msg"].removeprefix("Value error, "),
        }
        for problem in error.errors()
    ]


def _shortened(value: object, length_max: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def _hint(http_status: int) -> str | None:
    if http_status in (404, 405):
        return "`/api/v1/openapi.json` lists all paths"
    return None


def install(app: FastAPI) -> None:
    """Have every exception of every route answered this way."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        return _answer(problem_of(error))

    for kind in (
        Problem,
        Refused,
        CertificateError,
        StoreUnavailable,
        RequestValidationError,
        HTTPException,
        ClientDisconnect,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer)
