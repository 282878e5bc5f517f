"""`demo`: two platforms on this machine, from keys to replicated objects. Every step can be repeated by hand.

cpo.example.org (BEBEC)                              emsp.example.org (NLEMS)
  init, serve                                          init, serve
  certificate request ──────── cpo.csr ────────▶ certificate sign
  certificate install ◀─────── cpo.pem ─────────       …and the other way round
                      ◀──────── connect ────────
                      ◀─── subscribe locations, tariffs, sessions, cdrs …
  publish ═══════════ updates over mutual TLS ═══════▶ objects
                      ─────── subscribe tokens ─▶
  objects ◀══════════ updates over mutual TLS ════════ publish
  stations (DEDRV) ◀─── call reserve-now, start, stop ─
"""

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from engine.cli.options import Panel

if TYPE_CHECKING:
    from engine.cli.places import Place
    from engine.cli.stage import Held, Observer, Player, Stage
    from engine.samples import Sample

CPO: Final = "BEBEC"
EMSP: Final = "NLEMS"
SIMULATED_CPO: Final = "DEDRV"  # on the CPO's platform: its stations and drivers are made up, and answer calls
SIMULATED_SPEED: Final = 20  # a reset of half a minute would hold up whoever watches
ANOTHER_EMSP: Final = "DEOTH"  # on no platform here: what concerns it goes to nobody
LOCATIONS: Final = 1000
PRICED_LOCATIONS: Final = 100  # those for which there are Tariff Associations, and where somebody charges
TARIFFS: Final = 40
TOKENS: Final = 150
TOKENS_OF_ANOTHER: Final = 30
SESSIONS: Final = 240  # half of them are over, and have CDRs
AGREED: Final = ("--retry-interval", "1", "--parallelism", "32")
LIVE_CHANGES: Final = 200  # enough for a 99th percentile
LIVE_EVERY_S: Final = 0.01  # a hundred a second: a large operator's busy hour
CHANGES_WHILE_AWAY: Final = 300  # in each of three batches
BATCHES_WHILE_AWAY: Final = 3
REPLICATED_WITHIN_S: Final = 90.0  # on a slow machine; a tenth of it is usual
CAUGHT_UP_WITHIN_S: Final = 60.0  # a probe may be 60 s away at worst; after this short outage it is 8
NOBODY_NAMED: Final[Mapping[str, str]] = MappingProxyType({})
STATUSES: Final = ("CHARGING", "AVAILABLE", "BLOCKED", "OUTOFORDER")
USUAL_DATABASE: Final = "postgresql://postgres@127.0.0.1:5432/postgres"
USUAL_BROKER: Final = "amqp://guest:guest@127.0.0.1:5672/"

HOW_TO_HAVE_THEM: Final = (
    "this demo needs both, on their usual ports, with a user postgres that needs no password and may make databases,"
    " and guest (on Debian and Ubuntu: apt install postgresql rabbitmq-server); or name others:"
    " OCPI_DEMO_DATABASE_URL=postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    " OCPI_DEMO_BROKER_URL=amqp://USER:PASSWORD@HOST:5672/VHOST"
)


class Pair(StrEnum):
    """What the two platforms are made of, named for where the queues are."""

    EMBEDDED = "embedded"
    RABBITMQ = "rabbitmq"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.START)(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folders, to go on playing.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Play there instead of in a temporary folder.")
    ] = None,
    broker: Annotated[
        Pair, typer.Option(help="rabbitmq: with data in PostgreSQL and queues in RabbitMQ, which are there already.")
    ] = Pair.EMBEDDED,
    database_url: Annotated[
        str, typer.Option(metavar="URL", envvar="OCPI_DEMO_DATABASE_URL", help="A PostgreSQL to make databases in.")
    ] = USUAL_DATABASE,
    broker_url: Annotated[
        str, typer.Option(metavar="URL", envvar="OCPI_DEMO_BROKER_URL", help="A RabbitMQ to make queues in.")
    ] = USUAL_BROKER,
) -> None:
    """See it at work: a CPO and an eMSP on this machine, nine modules, an outage, and a comparison of every byte."""
    from engine.cli.failure import Failure

    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    with (
        _playground(folder, keep=keep) as root,
        _places(database_url, broker_url, wanted=broker is Pair.RABBITMQ, keep=keep) as places,
    ):
        from engine.cli import output
        from engine.cli.stage import Player, Stage, free_ports, without_password

        stage = Stage(root)
        ports = free_ports(2)
        cpo = Player(stage, "cpo", "cpo.example.org", ports[0], places.get("cpo"))
        emsp = Player(stage, "emsp", "emsp.example.org", ports[1], places.get("emsp"))
        output.say("Two OCPI 3.0 platforms on this machine, a CPO and an eMSP; working in ", str(root))
        pair = "SQLite and queues in memory"
        if places:
            pair = "PostgreSQL and RabbitMQ"
            output.say(f"with {pair}: {without_password(database_url)} and {without_password(broker_url)}")
        else:
            output.say(f"with {pair}")
        try:
            differences = _Play(stage, cpo, emsp).play()
        except KeyboardInterrupt:
            output.note(f"\ninterrupted; the platforms are stopped{'' if keep else ', and nothing stays behind'}")
            raise
        finally:
            emsp.stop()
            cpo.stop()
        if keep:
            _how_to_go_on(stage, cpo, [place.name for place in places.values()])
        output.say()
        if differences:
            raise Failure(f"{differences} objects differ between the two platforms", "this is a bug: please report it")
        output.done(f"the same bytes on both sides, with {pair}; the demo took {time.monotonic() - began:.0f} s")


