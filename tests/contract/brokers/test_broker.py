"""What every broker does, whatever it is made of (`brokers.base`)."""

import asyncio

import pytest

from brokers.base import Broker, BrokerStopped, QueueGone, Taken
from tests.contract.brokers.conftest import QUEUE_LENGTH_MAX, Backend

ANSWER_WITHIN_S = 10  # no call takes longer than this, unless it waits for something that does not come


async def take(broker: Broker, queue: str, count: int) -> list[bytes]:
    """Take exactly ``count`` segments, however many takes that needs, without an interruption."""
    segments: list[bytes] = []
    async with asyncio.timeout(ANSWER_WITHIN_S):
        while len(segments) < count:
            taken = await broker.take(queue, limit=count - len(segments))
            assert not taken.interrupted
            segments += taken.segments
    return segments


async def holds(broker: Broker, queue: str, count: int) -> None:
    """Wait until so many segments are in a queue: some may be on their way to it, or to us."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        while await broker.depth(queue) != count:
            await asyncio.sleep(0.01)


async def waiting_take(broker: Broker, queue: str) -> asyncio.Task[Taken]:
    """Begin a take that finds nothing, and return when it waits."""
    task = asyncio.create_task(broker.take(queue, limit=10))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    return task


async def finish(task: asyncio.Task[Taken]) -> Taken:
    """Return what a waiting take brings in the end."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        return await task


async def test_a_topic_reaches_each_of_its_queues_once(broker: Broker):
    """What is put under a topic arrives once in every queue bound to it, and in no other."""
    await broker.ensure("one", ["locations"])
    await broker.ensure("two", ["locations", "tariffs"])
    await broker.ensure("other", ["tariffs"])

    await broker.put("locations", b"segment")

    assert await take(broker, "one", 1) == [b"segment"]
    assert await take(broker, "two", 1) == [b"segment"]
    for queue in ("one", "two", "other"):
        await holds(broker, queue, 0)


async def test_what_is_only_for_some_reaches_no_other(broker: Broker):
    """What is put for a name arrives once in the queues that have it at this topic; what is put for all, in all."""
    await broker.ensure("mine", ["cdrs", "tokens"], names=["DEPTX", "a.#"])
    await broker.ensure("too", ["cdrs"], names=["DEPTX"])
    await broker.ensure("theirs", ["cdrs"], names=["NLEMS", "*"])
    await broker.ensure("nameless", ["cdrs"])

    await broker.put("cdrs", b"for one", only="DEPTX")
    await broker.put("sessions", b"of another topic", only="DEPTX")
    await broker.put("cdrs", b"for nobody", only="BEBEC")
    await broker.put("cdrs", b"named oddly", only="a.#")
    await broker.put("cdrs", b"for all")
    await broker.ensure("mine", ["cdrs"], names=["NLEMS"])
    await broker.put("cdrs", b"renamed", only="NLEMS")
    await broker.put("cdrs", b"no longer", only="DEPTX")

    assert await take(broker, "mine", 4) == [b"for one", b"named oddly", b"for all", b"renamed"]
    assert await take(broker, "too", 3) == [b"for one", b"for all", b"no longer"]
    assert await take(broker, "theirs", 2) == [b"for all", b"renamed"]
    assert await take(broker, "nameless", 1) == [b"for all"]
    for queue in ("mine", "too", "theirs", "nameless"):
        await holds(broker, queue, 0)


async def test_order_is_kept(broker: Broker):
    """Normally segments are taken in the order in which they were put, by topic or by name."""
    await broker.ensure("queue", ["locations"])
    expected = [b"%d" % number for number in range(QUEUE_LENGTH_MAX)]

    for segment in expected:
        if int(segment) % 5:
            await broker.put("locations", segment)
        else:
            await broker.put_to("queue", segment)

    assert await take(broker, "queue", len(expected)) == expected


