"""What the local API calls: the engine's services, handed over by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.backoffice.simulation import Simulations
from engine.clock import Clock
from engine.registration.connections import Connections
from engine.registration.directory import Directory
from engine.registration.parties import Parties
from engine.registration.tokens import Tokens
from engine.relay.asking import Asking
from engine.relay.calls import Calls
from engine.relay.state import CallsReport
from engine.replication.changes import Changes
from engine.replication.consuming import Consuming
from engine.replication.producing import Producing
from engine.replication.publishing import Publishing
from engine.replication.state import StateReport
from engine.settings import PlatformFolder, Settings
from engine.store.database import Database


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that an operator or a back office can ask of a running platform."""

    settings: Settings
    folder: PlatformFolder
    clock: Clock
    database: Database
    directory: Directory
    connections: Connections
    parties: Parties
    tokens: Tokens
    publishing: Publishing
    consuming: Consuming
    producing: Producing
    state: StateReport
    calls: Calls
    calls_state: CallsReport
    asking: Asking
    simulations: Simulations | None
    changes: Changes
    ready: Callable[[], bool]
    """Whether the platform serves its partners: started, and not yet stopping."""
