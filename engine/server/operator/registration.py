"""Routes of registration: partners, certificates, the parties hosted here, and tokens for back offices."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from engine.refusals import NotFoundHere
from engine.server.operator import models
from engine.server.operator.access import Engine
from engine.server.operator.errors import Problem
from engine.server.operator.services import Services
from engine.store.platforms import Renewal

router = APIRouter(prefix="/api/v1", tags=["registration"])

Identity = Annotated[models.Identity, Path(alias="identity")]


# partners


@router.get("/platforms", summary="List partners")
async def platforms(engine: Engine) -> list[models.Platform]:
    """Show every platform that was ever known here."""
    return [models.Platform.model_validate(platform) for platform in engine.directory.platforms()]


@router.post("/platforms/{identity}/connect", summary="Connect to a partner (01.03)")
async def connect(engine: Engine, identity: Identity, order: models.ConnectOrder) -> models.Platform:
    """Make the handshake, and fetch the partner's parties. A partner that does not answer is asked until it does."""
    platform = await engine.connections.connect(
        order.base_url, identity, chain=order.chain, server_ca=order.server_ca, tolerant=order.tolerant
    )
    return models.Platform.model_validate(platform)


@router.post("/platforms/{identity}/disconnect", summary="Say bye to a partner (01.05)")
async def disconnect(engine: Engine, identity: Identity, order: models.EndOrder) -> models.Platform:
    """End the connection, its certificates and its subscriptions in both directions (B20)."""
    return models.Platform.model_validate(await engine.connections.disconnect(identity, order.reason))


@router.post("/platforms/{identity}/reset", summary="Forget a connection without telling the partner")
async def reset(engine: Engine, identity: Identity, order: models.EndOrder) -> models.Platform:
    """End the connection on our side only, so that the partner can connect again."""
    return models.Platform.model_validate(await engine.connections.reset(identity, order.reason))


@router.get("/platforms/{identity}/versions", summary="Ask a partner which OCPI versions it speaks (01.06)")
async def versions(engine: Engine, identity: Identity) -> dict[str, Any]:
    """Ask now."""
    return {"versions": await engine.connections.versions(identity)}


@router.get("/platforms/{identity}/parties", summary="List a partner's parties")
async def peer_parties(engine: Engine, identity: Identity) -> list[models.PeerParty]:
    """Show what the partner said when it was last asked."""
    return [models.PeerParty.model_validate(party) for party in await engine.connections.parties_of(identity)]


@router.post("/platforms/{identity}/parties/refresh", summary="Ask a partner for its parties now (02.01)")
async def refresh_parties(engine: Engine, identity: Identity) -> list[models.PeerParty]:
    """Ask, store, and show."""
    await engine.connections.refresh_parties(identity)
    return [models.PeerParty.model_validate(party) for party in await engine.connections.parties_of(identity)]


# certificates


@router.get("/certificates", summary="List client certificates")
async def certificates(engine: Engine) -> list[models.Certificate]:
    """Show those that we issued, and those that partners issued to us."""
    return [models.Certificate.model_validate(one) for one in await engine.connections.certificates()]


@router.post("/certificates/request", status_code=201, summary="Make a signing request for a partner (01.01)")
async def request_certificate(engine: Engine, order: models.RequestOrder) -> models.SigningRequest:
    """Make a key, which stays here, and a request to hand to the partner."""
    return models.SigningRequest.model_validate(await engine.connections.request_certificate(order.platform))


@router.post("/certificates/inspect", summary="Look at a partner's signing request before it is signed")
async def inspect_request(engine: Engine, order: models.SignOrder) -> models.SigningRequest:
    """Show identity and fingerprint, to be checked with a person at the partner's by phone (R.01.01.04)."""
    return models.SigningRequest.model_validate(await engine.connections.inspect_request(order.csr))


