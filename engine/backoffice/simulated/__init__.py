"""The built-in simulated CPO: a model of charging stations, drivers and bills that needs no clock and no wire."""

from engine.backoffice.simulated.cpo import SimulatedCpo
from engine.backoffice.simulated.effects import Ask, Conclude, Effect, Publish, Refuse, Respond, Return
from engine.backoffice.simulated.handlers import Asked
from engine.backoffice.simulated.pace import Between, Pace
from engine.backoffice.simulated.state import FaultKind
from engine.backoffice.simulated.tokens import Known
from engine.backoffice.simulated.world import NotPossible

__all__ = [
    "Ask",
    "Asked",
    "Between",
    "Conclude",
    "Effect",
    "FaultKind",
    "Known",
    "NotPossible",
    "Pace",
    "Publish",
    "Refuse",
    "Respond",
    "Return",
    "SimulatedCpo",
]
