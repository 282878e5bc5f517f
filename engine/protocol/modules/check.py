"""Whether a payload conforms to its table: fast from its bytes, and in full after a no."""

from functools import cache
from typing import Any

import msgspec

from engine.protocol.modules.classes import Shape
from engine.protocol.modules.explain import Problem, explain


class SchemaViolation(ValueError):
    """A payload does not conform to its table.

    ``problems`` are the first hundred of ``problem_count``; the message has them all, one a line.
    """

    def __init__(self, problems: tuple[Problem, ...], problem_count: int) -> None:
        more = [f"and {problem_count - len(problems)} more"] if problem_count > len(problems) else []
        super().__init__("\n".join([*map(str, problems), *more]))
        self.problems = problems
        self.problem_count = problem_count


def accept(shape: Shape, payload: bytes, *, tolerant: bool = False) -> tuple[Problem, ...]:
    """Accept a payload, or say all that is wrong with it.

    ``payload`` is taken to have passed ``json_text.check_object``. Returns warnings: what is odd, and of a
    tolerant look what a strict one refuses; none when everything is as in the tables. Raises
    ``SchemaViolation``, and ``MalformedJson`` for what is not JSON.
    """
    try:
        _decoder(shape).decode(payload)
        return ()
    except (ValueError, RecursionError):
        pass  # the closer look says why, or that it was a yes
    report = explain(shape, payload, tolerant=tolerant)
    if report.problem_count:
        raise SchemaViolation(tuple(report.problems), report.problem_count)
    return tuple(report.warnings)


def read_as(shape: Shape, payload: bytes) -> Any:
    """Read a payload exactly, to compute with it or to write it on; ``accept`` is quicker where a yes is enough.

    Returns a look-alike of the class: the same attributes, None for what is left out, numbers as whole as they
    were written (``Decimal``), values of enums as text. Raises ``SchemaViolation``, and ``MalformedJson``.
    """
    report = explain(shape, payload, tolerant=False)
    if report.problem_count:
        raise SchemaViolation(tuple(report.problems), report.problem_count)
    return report.seen


@cache
def _decoder(shape: Shape) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(shape)
