"""``make bench``: measure, print the table, leave nothing behind.

``--quick`` measures everything once and little of it: to see that it works, not to quote. ``--json FILE`` keeps
every run.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.plan import QUICK, Plan, Run
from benchmarks.table import WIDTH, show


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast, beside its yardsticks.")
    parser.add_argument("--quick", action="store_true", help="one short run: to see that it works, not to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to this file")
    arguments = parser.parse_args()
    console, progress = Console(width=WIDTH, highlight=False), Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="ocpi-bench-") as folder, progress.status("starting") as status:
        run = Run(QUICK if arguments.quick else Plan(), Path(folder), status.update)
        results = asyncio.run(run.results())
    show(results, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