async def test_a_segment_is_any_bytes(broker: Broker):
    """Segments come out byte for byte: empty ones, zeros, and large ones."""
    await broker.ensure("queue", ["locations"])
    expected = [b"", b"\0\xff\r\n", bytes(range(256)) * 400]

    for segment in expected:
        await broker.put("locations", segment)

    assert await take(broker, "queue", len(expected)) == expected


async def test_a_take_is_bounded(broker: Broker):
    """A take brings no more than it was asked for, and leaves the rest."""
    await broker.ensure("queue", ["locations"])
    for number in range(7):
        await broker.put("locations", b"%d" % number)

    taken = await broker.take("queue", limit=3)

    assert len(taken.segments) <= 3
    await holds(broker, "queue", 7 - len(taken.segments))
    with pytest.raises(ValueError, match="at least one"):
        await broker.take("queue", limit=0)


async def test_names_are_any_text(broker: Broker):
    """A queue and a topic may be named with whatever identifies them, without meaning anything else."""
    await broker.ensure("cpo.example.org/BEBEC→NLRHB #1", ["evsestatuses.*"])
    await broker.ensure("plain", ["evsestatuses.all"])

    await broker.put("evsestatuses.*", b"for the first")
    await broker.put("evsestatuses.all", b"for the second")

    assert await take(broker, "cpo.example.org/BEBEC→NLRHB #1", 1) == [b"for the first"]
    assert await take(broker, "plain", 1) == [b"for the second"]


async def test_a_put_to_one_queue_reaches_only_that_one(broker: Broker):
    """A wake-up goes to its queue alone, and one to a queue that does not exist is no error."""
    await broker.ensure("one", ["locations"])
    await broker.ensure("two", ["locations"])

    await broker.put_to("one", b"wake up")
    await broker.put_to("nobody", b"wake up")

    assert await take(broker, "one", 1) == [b"wake up"]
    await holds(broker, "two", 0)
    with pytest.raises(QueueGone):
        await broker.depth("nobody")


async def test_a_put_that_nobody_waits_for_is_no_error(broker: Broker):
    """A topic without queues swallows what is put, also for a queue that is bound later."""
    await broker.put("locations", b"early")
    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"late")

    assert await take(broker, "queue", 1) == [b"late"]
    await holds(broker, "queue", 0)


async def test_ensure_twice_changes_nothing(broker: Broker):
    """A queue that exists keeps what is in it, and is bound once."""
    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"kept")

    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"once")

    assert await take(broker, "queue", 2) == [b"kept", b"once"]
    await holds(broker, "queue", 0)


async def test_ensure_changes_the_topics(broker: Broker):
    """A queue can be bound anew: it keeps what it had, and what is put under its former topics stays away."""
    await broker.ensure("queue", ["locations", "tariffs"])
    await broker.put("locations", b"kept")

    await broker.ensure("queue", ["tariffs", "tokens"])
    for topic in ("locations", "tariffs", "tokens"):
        await broker.put(topic, topic.encode())

    assert await take(broker, "queue", 3) == [b"kept", b"tariffs", b"tokens"]
    await holds(broker, "queue", 0)


async def test_a_queue_without_topics_is_reached_by_name(broker: Broker):
    """A queue may be bound to nothing, and then gets only what is put to it."""
    await broker.ensure("queue", [])

    await broker.put("locations", b"not for it")
    await broker.put_to("queue", b"for it")

    assert await take(broker, "queue", 1) == [b"for it"]
    await holds(broker, "queue", 0)


async def test_a_dropped_queue_is_gone_with_all_that_is_in_it(broker: Broker):
    """Nothing reaches a dropped queue, and one of the same name begins empty and unbound."""
    await broker.ensure("queue", ["locations"])
    await broker.ensure("neighbour", ["locations"])
    await broker.put("locations", b"before")

    await broker.drop("queue")
    await broker.drop("queue")
    await broker.put("locations", b"after")

    for call in (broker.take("queue", limit=1), broker.depth("queue")):
        with pytest.raises(QueueGone, match="'queue'"):
            await call
    assert await take(broker, "neighbour", 2) == [b"before", b"after"]
    await broker.ensure("queue", ["tariffs"])
    await broker.put("locations", b"for its former life")
    await holds(broker, "queue", 0)