def _end(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _playground(folder: Path | None, *, keep: bool) -> Iterator[Path]:
    """Make a folder to play in, which is gone afterwards unless it is to be kept."""
    from engine.cli.failure import Failure

    if folder is None:
        root, made = Path(tempfile.mkdtemp(prefix="ocpi-demo-")), True
    else:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        root = folder.absolute()
        if any(root.iterdir()):
            raise Failure(f"{folder} is not empty", "name a folder that is, or that does not exist")
    try:
        yield root
    finally:
        if not keep:
            for path in root.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if made:
                root.rmdir()


@contextlib.contextmanager
def _places(database_url: str, broker_url: str, *, wanted: bool, keep: bool) -> Iterator[dict[str, "Place"]]:
    """Make a database, and a name for queues, for each platform, if wanted; they go afterwards unless they are kept."""
    if not wanted:
        yield {}
        return
    from brokers.base import BrokerError
    from engine.cli import output
    from engine.cli.failure import Failure
    from engine.cli.places import make_place
    from engine.store.database import StoreUnavailable

    game = f"ocpi_demo_{secrets.token_hex(4)}"
    places: dict[str, Place] = {}
    try:
        for name in ("cpo", "emsp"):
            made = make_place(f"{game}_{name}", server=database_url, broker_url=broker_url)
            try:
                places[name] = asyncio.run(made)
            except StoreUnavailable as error:
                raise Failure(f"PostgreSQL cannot be used: {error}", HOW_TO_HAVE_THEM) from error
            except BrokerError as error:
                raise Failure(f"RabbitMQ cannot be used: {error}", HOW_TO_HAVE_THEM) from error
        yield places
    finally:
        for place in () if keep else places.values():
            try:
                asyncio.run(place.remove())
            except (StoreUnavailable, BrokerError) as error:
                output.note(f"{place.name} stays behind: {error}")


class _Play:
    """The story, step by step."""

    def __init__(self, stage: "Stage", cpo: "Player", emsp: "Player") -> None:
        self._stage = stage
        self._cpo = cpo
        self._emsp = emsp
        self._locations: list[Sample] = []
        self._statuses: list[str] = []
        self._tariff: Sample
        self._cdr: Sample
        self._whom: dict[str, dict[str, str]] = {}
        """Module → id → the eMSP that it is for, if it is for one only; the rest is for any."""

    def play(self) -> int:
        """Run every step; returns how many objects differ at the end."""
        self._make()
        self._exchange_certificates()
        self._connect()
        self._subscribe()
        self._publish()
        self._publish_the_rest()
        self._refuse()
        self._credit()
        self._change_live()
        self._catch_up()
        self._journey()
        return self._compare()

    def _make(self) -> None:
        stage, cpo, emsp = self._stage, self._cpo, self._emsp
        stage.step("Each platform gets a folder: settings, database, an authority for partners' certificates, keys")
        for player, party, role in ((cpo, CPO, "CPO"), (emsp, EMSP, "EMSP")):
            what = ["--identity", player.identity, "--party", party, "--role", role]
            where = ["--listen", player.listen, "--base-url", player.base_url, "--allow-private-addresses"]
            stage.command("init", player.name, *what, *where, *player.made_with)
            player.take_place()
        emsp.add_settings("backoffice", kind="stream")
        stage.step("Each runs in its own process")
        cpo.start()
        emsp.start()
        cpo.wait_until_ready()
        emsp.wait_until_ready()

    def _exchange_certificates(self) -> None:
        stage = self._stage
        for asking, signing in ((self._cpo, self._emsp), (self._emsp, self._cpo)):
            stage.step(f"{signing.identity} signs a client certificate for {asking.identity}")
            csr, chain = f"{asking.name}.csr", f"{asking.name}.pem"
            stage.command("certificate", "request", asking.name, signing.identity, "--out", csr)
            trusting = ["--server-ca", asking.server_ca]
            stage.command("certificate", "sign", signing.name, csr, "--confirmed", *trusting, "--out", chain)
            trusting = ["--server-ca", signing.server_ca]
            stage.command("certificate", "install", asking.name, signing.identity, chain, *trusting)

    def _connect(self) -> None:
        stage, cpo, emsp = self._stage, self._cpo, self._emsp
        stage.step("The eMSP connects: handshake, and both fetch each other's parties")
        stage.command("connect", emsp.name, cpo.base_url, "--identity", cpo.identity)
        stage.command("parties", emsp.name, "--of", cpo.identity)

    def _subscribe(self) -> None:
        stage = self._stage
        stage.step("The eMSP subscribes to all that the CPO issues, and the CPO to the eMSP's Tokens")
        stage.commands(_issued_by("CPO"), "subscribe", self._emsp.name, "--as", EMSP, "--to", CPO, "$module", *AGREED)
        for module in _issued_by("EMSP"):
            stage.command("subscribe", self._cpo.name, "--as", CPO, "--to", EMSP, module, *AGREED)

    def _publish(self) -> None:
        from engine import samples
        from engine.cli import output

        stage = self._stage
        locations = list(samples.locations(LOCATIONS))
        statuses = list(samples.evse_statuses(locations))
        self._locations = locations[:PRICED_LOCATIONS]
        self._statuses = [status.id for status in statuses]
        for module, issued, text in (
            (
                "locations",
                locations,
                f"The CPO publishes {output.number(LOCATIONS)} Locations, and they are replicated",
            ),
            (
                "evsestatuses",
                statuses,
                f"The same for the status of each of their {output.number(len(statuses))} EVSEs",
            ),
        ):
            stage.step(text)
            _write(stage.folder / f"{module}.ndjson", issued)
            observer = self._observe(self._emsp, module)
            stage.command_with_progress("publish", self._cpo.name, module, f"{module}.ndjson")
            with stage.bar("replicating", len(issued)) as advance:
                observer.wait_until(partial(len, observer.held), len(issued), REPLICATED_WITHIN_S, advance)
            stored = sorted(held.stored_at for held in observer.held.values())
            took_s = max(stored[-1] - stored[0], 0.001)
            stage.tell(
                f"all {output.number(len(stored))} are stored at the eMSP, after {took_s:.1f} s:"
                f" {output.number(round(len(stored) / took_s))} a second"
            )

    def _publish_the_rest(self) -> None:
        stage = self._stage
        stage.step("The eMSP publishes its Tokens; the CPO what charging costs, who charged, and what that came to")
        made = _charging(self._locations)
        of_cpo = [name for name in made if name in _issued_by("CPO")]
        self._whom = _emsps_of(made)
        self._cdr = next(cdr for cdr in made["cdrs"] if self._is_for(EMSP, "cdrs", cdr.id))
        self._tariff = made["tariffs"][0]
        observers = {name: self._observe(self._emsp if name in of_cpo else self._cpo, name) for name in made}
        due = {name: sum(self._is_for(EMSP, name, each.id) for each in of) for name, of in made.items()}
        for name, of in made.items():
            # Sessions and CDRs say themselves whom they concern.
            named = self._whom[name] if name in ("meterreadings", "irrs") else {}
            _write(stage.folder / f"{name}.ndjson", of, named)
        stage.command("publish", self._emsp.name, "tokens", "tokens.ndjson")
        stage.commands(of_cpo, "publish", self._cpo.name, "$module", "$module.ndjson")
        for name, observer in observers.items():
            observer.wait_until(partial(len, observer.held), due[name], REPLICATED_WITHIN_S, lambda _count: None)
        elsewhere = {name: len(made[name]) - due[name] for name in self._whom}
        stage.tell("all are stored at the other side, but for what concerns another eMSP, by the token in a Session or")
        stage.tell(f"CDR, or because the CPO says so: {_listed(elsewhere)} of {ANOTHER_EMSP} go nowhere")

    def _is_for(self, party: str, module: str, object_id: str) -> bool:
        return self._whom.get(module, {}).get(object_id, party) == party

    def _refuse(self) -> None:
        from engine.samples import Sample

        stage = self._stage
        stage.step("What does not conform is not published, and what never changes is not changed")
        wrong = json.loads(self._cdr.payload)
        wrong["currency"] = "EURO"
        del wrong["cdr_location"]["connector"]["evse_uid"]
        _write(stage.folder / "wrong.ndjson", [Sample(f"{CPO}-WRONG", json.dumps(wrong).encode())])
        stage.refused("publish", self._cpo.name, "cdrs", "wrong.ndjson")
        dearer = json.loads(self._tariff.payload)
        dearer["elements"][0]["price_components"][0]["price"] = 1
        _write(stage.folder / "dearer.ndjson", [Sample(self._tariff.id, json.dumps(dearer).encode())])
        stage.refused("publish", self._cpo.name, "tariffs", "dearer.ndjson")

    def _credit(self) -> None:
        stage = self._stage
        stage.step("A CDR was wrong: it is credited by another one")
        observer = self._observe(self._emsp, "cdrs", after=self._emsp.end_of_log("received", "cdrs"))
        stage.command("replace", self._cpo.name, "cdrs", self._cdr.id)
        observer.wait_until(partial(len, observer.held), 1, REPLICATED_WITHIN_S, lambda _count: None)
        ((credit_id, credit),) = observer.held.items()
        read = json.loads(credit.payload, parse_float=str)
        cost = f"{read['total_cost']['before_taxes']} {read['currency']}"
        stage.tell(f"stored at the eMSP: {credit_id}, with a total cost of {cost} before taxes")

    def _change_live(self) -> None:
        from engine.samples import status_payload

        stage = self._stage
        stage.step(f"Live: {LIVE_CHANGES} EVSEs change their status, {1 / LIVE_EVERY_S:.0f} a second")
        observer = self._observe(self._emsp, "evsestatuses", after=self._emsp.end_of_log("received", "evsestatuses"))
        sent_at: dict[str, float] = {}
        with stage.feed("publish", self._cpo.name, "evsestatuses", "-") as feed:
            self._warm_up(feed, observer)
            with stage.bar("changing", LIVE_CHANGES) as advance:
                for number, evse in enumerate(self._statuses[1 : LIVE_CHANGES + 1]):
                    line = _line(evse, status_payload(STATUSES[number % len(STATUSES)], "2026-05-02T08:00:00.000Z"))
                    sent_at[evse] = time.time()
                    feed.send(line)
                    advance(number + 1)
                    time.sleep(LIVE_EVERY_S)
        observer.wait_until(
            lambda: len(observer.held.keys() & sent_at.keys()), LIVE_CHANGES, REPLICATED_WITHIN_S, lambda _count: None
        )
        delays = sorted(observer.held[evse].stored_at - at for evse, at in sent_at.items())
        p50, p99, longest = (_milliseconds(delays, share) for share in (0.5, 0.99, 1.0))
        stage.tell(f"from publishing to stored at the eMSP: p50 {p50}, p99 {p99}, longest {longest}")

    def _warm_up(self, feed: Any, observer: "Observer") -> None:
        """Send one change ahead, so that the start of the command is not counted."""
        from engine.samples import status_payload

        feed.send(_line(self._statuses[0], status_payload("INOPERATIVE")))
        observer.wait_until(lambda: len(observer.held), 1, REPLICATED_WITHIN_S, lambda _count: None)

    def _journey(self) -> None:
        from engine.cli.journey import Journey

        stage, cpo = self._stage, self._cpo
        stage.step(f"The CPO's platform hosts {SIMULATED_CPO}, too, whose stations and drivers are simulated")
        stage.command("parties", "add", cpo.name, SIMULATED_CPO, "--role", "CPO")
        cpo.stop()
        cpo.add_settings("backoffice", kind="simulated", parties=[SIMULATED_CPO], simulated_speed=SIMULATED_SPEED)
        cpo.start()
        cpo.wait_until_ready()
        Journey(stage, cpo, self._emsp, party=EMSP, cpo_party=SIMULATED_CPO).play()

    def _catch_up(self) -> None:
        from engine.cli import output
        from engine.cli.stage import wait_for
        from engine.samples import Sample, status_payload

        stage, cpo, emsp = self._stage, self._cpo, self._emsp
        stage.step("The eMSP is stopped; the CPO goes on, and what it owes grows")
        after = self._emsp.end_of_log("received", "evsestatuses")
        emsp.stop()
        stage.tell(output.faint(f"{emsp.identity} is stopped"))
        away = self._statuses[-CHANGES_WHILE_AWAY * BATCHES_WHILE_AWAY :]
        for number in range(BATCHES_WHILE_AWAY):
            batch = away[number * CHANGES_WHILE_AWAY : (number + 1) * CHANGES_WHILE_AWAY]
            changed = [Sample(evse, status_payload("RESERVED", "2026-05-02T09:00:00.000Z")) for evse in batch]
            _write(stage.folder / f"away-{number + 1}.ndjson", changed)
            stage.command("publish", cpo.name, "evsestatuses", f"away-{number + 1}.ndjson")
            owed = (number + 1) * CHANGES_WHILE_AWAY
            wait_for(partial(self._owes, owed), 2.0)
            stage.tell(f"queue: {output.number(cpo.queue_size('evsestatuses'))} EVSE statuses owed to NLEMS")
        stage.command("state", cpo.name)
        stage.step("It is started again, and catches up")
        emsp.start()
        emsp.wait_until_ready()
        began = time.monotonic()
        observer = self._observe(emsp, "evsestatuses", after=after)
        with stage.bar("catching up", len(away)) as advance:
            observer.wait_until(lambda: len(observer.held.keys() & set(away)), len(away), CAUGHT_UP_WITHIN_S, advance)
        stage.tell(f"{len(away)} statuses caught up within {time.monotonic() - began:.1f} s")
        wait_for(lambda: cpo.queue_size("evsestatuses") == 0, CAUGHT_UP_WITHIN_S)
        stage.tell(f"queue: {output.number(cpo.queue_size('evsestatuses'))} owed")

    def _compare(self) -> int:
        from engine.cli import output

        stage, cpo, emsp = self._stage, self._cpo, self._emsp
        stage.step("Both sides are compared, byte for byte, module by module")
        stage.tell(
            output.faint("as `ocpi-engine objects cpo MODULE --issued --json` and `emsp … --received` show them")
        )
        rows: list[list[output.Cell]] = []
        differences = 0
        for issuer, issuer_party, receiver, party, role in (
            (cpo, CPO, emsp, EMSP, "CPO"),
            (emsp, EMSP, cpo, CPO, "EMSP"),
        ):
            for module in _issued_by(role):
                issued = issuer.objects("issued", module, issuer_party)
                received = receiver.objects("received", module, issuer_party)
                due = {name: one for name, one in issued.items() if self._is_for(party, module, name)}
                differing = _differing(due, received)
                differences += len(differing)
                verdict = output.bad(f"✗ {differing[:3]} differ") if differing else output.good("✓ no difference")
                counts = map(_number, (len(issued), len(due), len(received)))
                size = output.size(sum(len(one.payload) for one in received.values()))
                rows.append([module, f"{issuer_party} → {party}", *counts, size, verdict])
        numbers = ["issued", "for the other", "it has", "size"]
        stage.table(["module", "from → to", *numbers, "verdict"], rows, right=numbers)
        return differences

    def _owes(self, count: int) -> bool:
        return self._cpo.queue_size("evsestatuses") >= count

    def _observe(self, player: "Player", module: str, after: int = 0) -> "Observer":
        from engine.cli.stage import Observer

        return Observer(player, module, after)


def _issued_by(role: str) -> list[str]:
    """List the modules that a CPO issues, or those that only an eMSP does."""
    from engine.protocol.modules import all_modules

    return [str(each.id) for each in all_modules() if ("CPO" in each.issued_by) == (role == "CPO")]


def _charging(locations: "list[Sample]") -> "dict[str, list[Sample]]":
    """Make what goes with Locations: what charging costs there, who charges, until now, and what comes of it."""
    from engine import samples

    tokens = list(samples.tokens(TOKENS, party=EMSP))
    everyone = [*tokens, *samples.tokens(TOKENS_OF_ANOTHER, party=ANOTHER_EMSP)]
    tariffs = list(samples.tariffs(TARIFFS, party=CPO))
    associations = list(samples.tariff_associations(locations, tariffs, party=CPO))
    sessions = list(
        samples.sessions(
            SESSIONS,
            locations=locations,
            tariffs=tariffs,
            associations=associations,
            tokens=everyone,
            party=CPO,
            newest=datetime.now(UTC).replace(microsecond=0),
        )
    )
    cdrs = list(samples.cdrs(sessions, locations=locations, tariffs=tariffs, party=CPO))
    return {
        "tokens": tokens,
        "tariffs": tariffs,
        "tariffassociations": associations,
        "sessions": sessions,
        "cdrs": cdrs,
        "meterreadings": list(samples.meter_samples(sessions, party=CPO)),
        "irrs": list(samples.irrs(cdrs, party=CPO)),
    }


def _emsps_of(made: "dict[str, list[Sample]]") -> dict[str, dict[str, str]]:
    """Find out for which eMSP a Session, a CDR and what belongs to them is."""
    read = {name: {each.id: json.loads(each.payload) for each in made[name]} for name in made}
    of_token = {
        name: {key: each["cdr_token"]["party_id"] for key, each in read[name].items()} for name in ("sessions", "cdrs")
    }
    return of_token | {
        "meterreadings": {
            key: of_token["sessions"][each["session_id"]]
            for key, each in read["meterreadings"].items()
            if "session_id" in each
        },
        "irrs": {key: of_token["cdrs"][each["cdr_ids"][0]] for key, each in read["irrs"].items()},
    }


def _listed(counts: dict[str, int]) -> str:
    *most, last = (f"{count} {name}" for name, count in counts.items())
    return f"{', '.join(most)} and {last}"


def _differing(issued: "dict[str, Held]", received: "dict[str, Held]") -> list[str]:
    """List the ids of what is not the same on both sides."""
    return [
        name
        for name in issued.keys() | received.keys()
        if name not in issued
        or name not in received
        or issued[name].payload != received[name].payload
        or issued[name].version != received[name].version
    ]


def _line(object_id: str, payload: bytes, whom: str | None = None) -> bytes:
    """Write a line for `publish`; line breaks between a payload's tokens become spaces."""
    audience = b"" if whom is None else b',"audience":["%b"]' % whom.encode()
    written = payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return b'{"id":"%b","payload":%b%b}' % (object_id.encode(), written, audience)


def _write(path: Path, issued: "Iterable[Sample]", whom: Mapping[str, str] = NOBODY_NAMED) -> None:
    path.write_bytes(b"".join(_line(each.id, each.payload, whom.get(each.id)) + b"\n" for each in issued))


def _number(count: int) -> str:
    from engine.cli import output

    return output.number(count) or ""


def _milliseconds(delays: list[float], share: float) -> str:
    return f"{delays[min(len(delays) - 1, int(share * len(delays)))] * 1000:.0f} ms"


def _how_to_go_on(stage: "Stage", cpo: "Player", places: Sequence[str] = ()) -> None:
    from engine.cli import output

    stage.step("Go on playing: everything is kept, and both platforms are stopped")
    stage.tell("in one terminal:")
    if shutil.which("ocpi-engine") is None:
        stage.tell("  export PATH=", str(Path(sys.executable).parent), ":$PATH")
    stage.tell(f"  cd {stage.folder} && (ocpi-engine serve cpo & ocpi-engine serve emsp)")
    stage.tell("in another, in the same folder:")
    for command in (
        "ocpi-engine state cpo --watch",
        "ocpi-engine objects emsp evsestatuses --received --follow",
        """echo '{"id": "BEBEC*E1", "payload": {"status": "CHARGING"}}' | ocpi-engine publish cpo evsestatuses -""",
        "ocpi-engine subscriptions emsp --ask",
        f"ocpi-engine certificate renew emsp {cpo.identity}",
        f"ocpi-engine disconnect emsp {cpo.identity}",
    ):
        stage.tell(output.faint("  "), command)
    stage.tell(output.faint(f"when it is enough: rm -r {stage.folder}"))
    for name in places:
        stage.tell(
            output.faint(f"and in PostgreSQL: DROP DATABASE {name}; queues {name}.… in RabbitMQ go after a week unused")
        )
