"""A second opinion on payloads: ``jsonschema``, which knows our schemas and nothing else of ours."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from engine.protocol.json_text import pointer
from engine.protocol.modules import module
from engine.protocol.modules.json_schema import schema_of


def _is_integer(_checker: object, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    return Decimal(value) == Decimal(value).to_integral_value()


def _pattern(_validator: Validator, pattern: str, value: Any, _schema: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


EXACT: Final = extend(
    Draft202012Validator,
    {"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)
"""``jsonschema`` with two words about Python: ``1.0`` of a ``Decimal`` is an integer, as JSON Schema has it, and
``$`` is the end of the text, as in ECMA-262, and not also the place before a line end."""


@cache
def _validator(module_id: str, name: str | None) -> Validator:
    found = module(module_id)
    assert found
    return EXACT(schema_of(found, name))


def objections(module_id: str, name: str | None, payload: bytes) -> set[str]:
    """Return JSON Pointers to what does not conform to a definition of a module (None: its payload)."""
    value = json.loads(payload, parse_float=Decimal)
    return {where for error in _validator(module_id, name).iter_errors(value) for where in _pointers(error)}


def _pointers(error: ValidationError) -> Iterator[str]:
    """Point to what is missing itself, where the validator points to what it is missing in."""
    path: list[Any] = [*error.absolute_path]
    if error.validator != "required":
        yield pointer(*path)
        return
    required: Any = error.validator_value
    there: Any = error.instance
    yield from (pointer(*path, name) for name in required if name not in there)
