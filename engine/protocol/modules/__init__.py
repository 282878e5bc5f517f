"""The modules of the draft: one file for each, and nothing but its file names it.

A file of this package that has a ``MODULE`` is a module; adding one is adding a file.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import MappingProxyType

from engine.protocol.modules.module import BUSINESS_ROLES, Module, Problem, SchemaViolation

__all__ = ["BUSINESS_ROLES", "Module", "Problem", "SchemaViolation", "all_modules", "module", "registry"]


def _declared() -> Iterator[tuple[str, Module]]:
    for file in sorted(pkgutil.iter_modules(__path__), key=lambda file: file.name):
        found = getattr(importlib.import_module(f"{__name__}.{file.name}"), "MODULE", None)
        if isinstance(found, Module):
            yield from ((name, found) for name in (found.id, *found.aliases))


registry = MappingProxyType(dict(_declared()))
"""Every name that a module goes by, and the module."""


def module(name: str) -> Module | None:
    """Look up a module by its id or another name that it goes by, spelled as in URLs."""
    return registry.get(name)


def all_modules() -> tuple[Module, ...]:
    """Return every module once, in the order of the chapters."""
    once = {found.id: found for found in registry.values()}
    return tuple(sorted(once.values(), key=lambda found: found.chapter))
