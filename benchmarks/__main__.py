"""``make bench``: measure, print the tables, leave nothing behind.

``--quick`` measures everything once and little of it: to see that it works, not to quote. ``--only PART …`` measures
some parts. ``--json FILE`` keeps every run.
"""

import argparse
import asyncio
import json
import signal
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from benchmarks import calls, many, validation
from benchmarks.backends import BACKENDS, Backend
from benchmarks.plan import QUICK, Plan, Results, Run, machine
from benchmarks.table import WIDTH, show, show_calls, show_fan_out, show_idle, show_shared, show_validation

T = TypeVar("T")

VALIDATION, CALLS, SHARED, FAN_OUT, IDLE = "validation", "calls", "processes", "fan-out", "idle"
PARTS: Final = (VALIDATION, *BACKENDS, CALLS, SHARED, FAN_OUT, IDLE)
PROCESSES: Final = (1, 2)


class Bench:
    """Measures parts, prints what came of each, and keeps every run: all of it as soon as it is known."""

    def __init__(self, plan: Plan, console: Console, tell: Callable[[str], None], file: Path | None) -> None:
        """Print to this console, and write to this file; ``tell`` hears what is going on."""
        self._report: dict[str, Any] = {"machine": machine()}
        self._file = file
        self._plan = plan
        self._console = console
        self._tell = tell
        self._on_each = {CALLS: self._calls, FAN_OUT: self._fan_out, IDLE: self._idle}

    def measure(self, part: str) -> None:
        """Measure a part."""
        console = self._console
        if part == VALIDATION:
            validated = validation.measure(self._plan.validation_rounds, self._plan.validations, self._tell)
            show_validation(validated, console)
            self._keep(part, validated.as_json())
        elif part in BACKENDS:
            replicated = _below_a_folder(partial(self._replicate, BACKENDS[part]))
            show(replicated, console)
            self._keep(part, replicated.as_json())
        elif part == SHARED:
            shared = _below_a_folder(self._share)
            show_shared(shared, console)
            self._keep(part, asdict(shared))
        else:
            self._keep(part, [])
            for backend in BACKENDS.values():
                _below_a_folder(partial(self._on_each[part], backend))

    def _keep(self, part: str, what: Any) -> None:
        """Put what was measured into the report."""
        self._report[part] = what
        if self._file is not None:
            self._file.write_text(json.dumps(self._report, indent=2) + "\n")

    async def _replicate(self, backend: Backend, folder: Path) -> Results:
        return await Run(self._plan, backend, folder, self._tell).results()

    async def _share(self, folder: Path) -> many.Shared:
        return await many.Run(self._plan, folder, self._tell).shared(PROCESSES)

    async def _calls(self, backend: Backend, folder: Path) -> None:
        called = await calls.measure(self._plan, backend, folder, self._tell)
        show_calls(called, self._console)
        self._keep(CALLS, [*self._report[CALLS], called.as_json()])

    async def _fan_out(self, backend: Backend, folder: Path) -> None:
        measured = await many.Run(self._plan, folder, self._tell).fan_out(backend)
        show_fan_out(measured, self._console)
        self._keep(FAN_OUT, [*self._report[FAN_OUT], asdict(measured)])

    async def _idle(self, backend: Backend, folder: Path) -> None:
        def measured(idle: many.Idle) -> None:
            show_idle(idle, self._console)
            self._keep(IDLE, [*self._report[IDLE], asdict(idle)])

        await many.Run(self._plan, folder, self._tell).idle(backend, measured)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast, beside its yardsticks.")
    parser.add_argument("--quick", action="store_true", help="one short run: to see that it works, not to quote")
    parser.add_argument(
        "--only", choices=PARTS, nargs="+", default=PARTS, metavar="PART", help=f"some parts of {', '.join(PARTS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whoever ends this leaves nothing behind
    console, progress = Console(width=WIDTH, highlight=False), Console(stderr=True, highlight=False)
    with progress.status("starting") as status:
        bench = Bench(QUICK if arguments.quick else Plan(), console, status.update, arguments.json)
        for part in arguments.only:
            bench.measure(part)


def _below_a_folder(run: Callable[[Path], Coroutine[Any, Any, T]]) -> T:
    with tempfile.TemporaryDirectory(prefix="ocpi-bench-") as folder:
        return asyncio.run(run(Path(folder)))


if __name__ == "__main__":
    main()
