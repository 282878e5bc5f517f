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

from benchmarks import many, validation
from benchmarks.backends import BACKENDS, Backend
from benchmarks.plan import QUICK, Plan, Results, Run, machine
from benchmarks.table import WIDTH, show, show_fan_outs, show_idle, show_shared, show_validation

T = TypeVar("T")

VALIDATION, SHARED, FAN_OUT, IDLE = "validation", "processes", "fan-out", "idle"
PARTS: Final = (VALIDATION, *BACKENDS, SHARED, FAN_OUT, IDLE)
PROCESSES: Final = (1, 2)


class Bench:
    """Measures parts, prints what came of each, and keeps every run."""

    def __init__(self, plan: Plan, console: Console, tell: Callable[[str], None]) -> None:
        """Print to this console; ``tell`` hears what is going on."""
        self.report: dict[str, Any] = {"machine": machine()}
        self._plan = plan
        self._console = console
        self._tell = tell

    def measure(self, part: str) -> None:
        """Measure a part."""
        console = self._console
        if part == VALIDATION:
            validated = validation.measure(self._plan.validation_rounds, self._plan.validations, self._tell)
            show_validation(validated, console)
            self.report[part] = validated.as_json()
        elif part in BACKENDS:
            replicated = _below_a_folder(partial(self._replicate, BACKENDS[part]))
            show(replicated, console)
            self.report[part] = replicated.as_json()
        elif part == SHARED:
            shared = _below_a_folder(self._share)
            show_shared(shared, console)
            self.report[part] = asdict(shared)
        elif part == FAN_OUT:
            fan_outs = [_below_a_folder(partial(self._fan_out, backend)) for backend in BACKENDS.values()]
            show_fan_outs(fan_outs, console)
            self.report[part] = [asdict(each) for each in fan_outs]
        else:
            idle = [_below_a_folder(partial(self._idle, backend)) for backend in BACKENDS.values()]
            show_idle(idle, console)
            self.report[part] = [asdict(each) for each in idle]

    async def _replicate(self, backend: Backend, folder: Path) -> Results:
        return await Run(self._plan, backend, folder, self._tell).results()

    async def _share(self, folder: Path) -> many.Shared:
        return await many.Run(self._plan, folder, self._tell).shared(PROCESSES)

    async def _fan_out(self, backend: Backend, folder: Path) -> many.FanOut:
        return await many.Run(self._plan, folder, self._tell).fan_out(backend)

    async def _idle(self, backend: Backend, folder: Path) -> many.Idle:
        return await many.Run(self._plan, folder, self._tell).idle(backend)


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
        bench = Bench(QUICK if arguments.quick else Plan(), console, status.update)
        for part in arguments.only:
            bench.measure(part)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(bench.report, indent=2) + "\n")


def _below_a_folder(run: Callable[[Path], Coroutine[Any, Any, T]]) -> T:
    with tempfile.TemporaryDirectory(prefix="ocpi-bench-") as folder:
        return asyncio.run(run(Path(folder)))


if __name__ == "__main__":
    main()
