"""What the simulated CPO tells an eMSP by calls of its own: a text for the driver (07.06), how fast it goes (07.05)."""

from collections.abc import Mapping, Sequence

from engine.backoffice.simulated.effects import Ask
from engine.backoffice.simulated.regulation import applying, plan_of_session
from engine.backoffice.simulated.state import Charging
from engine.backoffice.simulated.world import World
from engine.protocol.ids import ModuleId
from engine.protocol.modules.sessions import SessionStatus
from engine.samples.chances import encode

PLAN_ID = "active"
"""The id of a plan that comes of a driver's wish, or of no profile any more."""


def message_driver(world: World, session: Charging, messages: Sequence[Mapping[str, str]]) -> None:
    """Have the eMSP tell its driver something (R.07.06.04)."""
    _tell(world, session, "send-driver-message", {"session_id": session.id, "messages": list(messages)})


def notify_profile(world: World, session: Charging) -> None:
    """Tell the eMSP of an active session the charging profile that it follows from now on (R.07.05.04)."""
    if session.status is not SessionStatus.ACTIVE:
        return
    newest = max(applying(world, session), key=lambda each: each.set_at, default=None)
    unit, profile_id = ("W", PLAN_ID) if newest is None else (newest.unit, newest.id)
    plan = plan_of_session(world, session, unit=unit, profile_id=profile_id, duration_s=None)
    _tell(world, session, "notify-active-charging-profile", {"session_id": session.id, "charging_profile": plan})


def _tell(world: World, session: Charging, operation: str, request: Mapping[str, object]) -> None:
    question_id = world.new_id("Q")
    world.emit(Ask(question_id, session.token.party_id, ModuleId("sessions"), operation, encode(request)))
