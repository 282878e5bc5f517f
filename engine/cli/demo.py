"""`demo`: two platforms on this machine, from keys to replicated objects. Every step can be repeated by hand.

cpo.example.org (BEBEC)                              emsp.example.org (NLEMS)
  init, serve                                          init, serve
  certificate request ──────── cpo.csr ────────▶ certificate sign
  certificate install ◀─────── cpo.pem ─────────       …and the other way round
                      ◀──────── connect ────────
                      ◀─── subscribe locations, evsestatuses
  publish ═══════════ updates over mutual TLS ═══════▶ objects
"""

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from engine.cli.options import Panel

if TYPE_CHECKING:
    from engine.cli.stage import Observer, Player, Stage

LOCATIONS: Final = 1000
LIVE_CHANGES: Final = 200  # enough for a 99th percentile
LIVE_EVERY_S: Final = 0.01  # a hundred a second: a large operator's busy hour
CHANGES_WHILE_AWAY: Final = 300  # in each of three batches
BATCHES_WHILE_AWAY: Final = 3
REPLICATED_WITHIN_S: Final = 90.0  # on a slow machine; a tenth of it is usual
CAUGHT_UP_WITHIN_S: Final = 60.0  # a probe may be 60 s away at worst; after this short outage it is 8
STATUSES: Final = ("CHARGING", "AVAILABLE", "BLOCKED", "OUTOFORDER")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.START)(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folders, to go on playing.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Play there instead of in a temporary folder.")
    ] = None,
) -> None:
    """See it at work: a CPO and an eMSP on this machine, 1 000 Locations, an outage, and a comparison of every byte."""
    from engine.cli.failure import Failure

    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    with _playground(folder, keep=keep) as root:
        from engine.cli import output
        from engine.cli.stage import Player, Stage, free_ports

        stage = Stage(root)
        ports = free_ports(2)
        cpo = Player(stage, "cpo", "cpo.example.org", ports[0])
        emsp = Player(stage, "emsp", "emsp.example.org", ports[1])
        output.say("Two OCPI 3.0 platforms on this machine, a CPO and an eMSP; working in ", str(root))
        try:
            differences = _Play(stage, cpo, emsp).play()
        except KeyboardInterrupt:
            output.note(f"\ninterrupted; the platforms are stopped{'' if keep else ', and nothing stays behind'}")
            raise
        finally:
            emsp.stop()
            cpo.stop()
        if keep:
            _how_to_go_on(stage, cpo)
        output.say()
        if differences:
            raise Failure(f"{differences} objects differ between the two platforms", "this is a bug: please report it")
        output.done(f"the same bytes on both sides; the demo took {time.monotonic() - began:.0f} s")


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


class _Play:
    """The story, step by step."""

    def __init__(self, stage: "Stage", cpo: "Player", emsp: "Player") -> None:
        self._stage = stage
        self._cpo = cpo
        self._emsp = emsp
        self._statuses: list[str] = []

    def play(self) -> int:
        """Run every step; returns how many objects differ at the end."""
        self._make()
        self._exchange_certificates()
        self._connect()
        self._subscribe()
        self._publish()
        self._change_live()
        self._catch_up()
        return self._compare()

    def _make(self) -> None:
        stage, cpo, emsp = self._stage, self._cpo, self._emsp
        stage.step("Each platform gets a folder: settings, database, an authority for partners' certificates, keys")
        for player, party, role in ((cpo, "BEBEC", "CPO"), (emsp, "NLEMS", "EMSP")):
            what = ["--identity", player.identity, "--party", party, "--role", role]
            where = ["--listen", player.listen, "--base-url", player.base_url, "--allow-private-addresses"]
            stage.command("init", player.name, *what, *where)
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
        stage, emsp = self._stage, self._emsp
        stage.step("The eMSP subscribes to the CPO's Locations and EVSE statuses")
        agreed = ["--retry-interval", "1", "--parallelism", "32"]
        for module in ("locations", "evsestatuses"):
            stage.command("subscribe", emsp.name, "--as", "NLEMS", "--to", "BEBEC", module, *agreed)

    def _publish(self) -> None:
        from engine import samples
        from engine.cli import output

        stage = self._stage
        locations = list(samples.locations(LOCATIONS))
        statuses = list(samples.evse_statuses(locations))
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
            observer = self._observe(module)
            stage.command_with_progress("publish", self._cpo.name, module, f"{module}.ndjson")
            with stage.bar("replicating", len(issued)) as advance:
                observer.wait_until(partial(len, observer.held), len(issued), REPLICATED_WITHIN_S, advance)
            stored = sorted(held.stored_at for held in observer.held.values())
            took_s = max(stored[-1] - stored[0], 0.001)
            stage.tell(
                f"all {output.number(len(stored))} are stored at the eMSP, after {took_s:.1f} s:"
                f" {output.number(round(len(stored) / took_s))} a second"
            )

    def _change_live(self) -> None:
        from engine.samples import status_payload

        stage = self._stage
        stage.step(f"Live: {LIVE_CHANGES} EVSEs change their status, {1 / LIVE_EVERY_S:.0f} a second")
        observer = self._observe("evsestatuses", after=self._emsp.end_of_log("received", "evsestatuses"))
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
        observer = self._observe("evsestatuses", after=after)
        with stage.bar("catching up", len(away)) as advance:
            observer.wait_until(lambda: len(observer.held.keys() & set(away)), len(away), CAUGHT_UP_WITHIN_S, advance)
        stage.tell(f"{len(away)} statuses caught up within {time.monotonic() - began:.1f} s")
        wait_for(lambda: cpo.queue_size("evsestatuses") == 0, CAUGHT_UP_WITHIN_S)
        stage.command("state", cpo.name)

    def _compare(self) -> int:
        from engine.cli import output

        stage, differences = self._stage, 0
        stage.step("Both sides are compared, byte for byte")
        for module in ("locations", "evsestatuses"):
            issued = self._cpo.objects("issued", module)
            received = self._emsp.objects("received", module)
            differing = [
                name
                for name in issued.keys() | received.keys()
                if name not in issued
                or name not in received
                or issued[name].payload != received[name].payload
                or issued[name].version != received[name].version
            ]
            differences += len(differing)
            size = output.size(sum(len(one.payload) for one in issued.values()))
            if differing:
                stage.tell(output.bad("✗ "), f"{module}: {len(differing)} of {len(issued)} differ, as {differing[:5]}")
            else:
                stage.tell(output.good("✓ "), f"{module}: {output.number(len(issued))} objects, {size}: no difference")
        return differences

    def _owes(self, count: int) -> bool:
        return self._cpo.queue_size("evsestatuses") >= count

    def _observe(self, module: str, after: int = 0) -> "Observer":
        from engine.cli.stage import Observer

        return Observer(self._emsp, module, after)


def _line(object_id: str, payload: bytes) -> bytes:
    """Write a line for `publish`; line breaks between a payload's tokens become spaces."""
    return b'{"id":"%b","payload":%b}' % (object_id.encode(), payload.replace(b"\r", b" ").replace(b"\n", b" "))


def _write(path: Path, issued: Any) -> None:
    path.write_bytes(b"".join(_line(sample.id, sample.payload) + b"\n" for sample in issued))


def _milliseconds(delays: list[float], share: float) -> str:
    return f"{delays[min(len(delays) - 1, int(share * len(delays)))] * 1000:.0f} ms"


def _how_to_go_on(stage: "Stage", cpo: "Player") -> None:
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
