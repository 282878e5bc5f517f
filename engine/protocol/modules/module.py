"""What a module of the draft declares about its Party Issued Objects."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.classes import OcpiClass
from engine.protocol.modules.explain import PROBLEMS_MAX, Problem, explain

Audience = frozenset[PartyId]


class SchemaViolation(ValueError):
    """A payload does not conform to its module's tables.

    ``problems`` are the first hundred of ``problem_count``; the message has them all, one a line.
    """

    def __init__(self, problems: tuple[Problem, ...], problem_count: int) -> None:
        more = [f"and {problem_count - len(problems)} more"] if problem_count > len(problems) else []
        super().__init__("\n".join([*map(str, problems), *more]))
        self.problems = problems
        self.problem_count = problem_count


def _nobody_named(_payload: bytes) -> Audience | None:
    return None


@dataclass(frozen=True)
class Module:
    """A chapter that replicates objects; one for each file of this package that has a ``MODULE``."""

    id: ModuleId
    """ModuleID as the draft's table 2.4.5 spells it, and as it stands in URLs."""
    chapter: int
    title: str
    payload: type[OcpiClass]
    """Class table of the objects."""
    aliases: tuple[ModuleId, ...] = ()
    """Other names for it in the draft."""
    immutable: bool = False
    """An object never changes; an update to another version is answered 6003."""
    audience: Callable[[bytes], Audience | None] = field(default=_nobody_named, repr=False)
    """The parties that an object concerns, where its payload names them; ``None``: sharing rules decide."""

    def accept(self, payload: bytes, *, tolerant: bool = False) -> tuple[Problem, ...]:
        """Accept a payload, or say all that is wrong with it.

        ``payload`` is taken to have passed ``json_text.check_object``. Returns warnings: what is odd,
        and of a tolerant look what a strict one refuses; none when everything is as in the tables.
        Raises ``SchemaViolation``, and ``MalformedJson`` for what is not JSON.
        """
        try:
            self._decoder.decode(payload)
            return ()
        except (ValueError, RecursionError):
            pass  # the closer look says why, or that it was a yes
        return self._look_closely(payload, tolerant=tolerant)

    def _look_closely(self, payload: bytes, *, tolerant: bool) -> tuple[Problem, ...]:
        report = explain(self.payload, payload, tolerant=tolerant)
        if report.problem_count:
            raise SchemaViolation(tuple(report.problems), report.problem_count)
        return tuple(report.warnings)

    def __post_init__(self) -> None:
        """Prepare what every payload goes through."""
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.payload))

    _decoder: "msgspec.json.Decoder[OcpiClass]" = field(init=False, repr=False, compare=False)


__all__ = ["PROBLEMS_MAX", "Audience", "Module", "Problem", "SchemaViolation"]
