"""What a handler of one operation is: what it checks, how long it takes, what it does, and how it says no.

An asynchronous call is looked at twice. ``check`` decides at once what the CPO knows by itself; ``perform`` runs when
the charging station is done, and finds things as they are by then.

=================  ==========================================  =========================================
Raised             by ``check``                                by ``perform``
=================  ==========================================  =========================================
``NotSupported``   NOT_SUPPORTED at once                       FAILED
``Rejected``       REJECTED at once                            FAILED
``Hindered``       ACCEPTED, then REJECTED with its status;    FAILED with its status, or TIMEOUT if the
                   REJECTED at once if the enum of that        station cannot be reached any more
                   operation has no word for it
=================  ==========================================  =========================================

So what a state of things forbids is told by the callback, and a no at once is for policy, for what a station can never
do, and for what the enums cannot say (B32, W15). A synchronous call that is ``Rejected`` is answered with status 2000.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from engine.backoffice.simulated.pace import Between, Pace
from engine.backoffice.simulated.state import Accepted
from engine.backoffice.simulated.world import World
from engine.protocol.ids import ModuleId, PartyId


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that another party makes. ``payload``: the request, JSON that its table accepts; empty if it has none."""

    call_id: str
    asker: PartyId
    module: ModuleId
    operation: str
    payload: bytes
    deadline: float
    """When the asker stops waiting for the result, Unix seconds."""


class NotSupported(Exception):
    """The party or its device can never do that."""


class Rejected(Exception):
    """The party will not do that."""


class Hindered(Exception):
    """Something is in the way now. ``status``: a value of the enum in which the operation tells of errors."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = str(status)


@dataclass(frozen=True, slots=True)
class Asynchronous:
    """A call whose result comes later. ``perform`` returns the result's payload, JSON, if it has one."""

    takes: Callable[[Pace], Between]
    check: Callable[[World, Accepted, Any], None]
    perform: Callable[[World, Accepted, Any], bytes | None]


@dataclass(frozen=True, slots=True)
class Synchronous:
    """A call that is answered with its result, JSON. It may raise ``Rejected``."""

    perform: Callable[[World, Accepted, Any], bytes]


Handler: TypeAlias = Asynchronous | Synchronous