@router.post("/certificates/sign", status_code=201, summary="Sign a partner's request (01.01)")
async def sign(engine: Engine, order: models.SignOrder) -> models.Chain:
    """Issue a client certificate."""
    if not order.confirmed:
        raise Problem(
            409,
            "identity and fingerprint were not confirmed",
            "check them with a person at the partner's by phone (R.01.01.04), then send `confirmed: true`",
        )
    return models.Chain.model_validate(await engine.connections.sign(order.csr, server_ca=order.server_ca))


@router.post("/certificates/install", status_code=201, summary="Install what a partner signed for us (01.01)")
async def install(engine: Engine, order: models.InstallOrder) -> models.Certificate:
    """Check that it fits one of our keys, and use it from now on."""
    installed = await engine.connections.install(order.platform, order.chain, server_ca=order.server_ca)
    return models.Certificate.model_validate(installed)


@router.post("/platforms/{identity}/renew", status_code=202, summary="Ask a partner for a new certificate (01.04)")
async def renew(engine: Engine, identity: Identity) -> models.Renewal:
    """Ask now; the partner has 168 hours to answer, and the old one is used until then."""
    return _renewal(engine, await engine.connections.renew(identity))


@router.get("/renewals", summary="List renewals of certificates, in both directions")
async def renewals(engine: Engine) -> list[models.Renewal]:
    """Show what was asked, by whom, and how far it is."""
    return [_renewal(engine, one) for one in await engine.connections.renewals.all()]


@router.post("/renewals/{renewal}/decide", status_code=204, summary="Decide about a partner's request for renewal")
async def decide(engine: Engine, renewal: int, order: models.Decision) -> None:
    """Issue the new certificate, or refuse with a reason; needed only where renewal is not automatic."""
    await engine.connections.renewals.decide(renewal, refuse_because=order.refuse_because)


@router.post("/certificates/{serial}/end", summary="End a certificate that we issued")
async def end_certificate(engine: Engine, serial: str, order: models.EndOrder) -> models.Certificate:
    """Refuse it from now on."""
    return models.Certificate.model_validate(await engine.connections.end_certificate(serial, order.reason))


def _renewal(engine: Services, renewal: Renewal) -> models.Renewal:
    shown = asdict(renewal) | {"platform": engine.directory.platform(renewal.platform_id).identity}
    return models.Renewal.model_validate(shown)


# parties hosted here


@router.get("/parties", summary="List the parties hosted here")
async def parties(engine: Engine) -> list[models.PeerParty]:
    """Show them as partners see them."""
    return [models.PeerParty.model_validate(party) for party in await engine.parties.list()]


@router.post("/parties", status_code=201, summary="Host a party")
async def add_party(engine: Engine, order: models.PartyOrder) -> models.PeerParty:
    """Host a party here, or change what partners are told about it."""
    party = await engine.parties.add(
        order.party_id, roles=order.roles, name=order.name, website=order.website, hub=order.hub
    )
    return models.PeerParty.model_validate(party)


@router.delete("/parties/{party}", status_code=204, summary="Host a party no longer")
async def remove_party(engine: Engine, party: models.Party) -> None:
    """Remove it; refused while it has subscriptions."""
    await engine.parties.remove(party)


# tokens


@router.get("/tokens", summary="List tokens")
async def tokens(engine: Engine) -> list[models.Token]:
    """Show names and parties; the tokens themselves are not kept."""
    return [models.Token.model_validate(token) for token in await engine.tokens.list()]


@router.post("/tokens", status_code=201, summary="Make a token for a back office")
async def add_token(engine: Engine, order: models.TokenOrder) -> models.NewToken:
    """Make a token; it is shown this once."""
    if order.party is not None and engine.directory.hosted(order.party) is None:
        raise NotFoundHere(f"{order.party} is not hosted here; see `ocpi-engine parties`")
    return models.NewToken.model_validate(await engine.tokens.add(order.name, order.party))


@router.delete("/tokens/{name}", status_code=204, summary="End a token")
async def remove_token(engine: Engine, name: str) -> None:
    """Accept it no longer."""
    await engine.tokens.remove(name)
