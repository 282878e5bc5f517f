"""Who may ask for what: the operator for everything, a party's token for that party's own data only.

Nothing is open but the two health checks. A route lets a party's token in by asking for a ``Caller``; every
other one asks for ``operator_only``, so forgetting the question shuts a door instead of opening one.
What a party received is that party's alone (R.03.02.19).
"""

import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from engine.protocol.ids import PartyId, party_id
from engine.server.operator.errors import Problem, refusal
from engine.server.operator.services import Services

TOKEN_BYTES = 32  # 256 bits: nobody guesses it, whatever they can try in a second
TOKEN_LENGTH_MAX = 200  # longer ones are none of ours, and not worth a digest

_bearer = HTTPBearer(
    auto_error=False,
    description="The operator's token is in the file that `api.token_file` names (`run/api-token`, mode 0600). "
    "Tokens for one party are made with `ocpi-engine token add DIR NAME --party PARTY`.",
)


class UnsafeTokenFile(Exception):
    """The token file can be read by others; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``party``: the only party whose data it may see and issue; None: the operator."""

    party: PartyId | None = None

    @property
    def is_operator(self) -> bool:
        """Whether everything is open."""
        return self.party is None

    def may_act_for(self, party: str) -> bool:
        """Say whether this party's data is the caller's to see and to issue."""
        return self.party is None or self.party == party.upper()


def operator_token(path: Path) -> str:
    """Read the operator's token, made at the first start.

    Raises ``UnsafeTokenFile`` if others can read it: then it is not a secret any more.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UnsafeTokenFile(f"others can read {path}: remove it, and a new token is made") from None
        token = path.read_text(encoding="ascii", errors="replace").strip()
        if token:
            return token
        descriptor = os.open(path, os.O_WRONLY)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


async def _services(request: Request) -> Services:  # async: others are called in a thread
    services: Services = request.app.state.services
    return services


Engine = Annotated[Services, Depends(_services)]


async def authenticated(
    request: Request, engine: Engine, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Recognise the token, or refuse with 401."""
    token = credentials.credentials if credentials is not None else ""
    if token and len(token) <= TOKEN_LENGTH_MAX:
        if hmac.compare_digest(token.encode(), request.app.state.operator_token.encode()):
            return Caller()
        found = await engine.tokens.find(token)
        if found is not None:
            return Caller(found.party)
    where = engine.folder.path(engine.settings.api.token_file)
    raise Problem(401, "a token is needed, and this is none of ours", f"send `Authorization: Bearer …`; see {where}")


AnyCaller = Annotated[Caller, Depends(authenticated)]


async def operator_only(caller: AnyCaller) -> None:
    """Let only the operator in."""
    if not caller.is_operator:
        raise Problem(
            403,
            f"this token is for what {caller.party} issues and receives",
            "use the operator's token, or `/api/v1/issued/…`, `/api/v1/received/…` and"
            f" `/api/v1/parties/{caller.party}/objects/…`",
        )


def own_party(caller: Caller, party: str) -> PartyId:
    """Read a Party ID of a request, and refuse another's with 403, whether it exists or not."""
    try:
        wanted = party_id(party)
    except ValueError as error:
        raise refusal(422, error) from error
    if not caller.may_act_for(wanted):
        raise Problem(403, f"this token is for {caller.party} only", f"ask as {wanted}, or as the operator")
    return wanted
