"""Files that are written from the code: ``python -m tests.support.generated`` writes them, a test compares them.

``deploy/engine.toml`` lists every setting with its default and its reason; ``docs/lifecycles.md`` draws the lives
of things from the tables that the engine runs by. ``docs/schemas/`` and ``docs/modules/`` say what modules declare.
"""

import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine.protocol.calls import ASKED_HERE, DONE_HERE
from engine.protocol.modules import all_modules
from engine.protocol.modules.json_schema import document
from engine.protocol.registration import PLATFORM
from engine.protocol.subscriptions import INBOUND, OUTBOUND
from engine.protocol.transitions import Lifecycle
from engine.settings import Section, Settings
from tests.support import reference

REPOSITORY: Final = Path(__file__).parents[2]

SETTINGS_HEAD: Final = """\
# Every setting of a platform, with its default and its reason. Written from engine/settings.py by
# `python -m tests.support.generated`; a test compares the two.
#
# A platform reads engine.toml in its own folder, which `ocpi-engine init` writes. Put there only what you change:
# what is not set has the default below. A variable of the environment overrides the file, for instance
# OCPI_ENGINE_LISTENER__PORT=9443. Paths are relative to the platform's folder. W1, B1: docs/decisions.md.
"""
EXAMPLES: Final = {"identity": "cpo.example.org", "base_url": "https://cpo.example.org/ocpi"}
"""Of the settings that have no default."""

LIVES_HEAD: Final = """\
# Lifecycles

What may happen to a connection, to both ends of a subscription and to both ends of a call, and what comes of it.
These pictures are printed from the tables in `engine/protocol/` that the engine runs by:
`python -m tests.support.generated` writes this page, and a test compares the two.
What has no arrow is an error.
"""
LIVES: Final[Mapping[str, Lifecycle[Any, Any]]] = {
    "The connection with a partner": PLATFORM,
    "The producer's end of a subscription: a partner subscribed here": OUTBOUND,
    "The consumer's end of a subscription: we subscribed at a partner": INBOUND,
    "A call that a party of ours asked for": ASKED_HERE,
    "A call that a partner asked for": DONE_HERE,
}


def settings_file() -> str:
    """Write ``deploy/engine.toml``."""
    sections = [_section(name, field.annotation) for name, field in Settings.model_fields.items()]
    return "\n".join([SETTINGS_HEAD, *sections])


def _section(name: str, section: Any) -> str:
    assert issubclass(section, Section), f"{name} is not a table"
    lines = [f"# {(section.__doc__ or '').strip()}", f"[{name}]"]
    for key, field in section.model_fields.items():
        value = EXAMPLES[key] if field.is_required() else field.default
        assert field.description, f"{name}.{key} does not say why"
        lines += [f"{key} = {json.dumps(value)}".ljust(41) + f" # {field.description}"]
    return "\n".join(lines) + "\n"


def lifecycles() -> str:
    """Write ``docs/lifecycles.md``."""
    return "\n".join([LIVES_HEAD, *(f"## {title}\n\n{picture(life)}" for title, life in LIVES.items())])


def picture(life: Lifecycle[Any, Any]) -> str:
    """Draw a table as a Mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[StrEnum, StrEnum], list[StrEnum]] = {}
    for state, row in life.table.items():
        for event, after in row.items():
            arrows.setdefault((state, after), []).append(event)
    lines = [f"    {state} --> {after}: {' · '.join(events)}" for (state, after), events in arrows.items()]
    begin = f"    [*] --> {next(iter(life.table))}"
    return "\n".join(["```mermaid", "stateDiagram-v2", begin, *lines, "```", ""])


FILES: Final[Mapping[str, Callable[[], str]]] = {
    "deploy/engine.toml": settings_file,
    "docs/lifecycles.md": lifecycles,
    "docs/modules/README.md": reference.index,
    **{f"docs/modules/{module.id}.md": partial(reference.page, module) for module in all_modules()},
    **{f"docs/schemas/{module.id}.schema.json": partial(document, module) for module in all_modules()},
}


def main() -> int:
    """Write all files."""
    for name, write in FILES.items():
        (REPOSITORY / name).write_text(write(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