async def test_a_drop_in_the_middle_of_puts_disturbs_no_neighbour(broker: Broker):
    """What is put while queues of the topic go away arrives at those that stay, in order and uninterrupted."""
    await broker.ensure("neighbour", ["locations"])
    expected = [b"%d %b" % (number, moment) for number in range(10) for moment in (b"before", b"meanwhile", b"after")]
    for number in range(0, len(expected), 3):
        before, meanwhile, after = expected[number : number + 3]
        await broker.ensure(f"queue {number}", ["locations"])
        await broker.put("locations", before)
        dropping = asyncio.create_task(broker.drop(f"queue {number}"))
        await asyncio.sleep(0)
        await broker.put("locations", meanwhile)
        await dropping
        await broker.put("locations", after)

    assert await take(broker, "neighbour", len(expected)) == expected


async def test_a_full_queue_drops_its_head_and_says_so(broker: Broker, backend: Backend):
    """Too much for one queue costs it its oldest segments, which the next take admits, once, if the backend knows."""
    await broker.ensure("queue", ["locations"])
    put = [b"%d" % number for number in range(QUEUE_LENGTH_MAX + 3)]

    async with asyncio.timeout(ANSWER_WITHIN_S):
        for segment in put:
            await broker.put("locations", segment)

    await holds(broker, "queue", QUEUE_LENGTH_MAX)
    taken = await broker.take("queue", limit=QUEUE_LENGTH_MAX)
    assert taken.interrupted is backend.says_what_it_drops
    rest = await take(broker, "queue", QUEUE_LENGTH_MAX - len(taken.segments))
    assert [*taken.segments, *rest] == put[3:]


async def test_a_full_queue_is_no_trouble_for_its_neighbours(broker: Broker, backend: Backend):
    """While one queue overflows, another one of the same topic gets everything, uninterrupted."""
    await broker.ensure("full", ["locations"])
    await broker.ensure("taken", ["locations"])

    for number in range(3 * QUEUE_LENGTH_MAX):
        await broker.put("locations", b"%d" % number)
        assert await take(broker, "taken", 1) == [b"%d" % number]

    assert (await broker.take("full", limit=1)).interrupted is backend.says_what_it_drops


async def test_a_queue_that_is_exactly_full_lost_nothing(broker: Broker):
    """The last segment that fits is no interruption."""
    await broker.ensure("queue", ["locations"])
    put = [b"%d" % number for number in range(QUEUE_LENGTH_MAX)]

    for segment in put:
        await broker.put("locations", segment)

    assert await take(broker, "queue", QUEUE_LENGTH_MAX) == put


async def test_a_put_wakes_a_waiting_take(broker: Broker):
    """A take of an empty queue waits, and ends with the first segment, by topic or by name."""
    await broker.ensure("queue", ["locations"])
    for put in (broker.put("locations", b"news"), broker.put_to("queue", b"news")):
        waiting = await waiting_take(broker, "queue")
        await put
        assert await finish(waiting) == Taken((b"news",))


async def test_each_segment_has_one_taker(broker: Broker):
    """Of two takes that wait at the same queue each gets what the other one does not."""
    await broker.ensure("queue", ["locations"])
    takers = [asyncio.create_task(broker.take("queue", limit=1)) for _ in range(2)]
    await asyncio.wait(takers, timeout=0.05)

    await broker.put("locations", b"first")
    await broker.put("locations", b"second")

    taken = [await finish(taker) for taker in takers]
    assert sorted(segment for one in taken for segment in one.segments) == [b"first", b"second"]


async def test_a_cancelled_take_takes_nothing(broker: Broker):
    """Whoever gives up waiting leaves all segments for the next take."""
    await broker.ensure("queue", ["locations"])
    waiting = await waiting_take(broker, "queue")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await broker.put("locations", b"first")
    await broker.put("locations", b"second")

    assert await take(broker, "queue", 2) == [b"first", b"second"]


