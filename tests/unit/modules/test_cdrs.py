"""Chapter 8: what a CDR has to hold to, and how one is credited."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.protocol.ids import ModuleId
from engine.protocol.json_text import read_exactly
from engine.protocol.modules import Problem, SchemaViolation, registry
from engine.protocol.modules.check import accept
from engine.protocol.modules.explain import PROBLEMS_MAX, explain
from engine.protocol.modules.module import NOBODY, Addition, CannotReplace, Issued, Wanted
from tests.unit.modules.full import EXAMPLES, FULL, Place, at, drop, put, written

cdrs, sessions = registry["cdrs"], registry["sessions"]
CREDIT = FULL[cdrs.id]
CDR = drop(drop(CREDIT, ("credit",)), ("credit_reference_id",))
DIMENSION: Place = ("charging_periods", 2, "dimensions", 0)
NOW = 1_778_486_400.0004  # 2026-05-11T08:00:00Z


def merged(payload: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the payload with these fields; None: without."""
    return {name: value for name, value in (payload | fields).items() if value is not None}


def found(payload: dict[str, Any], *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong with a CDR, strict or tolerant."""
    with pytest.raises(SchemaViolation) as refused:
        cdrs.accept(written(payload), tolerant=tolerant)
    return [problem.pointer for problem in refused.value.problems]


def warned(payload: dict[str, Any]) -> list[str]:
    """Return the pointers of what a tolerant look warns of."""
    return [problem.pointer for problem in cdrs.accept(written(payload), tolerant=True)]


# -- rules ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.08.02.05")
def test_credit_and_its_reference():
    """A Credit CDR says that it is one and names another CDR; neither comes alone."""
    assert cdrs.accept(written(CREDIT)) == cdrs.accept(written(CDR)) == ()
    assert cdrs.accept(written(merged(CDR, credit=False))) == ()

    without_id = drop(CREDIT, ("credit_reference_id",))
    assert found(without_id) == warned(without_id) == ["/credit_reference_id"]
    not_said = drop(CREDIT, ("credit",))
    assert found(not_said) == warned(not_said) == ["/credit"]
    denied = put(CREDIT, ("credit",), False)
    assert found(denied) == found(denied, tolerant=True) == ["/credit"]


@pytest.mark.parametrize(
    ("dimension", "allowed"),
    [
        ("CURRENT", False),
        ("ENERGY", True),
        ("ENERGY_EXPORT", False),
        ("ENERGY_IMPORT", False),
        ("MAX_CURRENT", True),
        ("MIN_CURRENT", True),
        ("MAX_POWER", True),
        ("MIN_POWER", True),
        ("POWER", False),
        ("RESERVATION_TIME", True),
        ("STATE_OF_CHARGE", False),
        ("TIME", True),
    ],
)
def test_dimensions_of_sessions(dimension, allowed):
    """Dimensions that are for Sessions only are refused, and a tolerant reader warns as of any unknown value."""
    cdr = put(CDR, (*DIMENSION, "type"), dimension)

    if allowed:
        assert cdrs.accept(written(cdr)) == ()
    else:
        assert found(cdr) == warned(cdr) == [at((*DIMENSION, "type"))]


@pytest.mark.parametrize(
    ("energy", "allowed"),
    [("0", True), ("0.000", True), ("-0", True), ("0.1", False), ("-3", False), ("1e-400", False)],
)
def test_connector_where_energy_was_charged(energy, allowed):
    """Only where no energy was charged may the connector be left out: nobody came to use the reservation."""
    cdr = put(drop(CDR, ("cdr_location", "connector")), ("total_energy",), "NUMBER")
    payload = written(cdr).replace(b'"NUMBER"', energy.encode())

    if allowed:
        assert cdrs.accept(payload) == ()
    else:
        assert [problem.pointer for problem in cdrs.accept(payload, tolerant=True)] == ["/cdr_location/connector"]
        assert explain(cdrs.payload, payload, tolerant=False).problem_count == 1


def test_whitelisted_token():
    """Who decided by a whitelist tells the version of the token."""
    token: Place = ("cdr_token", "token_version")
    without = drop(CDR, token)

    assert found(without) == warned(without) == [at(token)]
    wrong = put(without, ("cdr_token", "party_id"), "TST")
    assert found(wrong) == ["/cdr_token/party_id", "/cdr_token/token_version"]
    for other in ("AUTH_REQUEST", "COMMAND"):
        assert cdrs.accept(written(put(without, ("auth_method",), other))) == ()


def test_issuer_of_the_token():
    """Five characters that are no Party ID are worth a warning, strictly too: what is for them goes to nobody."""
    cdr = put(CDR, ("cdr_token", "party_id"), "12345")

    warnings = cdrs.accept(written(cdr))

    assert [str(warning) for warning in warnings] == [
        '/cdr_token/party_id: expected a Party ID such as NLTNM: what is for none goes to nobody; found "12345"'
    ]
    assert cdrs.accept(written(put(cdr, ("cdr_token", "party_id"), "nlems"))) == ()


def test_rules_look_only_at_what_is_right():
    """A rule does not complain of what is already wrong or missing in itself."""
    cdr = merged(CREDIT, credit="yes", cdr_location={}, charging_periods=[{}, 1, {"dimensions": [{}, None]}])

    pointers = found(drop(cdr, ("cdr_token",)))

    assert len(pointers) == len(set(pointers))
    assert {"/credit", "/cdr_location/id", "/cdr_token", "/charging_periods/2/dimensions/1"} < set(pointers)
    assert "/cdr_location/connector" not in pointers
    assert found(put(CREDIT, ("credit_reference_id",), "x" * 40)) == ["/credit_reference_id"]


def test_the_text_about_unknown_times():
    """What the draft writes for a time that nobody knows is no DateTime; the same moment in RFC 3339 is."""
    assert found(put(CDR, ("start_date_time",), "1970-1-1T00:00:00Z")) == ["/start_date_time"]
    assert cdrs.accept(written(put(CDR, ("start_date_time",), "1970-01-01T00:00:00Z"))) == ()


def test_dispute():
    """A dispute names a CDR and a reason; the answer is an object without fields."""
    (dispute,) = cdrs.calls
    request = json.loads((EXAMPLES / "cdrs.dispute.json").read_text(encoding="utf-8"))

    assert not dispute.asynchronous
    assert dispute.result is not None
    assert accept(dispute.request, written(request)) == accept(dispute.result, b"{}") == ()
    for name in request:
        assert list(_pointers(dispute.request, drop(request, (name,)))) == [f"/{name}"]
    assert list(_pointers(dispute.request, put(request, ("reason",), "x" * 4001))) == ["/reason"]


def _pointers(shape: Any, payload: dict[str, Any]) -> list[str]:
    return [problem.pointer for problem in explain(shape, written(payload), tolerant=False).problems]


# -- what is read of a payload ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "party"),
    [
        ({"party_id": "NLEMS"}, "NLEMS"),
        ({"party_id": "nlEms", "uid": "1"}, "NLEMS"),
        ({"party_id": "12345"}, None),
        ({"party_id": "TST"}, None),
        ({"party_id": None}, None),
        ({"party_id": 7}, None),
        ({"uid": "1"}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("NLEMS", None),
    ],
)
def test_audience(token, party):
    """A CDR is for the party of its token, in any case, and for nobody if none can be read."""
    for each in (cdrs, sessions):
        payload = {"x": [{"cdr_token": {"party_id": "BEBEC"}}, 1e300], **FULL[each.id], "cdr_token": token}
        assert each.audience(written(payload)) == (NOBODY if party is None else {party})
        assert each.audience(written(drop(payload, ("cdr_token",)))) == NOBODY


@pytest.mark.parametrize(
    ("end", "last_updated", "concluded"),
    [
        ("2026-05-04T11:40:00Z", "2026-05-11T08:00:00Z", 1777894800.0),
        ("2026-05-04T13:40:00.25+02:00", None, 1777894800.25),
        ("2016-12-31T23:59:60Z", None, 1483228800.0),
        ("1970-01-01T00:00:00Z", "2026-05-04T11:40:00Z", 1777894800.0),
        (None, "2026-05-04T11:40:00Z", 1777894800.0),
        ("soon", "2026-05-04T11:40:00Z", 1777894800.0),
        ("0000-01-01T00:00:00Z", None, -62167219200.0),
        ("1970-01-01T00:00:00Z", None, None),
        (None, None, None),
        (7, "2026-05-04T11:40:00Z", None),
    ],
)
def test_concluded(end, last_updated, concluded):
    """A CDR is over when its session was, or, if nobody knows when that was, when the CDR was made."""
    assert cdrs.concluded_at(written(CDR | {"end_date_time": end, "last_updated": last_updated})) == concluded
    assert cdrs.concluded_at(written(merged(CDR, last_updated=last_updated) | {"end_date_time": end})) == concluded


def test_final():
    """No CDR may change, whatever it is."""
    assert all("credit" in str(cdrs.final(written(each))) for each in (CDR, CREDIT, {}))


@pytest.mark.requirement("R.03.02.20")
def test_length_of_the_id():
    """The id of a Credit CDR may have three characters more."""
    assert cdrs.id_length_max(written(CREDIT)) == 39
    for other in (CDR, merged(CDR, credit=False), CDR | {"credit": None}, CDR | {"credit": 1}, {}):
        assert cdrs.id_length_max(written(other)) == 36


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"1", b"", b"{", b'{"cdr_token":{"party_id":"\\ud800"}}'])
def test_reading_raises_nothing(payload):
    """Whatever is there, what reads it says something or nothing."""
    assert cdrs.reference is not None
    assert cdrs.audience(payload) == NOBODY
    assert cdrs.concluded_at(payload) is None
    assert cdrs.reference.to(payload) is None
    assert cdrs.id_length_max(payload) == 36
    assert cdrs.final(payload)


# -- a Credit CDR beside the CDR that it credits ----------------------------------------------------------


def cost(payload: dict[str, Any], before_taxes: str, *taxes: tuple[str, str]) -> bytes:
    """Write a payload with this total cost, digit by digit."""
    amounts = ",".join(f'{{"name":{json.dumps(name)},"amount":{amount}}}' for name, amount in taxes)
    total = f'{{"before_taxes":{before_taxes},"taxes":[{amounts}]}}'
    return written(put(payload, ("total_cost",), "COST")).replace(b'"COST"', total.encode())


def checked(credit: bytes, credited: bytes | None, id_: str = "CDR-1-C") -> list[Problem]:
    """Return what is wrong with a Credit CDR."""
    assert cdrs.reference is not None
    return list(cdrs.reference.check(Issued(id_, credit), None if credited is None else Issued("CDR-1", credited)))


@pytest.mark.requirement("R.08.02.06")
def test_what_a_credit_refers_to():
    """A Credit CDR refers to the CDR that it credits, and has to find it; other CDRs stand by themselves."""
    assert cdrs.reference is not None
    assert cdrs.reference.to(written(CREDIT)) == "CDR-1"
    for other in (CDR, put(CREDIT, ("credit",), False), drop(CREDIT, ("credit_reference_id",))):
        assert cdrs.reference.to(written(other)) is None

    (problem,) = checked(written(CREDIT), None)
    assert str(problem) == (
        '/credit_reference_id: expected the id of a CDR that this party has issued (R.08.02.06); found "CDR-1"'
    )


@pytest.mark.requirement("R.08.02.02", "R.08.02.04")
@pytest.mark.parametrize(("id_", "wrong"), [("CDR-1", True), ("cdr-1", True), ("CDR-1-C", False), ("7", False)])
def test_id_of_a_credit(id_, wrong):
    """The id of a Credit CDR is another one than that of the CDR that it credits, in any case, and any other."""
    original = cost(CDR, "11.20", ("VAT", "2.352"))

    problems = checked(written(CREDIT), original, id_)

    assert [problem.pointer for problem in problems] == (["/credit_reference_id"] if wrong else [])
    assert bool(checked(written(CREDIT), None, id_))


@pytest.mark.requirement("R.08.02.07")
@pytest.mark.parametrize(
    ("credited", "credit"),
    [
        (("11.20",), ("-11.2",)),
        (("0.00",), ("0",)),
        (("0",), ("-0.0",)),
        (("-3.5",), ("3.50",)),
        (("0.1234567890123456789",), ("-0.1234567890123456789",)),
        (("12345678901234567890123456789012345678901",), ("-1.2345678901234567890123456789012345678901e40",)),
        (("1e999999999999999999999",), ("-1e999999999999999999999",)),
        (("10", ("VAT", "2.1")), ("-10", ("VAT", "-2.10"))),
        (("10", ("VAT", "2.1"), ("City", "0.5")), ("-10", ("City", "-0.5"), ("VAT", "-2.1"))),
        (("10", ("VAT", "2.1"), ("VAT", "0.6")), ("-10", ("VAT", "-0.6"), ("VAT", "-2.1"))),
    ],
)
def test_negative_amounts(credited, credit):
    """The total cost of a Credit CDR is the exact negative, taxes by their names, in any order and notation."""
    assert checked(cost(CREDIT, *credit), cost(CDR, *credited)) == []


@pytest.mark.requirement("R.08.02.07")
@pytest.mark.parametrize(
    ("credited", "credit", "problems"),
    [
        (("11.20",), ("11.20",), [("/before_taxes", "11.20", "-11.20")]),
        (("11.20",), ("-11.21",), [("/before_taxes", "-11.21", "-11.20")]),
        (
            ("0.1234567890123456789",),
            ("-0.1234567890123456788",),
            [("/before_taxes", "-0.1234567890123456788", "-0.1234567890123456789")],
        ),
        (("1e-400",), ("0",), [("/before_taxes", "0", "-1E-400")]),
        (("10", ("VAT", "2.1")), ("-10", ("VAT", "2.1")), [("/taxes/0/amount", "2.1", "-2.1")]),
        (("10", ("VAT", "2.1")), ("-10",), [("/taxes", 'no further "VAT"', "-2.1")]),
        (("10",), ("-10", ("VAT", "-2.1")), [("/taxes/0", '"VAT"', "no tax")]),
        (
            ("10", ("VAT", "2.1"), ("City", "1")),
            ("-10", ("City", "-1"), ("vat", "-2.1")),
            [("/taxes", 'no further "VAT"', "-2.1"), ("/taxes/1", '"vat"', "no tax")],
        ),
        (
            ("10", ("VAT", "2.1"), ("VAT", "2.1")),
            ("-10", ("VAT", "-2.1")),
            [("/taxes", 'no further "VAT"', "-2.1")],
        ),
    ],
)
def test_other_amounts(credited, credit, problems):
    """Any other amount is told with what it should be."""
    told = checked(cost(CREDIT, *credit), cost(CDR, *credited))

    assert [(problem.pointer, problem.found) for problem in told] == [
        (f"/total_cost{where}", there) for where, there, _ in problems
    ]
    assert all(problem.expected.startswith(wanted) for problem, (_, _, wanted) in zip(told, problems, strict=True))
    assert all("(R.08.02.07)" in problem.expected for problem in told)


def test_currency_of_a_credit():
    """The negative of euros is in euros."""
    original = cost(CDR, "11.20", ("VAT", "2.352"))

    assert checked(written(put(CREDIT, ("currency",), "eur")), original) == []
    assert [each.pointer for each in checked(written(put(CREDIT, ("currency",), "USD")), original)] == ["/currency"]


def test_many_taxes():
    """Of very many wrong amounts a hundred are told, in time that does not explode."""
    taxes = [("VAT", str(n)) for n in range(20_000)]

    assert len(checked(cost(CREDIT, "-1", *taxes), cost(CDR, "1", *taxes))) == PROBLEMS_MAX
    assert checked(cost(CREDIT, "-1", *((name, "-" + n) for name, n in taxes)), cost(CDR, "1", *taxes)) == []


@pytest.mark.parametrize("total", [None, {}, {"before_taxes": None, "taxes": [{}, {"name": "VAT"}, {"amount": None}]}])
def test_nothing_to_compare(total):
    """What a tolerant reader let be missing is compared with nothing."""
    odd = merged(CREDIT | {"total_cost": total}, currency=CDR["currency"])

    assert checked(written(odd), written(CDR | {"total_cost": total})) == []
    assert all(problem.pointer.startswith("/total_cost") for problem in checked(written(odd), written(CDR)))


def test_a_credit_of_a_credit():
    """That a Credit CDR is itself credited is nowhere forbidden, and its reference has room for such an id."""
    again = merged(CREDIT, credit_reference_id="C" * 39, total_cost=put(CREDIT, ("total_cost",), {})["total_cost"])
    payload = cost(again, "11.20", ("VAT", "2.352"))

    assert cdrs.accept(payload) == ()
    assert checked(payload, written(CREDIT)) == []


# -- making one -------------------------------------------------------------------------------------------


def replaced(payload: bytes, *objects: Issued, old_id: str = "CDR-1", **wanted: Any) -> list[Addition]:
    """Return what takes the place of a CDR."""
    assert cdrs.replacement is not None
    return list(cdrs.replacement.make(Issued(old_id, payload), Wanted(objects, **wanted), {}, NOW))


def refused(payload: bytes, *objects: Issued, **wanted: Any) -> str:
    """Return why a CDR cannot be replaced so."""
    with pytest.raises(CannotReplace) as error:
        replaced(payload, *objects, **wanted)
    return str(error.value)


@pytest.mark.requirement("R.08.02.03", "R.08.02.05", "R.08.02.06", "R.08.02.07", "R.08.02.08")
def test_making_a_credit():
    """The Credit CDR of a CDR is that CDR with the negative amounts, and says which one it credits."""
    original = cost(CDR, "11.20", ("VAT", "2.352"))

    (credit,) = replaced(original)

    assert (credit.module, credit.id, credit.like) == (ModuleId("cdrs"), "CDR-1-C", None)
    assert cdrs.accept(credit.payload) == ()
    assert checked(credit.payload, original) == []
    changed = {"total_cost", "credit", "credit_reference_id", "last_updated"}
    fields, before = read_exactly(credit.payload), read_exactly(original)
    assert {name: value for name, value in fields.items() if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    assert [fields[name] for name in ("credit", "credit_reference_id")] == [True, "CDR-1"]
    assert fields["last_updated"] == "2026-05-11T08:00:00.000Z"
    assert cdrs.audience(credit.payload) == cdrs.audience(original)


@pytest.mark.requirement("R.08.02.08")
def test_a_credit_keeps_every_byte_of_the_rest():
    """Digits, the order of fields, unknown fields and texts stay as they are, however it was written."""
    original = rb"""{
      "z" : [ 1.0, 1E400, 0.1234567890123456789, {"credit": true, "before_taxes":-0.10} ],
      "total_cost" : { "x": 0.10, "taxes": [ { "amount" : 0.1234567890123456789, "name": "V\u0041T", "y": null },
                       {"name":"City","amount":-0.00}, {"amount":null} ], "before_taxes" : 10.00 },
      "credit" : null, "total_energy": 20.00,
      "last_updated": "2026-05-04T11:40:00Z", "a": "\u00e9", "total_energy_cost": {"before_taxes": 9.00}
    }"""

    (credit,) = replaced(original)

    assert credit.payload == (
        b'{"z":[ 1.0, 1E400, 0.1234567890123456789, {"credit": true, "before_taxes":-0.10} ],'
        b'"total_cost":{"x":0.10,"taxes":[{"amount":-0.1234567890123456789,"name":"V\\u0041T","y":null},'
        b'{"name":"City","amount":0.00},{"amount":null}],"before_taxes":-10.00},'
        b'"credit":true,"total_energy":20.00,'
        b'"last_updated":"2026-05-11T08:00:00.000Z","a":"\\u00e9","total_energy_cost":{"before_taxes": 9.00},'
        b'"credit_reference_id":"CDR-1"}'
    )


@pytest.mark.parametrize(
    ("amount", "negative"),
    [
        ("1", "-1"),
        ("-1", "1"),
        ("10.00", "-10.00"),
        ("0", "0"),
        ("-0", "0"),
        ("0.00", "0.00"),
        ("-0.00E+5", "0.00E+5"),
        ("0.001", "-0.001"),
        ("1E400", "-1E400"),
        ("-1e-400", "1e-400"),
        ("12345678901234567890.12345678901234567890", "-12345678901234567890.12345678901234567890"),
    ],
)
def test_negated_digit_by_digit(amount, negative):
    """A number changes its sign and no digit; zero has no sign."""
    original = cost(CDR, amount, ("VAT", amount))

    (credit,) = replaced(original)

    total = read_exactly(credit.payload)["total_cost"]
    assert [str(total["before_taxes"]), str(total["taxes"][0]["amount"])] == [negative, negative]
    assert checked(credit.payload, original) == []


@pytest.mark.parametrize("total", [None, {}, {"before_taxes": None}, {"before_taxes": 1, "taxes": None}])
def test_a_credit_of_what_lacks_amounts(total):
    """What a tolerant reader let be missing stays missing."""
    (credit,) = replaced(written(CDR | {"total_cost": total}))

    assert json.loads(credit.payload)["total_cost"] == (
        total and {name: value and -value for name, value in total.items()}
    )


def test_id_that_is_wanted():
    """The publisher may choose the id: up to 39 characters, and another one than that of the CDR."""
    original = written(CDR)

    assert [credit.id for credit in replaced(original, id="7")] == ["7"]
    assert [credit.id for credit in replaced(original, id="x" * 39)] == ["x" * 39]
    assert [credit.id for credit in replaced(original, old_id="x" * 36)] == ["x" * 36 + "-C"]
    assert "39" in refused(original, id="x" * 40)
    assert "printable ASCII" in refused(original, id="a b")
    assert "printable ASCII" in refused(original, id="")
    assert "R.08.02.02" in refused(original, id="cdr-1")


def test_what_cannot_be_asked_for():
    """A Credit CDR is not replaced again, and nothing is credited from some time on."""
    assert "is a Credit CDR itself" in refused(written(CREDIT))
    assert "at once" in refused(written(CDR), effective_at=NOW)


@pytest.mark.requirement("R.08.02.09")
def test_new_cdrs():
    """New CDRs for the same Session follow the Credit CDR, byte for byte."""
    new = [Issued("CDR-2", cost(CDR, "10.00")), Issued("CDR-3", written(CDR | {"session_id": "session-1"}))]
    odd = Issued("CDR-4", written(CDR | {"credit": None, "session_id": None}))

    additions = replaced(written(CDR), *new, odd)

    assert [addition.id for addition in additions] == ["CDR-1-C", "CDR-2", "CDR-3", "CDR-4"]
    assert [addition.payload for addition in additions[1:]] == [new[0].payload, new[1].payload, odd.payload]
    assert {addition.module for addition in additions} == {"cdrs"}
    assert len(replaced(written(drop(CDR, ("session_id",))), *new)) == 3


@pytest.mark.requirement("R.08.02.09")
@pytest.mark.parametrize(
    ("id_", "fields", "why"),
    [
        ("CDR-2", {"credit": True, "credit_reference_id": "CDR-1"}, "leaves credit out"),
        ("CDR-2", {"credit": False}, "leaves credit out"),
        ("CDR-2", {"credit_reference_id": "CDR-1"}, "leaves credit_reference_id out"),
        ("CDR-1", {}, "an id that no other one has"),
        ("cdr-1", {}, "an id that no other one has"),
        ("cdr-1-c", {}, "an id that no other one has"),
        ("FIRST", {}, "an id that no other one has"),
        ("CDR-2", {"session_id": "SESSION-2"}, "another session"),
    ],
)
def test_wrong_new_cdrs(id_, fields, why):
    """A new CDR that is a Credit CDR, has an id that is taken, or is for another Session is refused."""
    assert why in refused(written(CDR), Issued("first", written(CDR)), Issued(id_, written(CDR | fields)))


# -- the example ------------------------------------------------------------------------------------------


def test_example_adds_up():
    """The costs of the example are those of its parts, and of the same session as the example of a Session."""
    text = (Path(EXAMPLES) / "cdrs.json").read_text(encoding="utf-8")
    cdr = json.loads(text, parse_float=Decimal)
    session = json.loads((Path(EXAMPLES) / "sessions.json").read_text(encoding="utf-8"), parse_float=Decimal)
    parts = [cdr[f"total_{part}_cost"] for part in ("fixed", "energy", "time", "reservation")]

    assert -cdr["total_cost"]["before_taxes"] == sum(part["before_taxes"] for part in parts)
    assert -cdr["total_cost"]["taxes"][0]["amount"] == sum(part["taxes"][0]["amount"] for part in parts)
    assert session["total_cost"]["before_taxes"] == -cdr["total_cost"]["before_taxes"]
    for name in ("cdr_token", "tariff_id", "tariff_association_id", "meter_id", "end_date_time"):
        assert cdr[name] == session[name]
    assert re.fullmatch(r"\{.*\}\n", text, re.DOTALL)
