"""What the demo plays on: commands that are run and shown, platforms that are started and stopped, and an observer."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self

import msgspec
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from engine.cli import output
from engine.cli.api import Api, segment
from engine.cli.failure import Failure

if TYPE_CHECKING:
    from engine.cli.places import Place

READY_WITHIN_S: Final = 30.0  # a platform that takes longer has another problem
STOPPED_WITHIN_S: Final = 20.0  # it waits for answers itself, for 15 s at most
LOOK_AGAIN_S: Final = 0.05
LOG_LINES_SHOWN: Final = 15
MARGIN: Final = 4  # columns before what belongs to a step
PAGE: Final = 1_000  # objects fetched in one request

ENGINE: Final = (sys.executable, "-m", "engine")


def free_ports(count: int) -> list[int]:
    """Find ports of loopback that nobody listens at."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def without_password(text: str) -> str:
    """Leave the passwords of URLs out."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1@", text)


class Stage:
    """Shows what happens, and runs the commands that do it, in the demo's folder."""

    def __init__(self, folder: Path) -> None:
        """Play in this folder."""
        self.folder = folder
        self._step = 0

    def step(self, text: str) -> None:
        """Begin a step."""
        self._step += 1
        output.say()
        output.say(Text(f"{self._step:2}  {text}", style="bold"))

    def tell(self, *parts: str | Text) -> None:
        """Say a line that belongs to the step."""
        output.say(" " * MARGIN, *parts)

    def show_command(self, *words: str) -> None:
        """Show a command that can be repeated by hand, in the demo's folder."""
        self.tell(Text(f"$ ocpi-engine {without_password(shlex.join(words))}", style="cyan"))

    def command(self, *words: str) -> None:
        """Show a command, run it, and show what it says."""
        self.show_command(*words)
        self._show_answer(self._run(words), words)

    def refused(self, *words: str) -> None:
        """Do the same with a command that is refused."""
        self.show_command(*words)
        done = self._run(words)
        self._show_words(done.stdout)
        if done.returncode != 1:
            raise Failure(f"`ocpi-engine {shlex.join(words)}` was to be refused, and ended with {done.returncode}")

    def commands(self, modules: Sequence[str], *words: str) -> None:
        """Show a command with ``$module`` in it as a loop over modules, and run it for each."""
        shown = shlex.join(words).replace("'$module'", "$module").replace("'$module.ndjson'", "$module.ndjson")
        self.tell(Text(f"$ for module in {' '.join(modules)}", style="cyan"))
        self.tell(Text(f"  do ocpi-engine {shown}; done", style="cyan"))
        for module in modules:
            order = [word.replace("$module", module) for word in words]
            self._show_answer(self._run(order), order)

    def _run(self, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 - our own command line
            [*ENGINE, *words],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def _show_answer(self, done: "subprocess.CompletedProcess[str]", words: Sequence[str]) -> None:
        self._show_words(done.stdout, hints=done.returncode != 0)  # what comes next is what the demo does next
        _check(done.returncode, words)

    def _show_words(self, text: str, *, hints: bool = False) -> None:
        for line in text.splitlines():
            if hints or not line.startswith(output.HINT):
                self.tell(output.faint(line.rstrip()))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[output.Cell]], *, right: Sequence[str]) -> None:
        """Show a table that belongs to the step."""
        output.console().print(Padding(output.table(columns, rows, right=right), (0, 0, 0, MARGIN), expand=False))

    def _environment(self) -> dict[str, str]:
        """Let tables be as wide as there is room for beside our margin."""
        terminal = output.console()
        return {**os.environ, "COLUMNS": str(terminal.width - MARGIN)} if terminal.is_terminal else dict(os.environ)

    def command_with_progress(self, *words: str) -> None:
        """Do the same for a command that draws a progress bar where there is a terminal."""
        if not output.console().is_terminal:
            self.command(*words)
            return
        self.show_command(*words)
        _check(subprocess.run([*ENGINE, *words], cwd=self.folder, check=False).returncode, words)  # noqa: S603

    def feed(self, *words: str) -> "Feed":
        """Show a command, and run it while it is given lines."""
        self.show_command(*words)
        return Feed(words, self.folder)

    @contextlib.contextmanager
    def bar(self, text: str, total: int) -> Any:
        """Draw a progress bar where there is a terminal; call what it gives with how far it is."""
        columns = (TextColumn(f"    {text}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, console=output.console(), transient=True, disable=not output.console().is_terminal
        ) as bar:
            task = bar.add_task("", total=total)
            yield lambda completed: bar.update(task, completed=completed)


def _check(returncode: int, words: Sequence[str]) -> None:
    if returncode:
        command = without_password(shlex.join(words))
        raise Failure(f"`ocpi-engine {command}` ended with exit code {returncode}", "its words are above")


class Feed:
    """A running `publish … -` that is given lines one by one."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        """Start it."""
        self._words = words
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*ENGINE, *words],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def send(self, line: bytes) -> None:
        """Give it a line."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - asked for above
        pipe.write(line + b"\n")
        pipe.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if kind is not None:
            self._process.terminate()
        returncode = self._process.wait()
        if kind is None:
            _check(returncode, self._words)


@dataclass(frozen=True, slots=True)
class Held:
    """An object as a platform's local API shows it."""

    version: int
    payload: bytes
    stored_at: float
    cursor: int


class _Shown(msgspec.Struct):
    id: str
    version: int
    payload: msgspec.Raw
    stored_at: str
    cursor: str

    def held(self) -> Held:
        stored_at = datetime.fromisoformat(self.stored_at).timestamp()
        return Held(self.version, bytes(self.payload), stored_at, int(self.cursor))


class _Page(msgspec.Struct):
    objects: list[_Shown]
    cursor: str
    more: bool


class _Position(msgspec.Struct):
    cursor: str


class Player:
    """One platform: its folder and, while it runs, its process."""

    def __init__(self, stage: Stage, name: str, identity: str, port: int, place: "Place | None" = None) -> None:
        """Name it; nothing runs before ``start``. Without a place, data and queues are in its folder and process."""
        self.name = name
        self.identity = identity
        self.listen = f"127.0.0.1:{port}"
        self.base_url = f"https://{self.listen}/ocpi"
        self._stage = stage
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self._stage.folder / self.name

    @property
    def log(self) -> Path:
        """What it says."""
        return self._stage.folder / f"{self.name}.log"

    @property
    def made_with(self) -> list[str]:
        """Further options of ``init``."""
        place = self._place
        return [] if place is None else ["--database", place.database_url, "--broker", place.broker_url]

    def take_place(self) -> None:
        """Use its place, if it has one, with names that are nobody else's."""
        if self._place is not None:
            line = self._place.take(self.folder / "engine.toml")
            self._stage.tell(output.faint(f"{line} goes into [broker] of {self.name}/engine.toml"))

    def add_settings(self, section: str, **values: Any) -> None:
        """Put a table into its settings file, and tell of it."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        with (self.folder / "engine.toml").open("a") as file:
            file.write(f"\n[{section}]\n" + "\n".join(lines) + "\n")
        told = ", ".join(lines)
        self._stage.tell(output.faint(f"{told} goes into [{section}] of {self.name}/engine.toml"))

    @property
    def server_ca(self) -> str:
        """The authority that vouches for its server, as a path in the demo's folder."""
        return f"{self.name}/tls/server-ca.pem"

    def api(self) -> Api:
        """Open its local API."""
        return Api(self.folder)

    def start(self) -> None:
        """Run `ocpi-engine serve`, and return when partners are served."""
        self._stage.show_command("serve", self.name)
        self._log = self.log.open("ab")
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*ENGINE, "serve", self.name],
            cwd=self._stage.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # the terminal's Ctrl-C reaches the demo alone, which ends it in order
        )

    def wait_until_ready(self) -> None:
        """Return when partners are served."""
        if not wait_for(self._ready, READY_WITHIN_S):
            raise Failure(f"{self.name} did not start within {READY_WITHIN_S:.0f} s:\n{self._last_words()}")
        self._stage.tell(output.faint(f"{self.identity} serves partners at {self.base_url}"))

    def _ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise Failure(f"{self.name} ended right after its start:\n{self._last_words()}")
        try:
            with self.api() as api:
                api.get("/readyz")
        except Failure:
            return False
        return True

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def stop(self) -> None:
        """End its process, in order if it lets itself be ended so."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def objects(self, kind: str, module: str, issuer: str) -> dict[str, Held]:
        """Fetch every object of a party that it issued or received, payloads as the bytes that they are."""
        found: dict[str, Held] = {}
        cursor, more = "0", True
        with self.api() as api:
            while more:
                path = f"/api/v1/{kind}/{segment(module)}"
                answer = api.read(path, issuer=issuer, after=cursor, limit=PAGE)
                page = msgspec.json.decode(answer, type=_Page)
                found |= {shown.id: shown.held() for shown in page.objects}
                cursor, more = page.cursor, page.more
        return found

    def end_of_log(self, kind: str, module: str) -> int:
        """Ask where a change log ends."""
        with self.api() as api, api.events(f"/api/v1/{kind}/{segment(module)}/changes") as events:
            _, position = next(events)
        return int(msgspec.json.decode(position, type=_Position).cursor)

    def queue_size(self, module: str) -> int:
        """Ask its state how many objects it owes to the subscribers of a module."""
        with self.api() as api:
            here = api.get("/api/v1/state")["subscriptions_here"]
        return sum(one["queue_size"] for one in here if one["module"] == module)


class Observer:
    """Follows what a platform receives, through its local API, from the beginning or after a cursor."""

    def __init__(self, player: Player, module: str, after: int = 0) -> None:
        """Begin to follow, and return when the stream stands."""
        self.held: dict[str, Held] = {}
        self.cursor = after
        self._player = player
        self._path = f"/api/v1/received/{segment(module)}/changes"
        self._changed = threading.Condition()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"observe {module}", daemon=True)
        self._thread.start()
        if not self._begun.wait(READY_WITHIN_S):
            raise Failure(f"{player.name} does not let its changes be followed")

    def _follow(self) -> None:
        # The stream ends with its platform; whoever waits then notices that nothing more comes.
        with (
            contextlib.suppress(Failure),
            self._player.api() as api,
            api.events(self._path, after=self.cursor) as events,
        ):
            for kind, data in events:
                self._begun.set()
                if kind == "object":
                    shown = msgspec.json.decode(data, type=_Shown)
                    with self._changed:
                        self.held[shown.id] = shown.held()
                        self.cursor = self.held[shown.id].cursor
                        self._changed.notify_all()

    def wait_until(
        self, reached: Callable[[], int], goal: int, within_s: float, on_progress: Callable[[int], None]
    ) -> None:
        """Wait until ``reached()`` is ``goal``."""
        until = time.monotonic() + within_s
        with self._changed:
            while (count := reached()) < goal:
                on_progress(count)
                if time.monotonic() > until:
                    raise Failure(f"{self._player.name} has {count} of {goal} after {within_s:.0f} s")
                self._changed.wait(LOOK_AGAIN_S)
        on_progress(goal)


def wait_for(reached: Callable[[], bool], within_s: float) -> bool:
    """Look until something holds; false if it does not in time."""
    until = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_AGAIN_S)
    return True