async def test_a_take_cancelled_at_the_moment_of_a_put_loses_nothing(broker: Broker):
    """A segment that arrives together with the cancellation is taken, or still there."""
    await broker.ensure("queue", ["locations"])
    for number in range(100):
        segment = b"%d" % number
        waiting = asyncio.create_task(broker.take("queue", limit=10))
        await asyncio.sleep(0)
        await broker.put("locations", segment)
        if number % 2:
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            taken = (await waiting).segments
        except asyncio.CancelledError:
            taken = tuple(await take(broker, "queue", 1))
        assert taken == (segment,)


async def test_a_drop_ends_a_waiting_take(broker: Broker):
    """Whoever waits at a queue that is dropped learns it, also when a new one gets its name at once."""
    await broker.ensure("queue", ["locations"])
    waiting = await waiting_take(broker, "queue")

    await broker.drop("queue")
    await broker.ensure("queue", ["locations"])

    with pytest.raises(QueueGone):
        await finish(waiting)


async def test_a_stop_ends_a_waiting_take(broker: Broker):
    """Nobody waits for a broker that has stopped."""
    await broker.ensure("queue", ["locations"])
    waiting = await waiting_take(broker, "queue")

    await broker.stop()

    with pytest.raises(BrokerStopped):
        await finish(waiting)


async def test_a_broker_that_does_not_run_says_so(backend: Backend):
    """Before the start and after the stop there are no queues, but a put is no error: the log is certain."""
    broker = backend.make()
    for turn in ("before the start", "after the stop"):
        if turn == "after the stop":
            await broker.start()
            await broker.ensure("queue", ["locations"])
            await broker.stop()
        calls = (
            broker.ensure("queue", ["locations"]),
            broker.drop("queue"),
            broker.take("queue", limit=1),
            broker.depth("queue"),
        )
        for call in calls:
            with pytest.raises(BrokerStopped):
                await call
        await broker.put("locations", b"lost")
        await broker.put_to("queue", b"lost")


async def test_start_and_stop_in_any_order(backend: Backend):
    """A stop before the start, a second stop and a second start are safe; a stopped broker starts again."""
    broker = backend.make()
    await broker.stop()
    await broker.start()
    await broker.ensure("queue", ["locations"])
    await broker.start()
    await broker.put("locations", b"kept")
    assert await take(broker, "queue", 1) == [b"kept"]

    await broker.stop()
    await broker.stop()
    await broker.start()

    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"again")
    async with asyncio.timeout(ANSWER_WITHIN_S):
        assert b"again" in (await broker.take("queue", limit=10)).segments
    await broker.stop()


async def test_many_queues_are_cheap(broker: Broker, backend: Backend):
    """One put reaches every one of a great many queues, each of which somebody waits at."""
    names = [f"queue {number}" for number in range(backend.queues_many)]
    for name in names:
        await broker.ensure(name, ["locations"])
    takers = [asyncio.create_task(broker.take(name, limit=10)) for name in names]
    await asyncio.sleep(0)

    async with asyncio.timeout(ANSWER_WITHIN_S):
        await broker.put("locations", b"for all")
        taken = await asyncio.gather(*takers)

    assert set(taken) == {Taken((b"for all",))}
    for name in names:
        await broker.drop(name)
    await broker.put("locations", b"for nobody")


async def test_a_queue_that_is_left_is_for_others(broker: Broker):
    """Its takers end; where processes share the broker it stays, with what is put meanwhile, for whoever goes on."""
    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"before")
    assert await take(broker, "queue", 1) == [b"before"]
    waiting = asyncio.ensure_future(broker.take("queue", limit=1))
    await asyncio.sleep(0)

    await broker.leave("queue")
    await broker.leave("queue")
    await broker.put("locations", b"meanwhile")

    with pytest.raises(QueueGone, match="'queue'"):
        await waiting
    with pytest.raises(QueueGone, match="'queue'"):
        await broker.depth("queue")
    await broker.ensure("queue", ["locations"])
    if broker.shared:
        assert await take(broker, "queue", 1) == [b"meanwhile"]
    await holds(broker, "queue", 0)
