"""Chapter 11: what a Token says, who issues it, and the question whether it may charge."""

from typing import Any

import msgspec
import pytest

from engine.protocol.modules import SchemaViolation, tariffs
from engine.protocol.modules.check import accept
from engine.protocol.modules.explain import explain
from engine.protocol.modules.tokens import MODULE, AuthorizeRequest, AuthorizeResponse, Token
from tests.unit.modules.full import EXAMPLES, FULL, drop, put, written
from tests.unit.modules.test_accept import found, warned

TOKEN = FULL[MODULE.id]
REQUEST = msgspec.json.decode((EXAMPLES / "tokens.authorize.json").read_bytes())
RESPONSE: dict[str, Any] = {
    "allowed": "ALLOWED",
    "token": TOKEN,
    "authorization_reference": "R1",
    "authorization_timestamp": "2026-05-04T09:30:00Z",
    "authorized_until": "2026-05-05T09:30:00Z",
    "max_energy": 20.5,
    "max_time": 1.5,
    "info": {"language": "en", "text": "Welcome"},
    "display_tariff": FULL[tariffs.MODULE.id],
}


def token(**fields: object) -> dict[str, Any]:
    """Return a Token with other fields."""
    return {**TOKEN, **fields}


def wrong(shape: type, value: object, *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong with the body of a call."""
    with pytest.raises(SchemaViolation) as refused:
        accept(shape, written(value), tolerant=tolerant)
    return [problem.pointer for problem in refused.value.problems]


# -- the Token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "uid", "contract_id", "right"),
    [
        ("EMAID", "BEABC000001", "BEABC000001", True),
        ("EMAID", "beabc000001", "BEABC000001", True),
        ("EMAID", "BEABC000001", "BEABC000002", False),
        ("EMAID", "BE-ABC-000001", "BEABC000001", False),
        ("RFID", "04A1B2C3", "BEABC000001", True),
        ("APP_USER", "04A1B2C3", "BEABC000001", True),
        ("AD_HOC_USER", "04A1B2C3", "BEABC000001", True),
        ("FACE", "04A1B2C3", "BEABC000001", True),
    ],
)
def test_emaid(kind, uid, contract_id, right):
    """The uid of an EMAID is the contract's, in any case; a Token of any other type has one of its own."""
    payload = token(type=kind, uid=uid, contract_id=contract_id)

    if right:
        assert MODULE.accept(written(payload)) == ()
    else:
        assert found(MODULE, payload) == ["/uid"]
        assert found(MODULE, payload, tolerant=True) == ["/uid"]


def test_emaid_in_words():
    """Whoever breaks the rule reads what would do; the quick look says no as well."""
    payload = written(token(type="EMAID", uid="X", contract_id="Y"))

    assert [str(each) for each in explain(Token, payload, tolerant=False).problems] == [
        '/uid: expected the same as contract_id, since type is EMAID; found "X"'
    ]
    with pytest.raises(msgspec.ValidationError, match="the same as contract_id"):
        msgspec.json.decode(payload, type=Token)


@pytest.mark.parametrize("field", ["uid", "contract_id"])
def test_emaid_of_which_half_is_missing(field):
    """What is missing, or wrong in itself, is told by its own row and not again by the rule."""
    missing = drop(token(type="EMAID", uid="X", contract_id="Y"), (field,))

    assert found(MODULE, missing) == [f"/{field}"]
    assert warned(MODULE, missing) == [f"/{field}"]
    assert found(MODULE, put(missing, (field,), 1)) == [f"/{field}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"valid_from": "2026-01-01T00:00:00Z", "valid_until": "2020-01-01T00:00:00Z"},
        {"type": "APP_USER", "whitelist": "ALWAYS"},
        {"type": "EMAID", "uid": "X", "contract_id": "X"},
        {"group_id": "x" * 36},
        {"contract_id": "no-eMA-ID"},
        {"language": "xx"},
    ],
)
def test_no_rule_that_the_draft_does_not_have(fields):
    """What is only recommended is not asked for, and a Token may have ended before it began."""
    assert MODULE.accept(written(token(**fields))) == ()


def test_who_issues_tokens():
    """Tokens are issued by eMSPs, may change, and name nobody whom they concern."""
    assert MODULE.issued_by == {"EMSP"}
    assert not MODULE.immutable
    assert MODULE.audience(written(TOKEN)) is None
    assert MODULE.concluded_at(written(TOKEN)) is None


# -- may it charge? -----------------------------------------------------------------------------------------


@pytest.mark.requirement("R.11.02.02", "R.11.02.04", "R.11.02.05")
def test_the_call():
    """There is one call, authorize, and its answer comes at once."""
    (call,) = MODULE.calls

    assert (call.operation, call.use_case, call.asynchronous) == ("authorize", "11.02", False)
    assert (call.request, call.result, call.error) == (AuthorizeRequest, AuthorizeResponse, None)


@pytest.mark.parametrize(("shape", "body"), [(AuthorizeRequest, REQUEST), (AuthorizeResponse, RESPONSE)])
def test_full(shape, body):
    """With every row filled in there is nothing to say, and every row that is required is missed."""
    optional = {"type", "evse_uids", "authorization_reference", "max_energy", "max_time", "info", "display_tariff"}

    assert accept(shape, written(body)) == ()
    assert set(body) == {field.name for field in msgspec.structs.fields(shape)}
    for name in body:
        if name in optional:
            assert accept(shape, written(drop(body, (name,)))) == ()
        else:
            assert wrong(shape, drop(body, (name,))) == [f"/{name}"]
            assert [each.pointer for each in accept(shape, written(drop(body, (name,))), tolerant=True)] == [f"/{name}"]


def test_sizes_in_a_request():
    """A request has room for longer ids than Tokens and Locations have (its table says so)."""
    for field in ("token_uid", "location_id"):
        assert accept(AuthorizeRequest, written({**REQUEST, field: "x" * 255})) == ()
        assert wrong(AuthorizeRequest, {**REQUEST, field: "x" * 256}) == [f"/{field}"]
        assert wrong(AuthorizeRequest, {**REQUEST, field: ""}, tolerant=True) == [f"/{field}"]
    assert wrong(AuthorizeRequest, {**REQUEST, "evse_uids": ["E1", "x" * 37]}) == ["/evse_uids/1"]
    assert found(MODULE, token(uid="x" * 37)) == ["/uid"]


@pytest.mark.parametrize("allowed", ["BLOCKED", "EXPIRED", "NO_CREDIT", "REQUEST_TOO_BROAD", "NOT_ALLOWED"])
def test_a_no(allowed):
    """A no is one of five, and has a Token and times like a yes."""
    no = {name: RESPONSE[name] for name in ("token", "authorization_timestamp", "authorized_until")}

    assert accept(AuthorizeResponse, written({**no, "allowed": allowed})) == ()
    assert wrong(AuthorizeResponse, {**no, "allowed": allowed.lower()}) == ["/allowed"]
    assert wrong(AuthorizeResponse, {"allowed": allowed}) == ["/token", "/authorization_timestamp", "/authorized_until"]


def test_rules_inside_an_answer():
    """The rules of Token and Tariff hold inside an answer as well."""
    emaid = put(RESPONSE, ("token", "type"), "EMAID")
    energy = put(emaid, ("display_tariff", "elements", 0, "price_components", 0, "type"), "ENERGY")

    assert wrong(AuthorizeResponse, energy, tolerant=True) == [
        "/token/uid",
        "/display_tariff/elements/0/price_components/0/type",
    ]
