"""All commands, put together. Nothing here loads what only one of them needs."""

from collections.abc import Sequence

import typer

from engine.cli import (
    calls,
    certificates,
    demo,
    folder,
    move,
    objects,
    parties,
    platforms,
    replace,
    restored,
    sandbox,
    schema,
    state,
    subscriptions,
    tokens,
    validate,
)
from engine.cli.failure import Failure

INTERRUPTED = 130  # as shells say it: 128 and the signal's number

app = typer.Typer(
    name="ocpi-engine",
    help="An OCPI 3.0 platform: Party Issued Objects replicated between platforms over mutual TLS.",
    epilog="`ocpi-engine demo` shows it all at work. Exit codes: 0 done, 1 refused or failed, 2 wrong use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for group in (
    folder,
    certificates,
    platforms,
    parties,
    subscriptions,
    calls,
    sandbox,
    objects,
    replace,
    validate,
    schema,
    state,
    move,
    restored,
    tokens,
    demo,
):
    group.register(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    from engine.cli import output

    output.reset()
    try:
        app(args=list(arguments), prog_name="ocpi-engine")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Failure as failure:
        output.failed(failure)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
