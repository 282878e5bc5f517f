"""Platforms, the certificates that tie them to us, and renewals: chapter 1 as rows."""

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import func, insert, select, update

from engine.protocol.ids import PlatformIdentity
from engine.protocol.registration import OPEN_RENEWALS, PlatformState, RenewalState
from engine.store.database import Kind, Tx
from engine.store.tables import certificates, platforms, renewals


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that we know. ``offer`` is our handshake to it, byte for byte, until it is answered (B19)."""

    id: int
    identity: PlatformIdentity
    state: PlatformState
    base_url: str | None
    server_ca: str | None
    request_timeout_ms: int | None
    handshake: bytes | None
    offer: bytes | None
    offer_attempts: int
    offer_due_at: float | None
    tolerant: bool
    created_at: float
    connected_at: float | None
    ended_at: float | None
    end_reason: str | None
    parties_fetched_at: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate: one that our authority issued to a platform, or one that a platform issued to us."""

    id: int
    platform_id: int
    issued_here: bool
    serial: str
    common_name: str
    chain: str
    key_file: str | None
    not_before: float
    not_after: float
    created_at: float
    ended_at: float | None
    end_reason: str | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewal (UC 01.04) that we asked for, or that the platform asked us for."""

    id: int
    platform_id: int
    asked_by_us: bool
    callback_id: str
    state: RenewalState
    csr: str
    key_file: str | None
    chain: str | None
    reason: str | None
    created_at: float
    attempts: int
    due_at: float | None
    last_error: str | None


_PLATFORM = select(*(platforms.c[field.name] for field in fields(Platform)))
_CERTIFICATE = select(*(certificates.c[field.name] for field in fields(Certificate)))
_RENEWAL = select(*(renewals.c[field.name] for field in fields(Renewal)))


def _platform(row: Any) -> Platform:
    identity, state, *rest = row[1:]
    return Platform(row[0], PlatformIdentity(identity), PlatformState(state), *rest)


def _renewal(row: Any) -> Renewal:
    platform_id, asked_by_us, callback_id, state, *rest = row[1:]
    return Renewal(row[0], platform_id, asked_by_us, callback_id, RenewalState(state), *rest)


# -- platforms ----------------------------------------------------------------------------------------------


async def all_platforms(tx: Tx) -> list[Platform]:
    """List every platform that we ever knew, in the order in which we met them."""
    return [_platform(row) for row in await tx.execute(_PLATFORM.order_by(platforms.c.id))]


async def platform_by_id(tx: Tx, platform_id: int, *, lock: bool = False) -> Platform | None:
    """Read a platform; ``lock`` keeps others from changing it until this transaction ends."""
    statement = _PLATFORM.where(platforms.c.id == platform_id)
    row = (await tx.execute(statement.with_for_update() if lock else statement)).first()
    return None if row is None else _platform(row)


async def platform_by_identity(tx: Tx, identity: str, *, lock: bool = False) -> Platform | None:
    """Find a platform by its identity, which is in lower case."""
    statement = _PLATFORM.where(platforms.c.identity == identity)
    row = (await tx.execute(statement.with_for_update() if lock else statement)).first()
    return None if row is None else _platform(row)


async def add_platform(tx: Tx, identity: PlatformIdentity, *, now: float) -> Platform:
    """Store a platform that is new to us."""
    values = {"identity": identity, "state": PlatformState.NEW, "created_at": now}
    statement = insert(platforms).values(**values).returning(platforms.c.id)
    platform_id = (await tx.execute(statement)).scalar_one()
    tx.touch(Kind.DIRECTORY, platform_id)
    return _platform((await tx.execute(_PLATFORM.where(platforms.c.id == platform_id))).one())


async def change_platform(tx: Tx, platform_id: int, **values: Any) -> None:
    """Change columns of a platform."""
    await tx.execute(update(platforms).where(platforms.c.id == platform_id).values(**values))
    tx.touch(Kind.DIRECTORY, platform_id)


async def forget_fetches(tx: Tx) -> None:
    """Have every platform asked for its parties again."""
    await tx.execute(update(platforms).values(parties_fetched_at=None))
    tx.touch(Kind.DIRECTORY)


# -- certificates -------------------------------------------------------------------------------------------


async def add_certificate(tx: Tx, **values: Any) -> int:
    """Store a certificate and return its id; the names are those of ``Certificate``."""
    tx.touch(Kind.DIRECTORY, values["platform_id"])
    return int((await tx.execute(insert(certificates).values(**values).returning(certificates.c.id))).scalar_one())


async def all_certificates(
    tx: Tx, platform_id: int | None = None, *, issued_here: bool | None = None, live: bool = False
) -> list[Certificate]:
    """List certificates, oldest first; ``live``: only those that nobody ended."""
    statement = _CERTIFICATE
    if platform_id is not None:
        statement = statement.where(certificates.c.platform_id == platform_id)
    if issued_here is not None:
        statement = statement.where(certificates.c.issued_here.is_(issued_here))
    if live:
        statement = statement.where(certificates.c.ended_at.is_(None))
    return [Certificate(*row) for row in await tx.execute(statement.order_by(certificates.c.id))]


async def end_certificate(tx: Tx, certificate_id: int, *, now: float, reason: str) -> None:
    """End a certificate; one that was ended stays as it is."""
    live = (certificates.c.id == certificate_id) & certificates.c.ended_at.is_(None)
    ended = update(certificates).where(live).values(ended_at=now, end_reason=reason)
    for (platform_id,) in await tx.execute(ended.returning(certificates.c.platform_id)):
        tx.touch(Kind.DIRECTORY, platform_id)


async def end_certificates(tx: Tx, platform_id: int, *, now: float, reason: str) -> None:
    """End all certificates between a platform and us, in both directions (B20)."""
    live = (certificates.c.platform_id == platform_id) & certificates.c.ended_at.is_(None)
    await tx.execute(update(certificates).where(live).values(ended_at=now, end_reason=reason))
    tx.touch(Kind.DIRECTORY, platform_id)


# -- renewals -----------------------------------------------------------------------------------------------


async def add_renewal(tx: Tx, **values: Any) -> Renewal:
    """Store a renewal; the names are those of ``Renewal``."""
    renewal_id = (await tx.execute(insert(renewals).values(**values).returning(renewals.c.id))).scalar_one()
    tx.touch(Kind.DIRECTORY, values["platform_id"])  # whoever does the periodic work has something to do
    return _renewal((await tx.execute(_RENEWAL.where(renewals.c.id == renewal_id))).one())


async def renewal_by_id(tx: Tx, renewal_id: int, *, lock: bool = False) -> Renewal | None:
    """Read a renewal; ``lock`` keeps others from changing it until this transaction ends."""
    statement = _RENEWAL.where(renewals.c.id == renewal_id)
    row = (await tx.execute(statement.with_for_update() if lock else statement)).first()
    return None if row is None else _renewal(row)


async def find_renewal(tx: Tx, platform_id: int, *, asked_by_us: bool, callback_id: str) -> Renewal | None:
    """Find a renewal by the id under which its answer is awaited, and keep others from changing it."""
    statement = _RENEWAL.where(
        renewals.c.platform_id == platform_id,
        renewals.c.asked_by_us.is_(asked_by_us),
        renewals.c.callback_id == callback_id,
    )
    row = (await tx.execute(statement.with_for_update())).first()
    return None if row is None else _renewal(row)


async def all_renewals(tx: Tx, platform_id: int | None = None) -> list[Renewal]:
    """List renewals, oldest first."""
    statement = _RENEWAL if platform_id is None else _RENEWAL.where(renewals.c.platform_id == platform_id)
    return [_renewal(row) for row in await tx.execute(statement.order_by(renewals.c.id))]


async def open_renewals(tx: Tx) -> list[Renewal]:
    """List renewals that are not at their end, oldest first."""
    statement = _RENEWAL.where(renewals.c.state.in_(OPEN_RENEWALS)).order_by(renewals.c.id)
    return [_renewal(row) for row in await tx.execute(statement)]


async def count_open_renewals(tx: Tx, platform_id: int) -> int:
    """Count renewals that a platform asked us for and that are not at their end."""
    statement = select(func.count()).where(
        renewals.c.platform_id == platform_id,
        renewals.c.asked_by_us.is_(False),
        renewals.c.state.in_(OPEN_RENEWALS),
    )
    return int((await tx.execute(statement)).scalar_one())


async def change_renewal(tx: Tx, renewal_id: int, **values: Any) -> None:
    """Change columns of a renewal."""
    changed = update(renewals).where(renewals.c.id == renewal_id).values(**values)
    for (platform_id,) in await tx.execute(changed.returning(renewals.c.platform_id)):
        tx.touch(Kind.DIRECTORY, platform_id)


async def end_renewals(tx: Tx, platform_id: int) -> None:
    """End what is open with a platform."""
    await tx.execute(
        update(renewals)
        .where(renewals.c.platform_id == platform_id, renewals.c.state.in_(OPEN_RENEWALS))
        .values(state=RenewalState.ENDED, due_at=None)
    )
