"""The state of replication, for operators: what is owed and wanted, and what is stuck, since when and why (P9).

Built from the rows and the workers each time it is asked for; nothing is kept for it. Of what other processes push
it shows what they stored: the watermark may be some seconds old, and what was counted since their start is not shown.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from brokers.base import Broker
from engine.clock import Clock, ocpi_time
from engine.logs import security_counts
from engine.protocol.subscriptions import InboundState, OutboundState
from engine.registration.directory import Directory
from engine.replication.accept import Accepting
from engine.replication.consuming import Consuming
from engine.replication.restored import Mended
from engine.replication.workers import Debt, Workers
from engine.store import exceptions, marks, objects, processes, subscriptions
from engine.store.database import Database
from engine.store.membership import Membership
from engine.store.processes import Process
from engine.store.subscriptions import InboundSubscription, OutboundSubscription

STUCK_SHOWN_MAX: Final = 100  # objects of one subscription; the rest is counted
RESTORED_SHOWN_S: Final = 7 * 86_400.0  # an older database is told of until everybody was back from a weekend
JUMP_SHOWN_S: Final = 3600.0  # a clock that was set is told of for an hour; the log keeps it
WARNINGS_SHOWN_MAX: Final = 50  # kinds of warnings of one platform, the most frequent first


class StateReport:
    """Collects the state from where it is."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        workers: Workers,
        consuming: Consuming,
        accepting: Accepting,
        broker: Broker,
        membership: Membership,
        clock: Clock,
    ) -> None:
        """Read from these."""
        self._membership = membership
        self._database = database
        self._directory = directory
        self._workers = workers
        self._consuming = consuming
        self._accepting = accepting
        self._broker = broker
        self._clock = clock

    async def state(self) -> dict[str, Any]:
        """Return the whole state, ready for JSON; times are OCPI DateTimes, durations seconds."""
        now = self._clock.now()
        stuck: list[dict[str, Any]] = []
        async with self._database.reading() as tx:
            rows = await subscriptions.all_outbound(tx)
        outbound = [await self._outbound(row, now, stuck) for row in rows]
        async with self._database.reading() as tx:
            issued = await objects.count_by_module(tx, received=False)
            received = await objects.count_by_module(tx, received=True)
            restored = await marks.restored(tx)
            running = await processes.running(tx)
            leading = await processes.leaders(tx)
        inbound = [self._inbound(row, stuck) for row in await self._consuming.list()]
        stuck.extend(self._regressions())
        jump = self._workers.jumps.last
        if jump is not None and 0 <= now - jump.at < JUMP_SHOWN_S:
            stuck.append(
                {
                    "what": "the clock of this machine: what waited for its backoff is early or late by as much",
                    "since": _time(jump.at),
                    "why": f"it was set by {jump.by_s:+.1f} s while the platform ran; keep it by a time service",
                    "next_attempt_at": None,
                }
            )
        if (trouble := self._broker.trouble) is not None:
            stuck.append(
                {
                    "what": "the queues of subscriptions; meanwhile the log is read instead",
                    "since": _time(trouble.since),
                    "why": trouble.why,
                    "next_attempt_at": _time(trouble.next_attempt_at),
                }
            )
        return {
            "time": ocpi_time(now),
            "processes": [self._process(process, leading) for process in running],
            "platforms": [self._platform(platform, now) for platform in self._directory.platforms()],
            "subscriptions_here": outbound,
            "subscriptions_of_ours": inbound,
            "objects": {"issued": _counts(issued), "received": _counts(received)},
            "stuck": stuck,
            "restored": _restored(restored, now),
        }

    def _process(self, process: Process, leading: Mapping[str, str]) -> dict[str, Any]:
        answers = process.id == self._membership.process_id
        return {
            "id": process.id,
            "host": process.host,
            "pid": process.pid,
            "since": _time(process.started_at),
            "subscriptions": process.owned,
            "periodic_work": sorted(kind for kind, leader in leading.items() if leader == process.id),
            "answers_this": answers,
        }

    def _platform(self, platform: Any, now: float) -> dict[str, Any]:
        gate = self._workers.gate(platform.id)
        pause_s = gate.next_probe_in_s(asyncio.get_running_loop().time())
        warnings = self._accepting.warnings.get(platform.identity, {})
        frequent = sorted(warnings.items(), key=lambda counted: -counted[1])[:WARNINGS_SHOWN_MAX]
        return {
            "identity": platform.identity,
            "state": platform.state,
            "base_url": platform.base_url,
            "connected_at": _time(platform.connected_at),
            "reachable": not gate.narrow if platform.state == "connected" else None,
            "failed_in_a_row": gate.failures,
            "next_probe_at": None if pause_s is None else _time(now + pause_s),
            "tolerant": platform.tolerant,
            "warnings": dict(frequent),
            "security_events": security_counts().get(platform.identity, {}),
            "last_error": platform.last_error,
        }

    async def _outbound(self, row: OutboundSubscription, now: float, stuck: list[dict[str, Any]]) -> dict[str, Any]:
        live = row.state == OutboundState.LIVE
        worker = self._workers.worker(row.id)
        progress = None if worker is None else worker.progress()
        debt = await self._workers.debt(row) if live else Debt(0, None, 0, 0, None)
        if debt.waiting or debt.rejected:
            await self._stuck_objects(row, stuck)
        if row.notice is not None:
            stuck.append(
                {
                    "what": f"cancellation of {row.module} of {row.producer} for {row.subscriber} at {row.platform}",
                    "since": _time(row.ended_at),
                    "why": row.notice_error or "not told yet",
                    "next_attempt_at": _time(row.notice_due_at),
                }
            )
        held = live and row.hold_until > now
        return _agreed(row) | {
            "process": row.owner,
            "queue_size": debt.queue_size,
            "oldest_waiting_since": _time(debt.oldest_since),
            "delay_s": None if debt.oldest_since is None else round(max(0.0, now - debt.oldest_since), 3),
            "waiting_for_backoff": debt.waiting,
            "rejected": debt.rejected,
            "first_catch_up_done": row.caught_up if worker is None else worker.subscription.caught_up,
            "in_flight": 0 if progress is None else progress.in_flight,
            "delivered_since_start": 0 if progress is None else progress.delivered,
            "failed_since_start": 0 if progress is None else progress.failed,
            "last_delivered_at": None if progress is None else _time(progress.last_delivered_at),
            "last_error": None if progress is None else progress.last_error,
            "last_error_at": None if progress is None else _time(progress.last_error_at),
            "next_attempt_at": _time(
                max(filter(None, (debt.next_attempt_at, row.hold_until if held else None)), default=None)
            ),
            "held_until": _time(row.hold_until) if held else None,
        }

    async def _stuck_objects(self, row: OutboundSubscription, stuck: list[dict[str, Any]]) -> None:
        async with self._database.reading() as tx:
            found = await exceptions.failing(tx, row.id, limit=STUCK_SHOWN_MAX)
        for failing in found:
            if failing.first_failed_at is None:
                continue
            stuck.append(
                {
                    "what": f"{row.module} {failing.issuer} {failing.object_id} for {row.subscriber} at {row.platform}",
                    "subscription": row.id,
                    "since": _time(failing.first_failed_at),
                    "why": failing.last_error or "the last attempt is not answered yet",
                    "attempts": failing.attempts,
                    "version": failing.version,
                    "rejected": failing.rejected,
                    "next_attempt_at": None if failing.rejected else _time(failing.due_at),
                }
            )

    def _inbound(self, row: InboundSubscription, stuck: list[dict[str, Any]]) -> dict[str, Any]:
        if row.state not in (InboundState.LIVE, InboundState.ENDED) or row.last_error:
            stuck.append(
                {
                    "what": f"our subscription of {row.subscriber} to {row.module} of {row.producer} at {row.platform}",
                    "since": _time(row.ended_at or row.began_at),
                    "why": row.last_error or f"{row.state}: {row.end_reason or 'no answer yet'}",
                    "next_attempt_at": _time(row.next_action_at),
                }
            )
        return _agreed(row) | {
            "queue_size_there": row.peer_queue_size,
            "state_checked_at": _time(row.state_checked_at),
            "last_error": row.last_error,
            "next_action_at": _time(row.next_action_at),
        }

    def _regressions(self) -> Iterable[dict[str, Any]]:
        """Show copies whose producer stands by a lower version (B27)."""
        for (subscription_id, issuer, key), (ours, theirs) in self._accepting.regressions.items():
            yield {
                "what": f"our copy of {issuer} {key} under subscription {subscription_id}",
                "since": None,
                "why": f"we hold version {ours}, the producer stands by version {theirs}; subscribe again to take it",
                "next_attempt_at": None,
            }


def _agreed(row: OutboundSubscription | InboundSubscription) -> dict[str, Any]:
    """Show what both ends of a subscription have: who, what, since when, and the parameters."""
    return {
        "id": row.id,
        "platform": row.platform,
        "subscriber": row.subscriber,
        "producer": row.producer,
        "module": row.module,
        "state": row.state,
        "since": _time(row.began_at),
        "ended_at": _time(row.ended_at),
        "end_reason": row.end_reason,
        "ended_by": row.ended_by,
        "retry_interval_s": row.retry_interval_s,
        "parallelism_limit": row.parallelism_limit,
        "queue_size_max": row.queue_size_max,
    }


def _time(moment: float | None) -> str | None:
    return None if moment is None else ocpi_time(moment)


def _restored(what: dict[str, Any] | None, now: float) -> dict[str, Any] | None:
    """Show for a while that this is an older database, and what was done about it."""
    if what is None or now - what["at"] > RESTORED_SHOWN_S:
        return None
    told = ("how", *(field.name for field in fields(Mended)))
    return {"at": _time(what["at"])} | {name: what[name] for name in told}


def _counts(counted: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"module": module, "issuer": issuer, "count": count} for (module, issuer), count in sorted(counted.items())]
