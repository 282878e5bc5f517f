"""The table: one screen of 100 columns."""

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.backends import EMBEDDED, RABBITMQ
from benchmarks.bodies import KINDS, LOCATIONS, Kind
from benchmarks.calls import Called
from benchmarks.many import FanOut, Idle, Shared
from benchmarks.measuring import Figure, RoundTrips, Sample
from benchmarks.plan import AT_ONCE, BARE, BY_HAND, OURS, Results, machine
from benchmarks.validation import Validation

WIDTH = 100
LABEL_WIDTH = 19
BARE_SHARE = 1 / 5  # of the bare loop's requests
GOAL_AT_ONCE = 32
SMALL = 10  # figures below have a decimal

Value = Callable[[Sample], float]


def show(results: Results, console: Console) -> None:
    """Print everything."""
    console.print(Group(_title(results), _main(results), _rest(results), _goals(results), _legend(results)))


def show_validation(results: Validation, console: Console) -> None:
    """Print what validation takes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("validation, CPU µs", min_width=LABEL_WIDTH)
    for title in ("accepted", "json.loads", "one fault told"):
        table.add_column(title, justify="right", no_wrap=True)
    goals = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    goals.add_row(Text("goals", style="bold"))
    for module, timings in results.timings.items():
        payload, accepted = results.payloads[module], Figure.of(timings.accepted_us)
        figures = (accepted, Figure.of(timings.loads_us), Figure.of(timings.refused_us))
        table.add_row(payload.title, *(_cell(figure, 1) for figure in figures))
        goal = f"{module}: accepted in at most {payload.goal_us:.0f} µs"
        goals.add_row(goal, f"{accepted.median:.1f} µs", _verdict(met=accepted.median <= payload.goal_us))
    runs = len(next(iter(results.timings.values())).accepted_us)
    console.print(Group(_head(runs, results.load_before, results.load_after), table, goals))


def show_calls(results: Called, console: Console) -> None:
    """Print what the round trip of a call takes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("callers at once", min_width=LABEL_WIDTH)
    for at_once in AT_ONCE:
        table.add_column(str(at_once), justify="right", no_wrap=True)

    def row(label: str, runs: Mapping[int, Sequence[RoundTrips]], value: Callable[[RoundTrips], float]) -> None:
        figures = [Figure.of(list(map(value, runs[at_once]))) for at_once in AT_ONCE]
        table.add_row(label, *(_cell(figure, 1 if figure.median < SMALL else 0) for figure in figures))

    def rows(runs: Mapping[int, Sequence[RoundTrips]]) -> None:
        row("  round trips/s", runs, lambda run: run.sample.rate)
        row("  p50, ms", runs, lambda run: run.p50_s * 1000)
        row("  p99, ms", runs, lambda run: run.p99_s * 1000)
        row("  CPU µs, both ends", runs, lambda run: run.sample.both_us)

    table.add_row(Text("two bare POSTs", style="bold"))
    rows(results.bare)
    table.add_row(Text("ocpi-engine", style="bold"))
    rows(results.ours)
    row("      who asks", results.ours, lambda run: run.sample.sender_us)
    row("      who is asked", results.ours, lambda run: run.sample.receiver_us)
    if seen([run.sample for runs in results.ours.values() for run in runs]):
        row("  + servers, CPU µs", results.ours, lambda run: _servers(run.sample))
    head = _head(
        len(results.ours[GOAL_AT_ONCE]), results.load_before, results.load_after, f"{results.backend.title}: calls"
    )
    legend = "From the call of the local API to its answer with the result; the webhook answers at once.\n"
    console.print(Group(head, table, Text(legend, style="dim")))


def show_shared(results: Shared, console: Console) -> None:
    """Print what several sending processes deliver."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    for processes, samples in results.samples.items():
        rate, sender, receiver = (_cell(Figure.of(list(map(value, samples)))) for value in (_rate, _sender, _receiver))
        servers = f", servers {_cell(Figure.of(list(map(_servers, samples))))}" if seen(samples) else ""
        told = f"{rate} Locations/s, CPU µs each: sender {sender}, receivers {receiver}{servers}"
        table.add_row(f"{processes} sending process{'es' if processes > 1 else ''}", told)
    ends = [min(results.samples), max(results.samples)]
    few, more = (Figure.of([sample.rate for sample in results.samples[count]]).median for count in ends)
    if ends[0] < ends[1]:
        table.add_row(f"{ends[1]} deliver more than {ends[0]}", f"{more / few:.2f} times", _verdict(met=more > few))
    title = f"\n{RABBITMQ.title}: {results.subscriptions} subscriptions shared by sending processes\n"
    console.print(Group(Text(title, style="bold"), table))


def show_fan_out(results: FanOut, console: Console) -> None:
    """Print what one change for many subscriptions takes, and many changes."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    table.add_row("one change, until all have it", f"{results.first_change_s:.1f} s, with new connections")
    if results.changes_s:
        table.add_row("another, on these connections", f"{_cell(Figure.of(results.changes_s), 2)} s")
    seconds, rate, sender, receivers = (
        _cell(Figure.of(list(map(value, results.samples))), digits)
        for value, digits in ((_seconds, 1), (_rate, 0), (_sender, 0), (_receiver, 0))
    )
    servers = f", servers {_cell(Figure.of(list(map(_servers, results.samples))))}" if seen(results.samples) else ""
    table.add_row(f"{results.objects} Locations", f"{seconds} s, {rate} Locations/s")
    table.add_row("  CPU µs each", f"sender {sender}, receivers {receivers}{servers}")
    again = sum(results.requests) - sum(sample.count for sample in results.samples)
    table.add_row("  sent more than once", str(again))
    before, after = results.memory_mib
    table.add_row("  memory of the sender", f"{before:.0f} → {after:.0f} MiB")
    title = f"\n{results.backend.title}: {results.subscriptions} subscriptions\n"
    console.print(Group(Text(title, style="bold"), table))


def show_idle(results: Idle, console: Console) -> None:
    """Print what idle subscriptions take."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    one_s, start_s = results.start_s
    told = f"{start_s:.1f} s until it serves ({one_s:.1f} s with one subscription), {results.quiet_s:.0f} s more"
    table.add_row("start", f"{told} until all is quiet")
    table.add_row("memory of the sender", f"{results.sender_kib_each:.1f} KiB each")
    if results.broker_kib_each is not None:
        table.add_row("memory of the broker", f"{results.broker_kib_each:.1f} KiB each")
    named = zip(("sender", "PostgreSQL", "RabbitMQ"), results.cores, strict=True)
    told = ", ".join(f"{name} {used * 100:.1f} %" for name, used in named if used is not None)
    table.add_row("CPU with nothing to do", f"{told} of a core")
    title = f"\n{results.backend.title}: {results.subscriptions} idle subscriptions\n"
    console.print(Group(Text(title, style="bold"), table))


def _title(results: Results) -> RenderableType:
    runs = len(results.samples[OURS, LOCATIONS.module, GOAL_AT_ONCE])
    return _head(runs, results.load_before, results.load_after, results.backend.title)


def _head(runs: int, load_before: float, load_after: float, subject: str = "") -> RenderableType:
    how = f"medians of {runs} runs, ± half the distance from the smallest to the largest" if runs > 1 else "one run"
    load = f"load average {load_before:.1f} before, {load_after:.1f} after"
    return Text.assemble("\n", (subject and f"{subject}\n", "bold"), (f"{machine()}, {load}\n{how}\n", "dim"))


def _main(results: Results) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("\nat once", min_width=LABEL_WIDTH)
    for kind in KINDS.values():
        for at_once, title in zip(AT_ONCE, [*kind.title.split(", "), ""], strict=True):
            table.add_column(f"{title}\n{at_once}", justify="right", no_wrap=True)

    def row(label: str, runner: str, value: Value, style: str = "") -> None:
        cells = [
            _cell(Figure.of([value(sample) for sample in results.samples[runner, kind.module, at_once]]))
            for kind in KINDS.values()
            for at_once in AT_ONCE
        ]
        table.add_row(label, *cells, style=style)

    def heading(label: str) -> None:
        table.add_row(Text(label, style="bold"))

    heading("(a) bare aiohttp")
    row("  requests/s", BARE, _rate)
    row("  CPU µs, both ends", BARE, _both)
    by_hand = _letter(results)
    heading(f"{by_hand} written by hand")
    row("  updates/s", BY_HAND, _rate)
    row("  CPU µs, both ends", BY_HAND, _both)
    heading("ocpi-engine")
    row("  updates/s", OURS, _rate, "bold")
    row("  CPU µs, both ends", OURS, _both, "bold")
    row("      sender", OURS, _sender)
    row("      receiver", OURS, _receiver)
    if seen(results.samples[OURS, LOCATIONS.module, GOAL_AT_ONCE]):
        row("  + servers, CPU µs", OURS, _servers)
        row(f"    those of {by_hand}", BY_HAND, _servers)
    table.add_row("  share of (a)", *_ratios(results, BARE, lambda ratio: f"{ratio:.2f}"))
    table.add_row(f"  times {by_hand}", *_ratios(results, BY_HAND, lambda ratio: f"{ratio:.1f}"))
    return table


def _ratios(results: Results, runner: str, written: Callable[[float], str]) -> list[str]:
    return [written(_ratio(results, runner, kind, at_once)) for kind in KINDS.values() for at_once in AT_ONCE]


def _ratio(results: Results, runner: str, kind: Kind, at_once: int) -> float:
    rates = [
        Figure.of([sample.rate for sample in results.samples[name, kind.module, at_once]]).median
        for name in (OURS, runner)
    ]
    return rates[0] / rates[1]


def _letter(results: Results) -> str:
    return "(b)" if results.backend is EMBEDDED else "(c)"


def _rest(results: Results) -> RenderableType:
    table = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    for kind in KINDS.values():
        delays = results.delays[kind.module]
        rate, p50, p99 = (
            _cell(Figure.of(values))
            for values in (
                [delay.rate for delay in delays],
                [delay.p50_s * 1000 for delay in delays],
                [delay.p99_s * 1000 for delay in delays],
            )
        )
        table.add_row(f"published → stored, {kind.module}", f"p50 {p50} ms, p99 {p99} ms, at {rate} publications/s")
    seconds, rate, cpu = (
        _cell(Figure.of([value(sample) for sample in results.snapshots]), digits)
        for value, digits in ((_seconds, 1), (_rate, 0), (_both, 0))
    )
    count = results.snapshots[0].count
    table.add_row(f"snapshot of {count} Locations", f"{seconds} s, {rate} objects/s, CPU {cpu} µs each, both ends")
    (sender, receiver), (sender_after, receiver_after) = results.memory_before_mib, results.memory_after_mib
    table.add_row(
        "memory, before → after",
        f"sender {sender:.0f} → {sender_after:.0f} MiB, receiver {receiver:.0f} → {receiver_after:.0f} MiB",
    )
    return table


def _goals(results: Results) -> RenderableType:
    table = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    table.add_row()
    table.add_row(Text(f"goals at {GOAL_AT_ONCE} at once", style="bold"))
    goal_times = results.backend.by_hand_times
    for kind in KINDS.values():
        share = _ratio(results, BARE, kind, GOAL_AT_ONCE)
        table.add_row(f"{kind.module}: a fifth of (a)", f"{share:.2f}", _verdict(met=share >= BARE_SHARE))
        times = _ratio(results, BY_HAND, kind, GOAL_AT_ONCE)
        goal = f"{kind.module}: {goal_times:.0f} times {_letter(results)}, with publishing"
        table.add_row(goal, f"{times:.1f}", _verdict(met=times >= goal_times))
    by_hand = Figure.of([sample.rate for sample in results.samples[BY_HAND, LOCATIONS.module, GOAL_AT_ONCE]]).median
    times = Figure.of([sample.rate for sample in results.snapshots]).median / by_hand
    goal = f"{LOCATIONS.module}: {goal_times:.0f} times {_letter(results)}, published before, as for {_letter(results)}"
    table.add_row(goal, f"{times:.1f}", _verdict(met=times >= goal_times))
    cpu = Figure.of(list(map(_both, results.samples[OURS, LOCATIONS.module, GOAL_AT_ONCE]))).median
    goal_us = results.backend.cpu_max_us
    goal = f"{LOCATIONS.module}: CPU of both ends at most {goal_us:.0f} µs"
    table.add_row(goal, f"{cpu:.0f} µs", _verdict(met=cpu <= goal_us))
    return table


def _legend(results: Results) -> RenderableType:
    lines = [
        "",
        f"(a) posts over mutual TLS, to one that stores nothing. {_letter(results)} has its queue filled before the",
        "clock starts. ocpi-engine: from the first call of the local API, in batches of 200, until all is",
        "committed at the receiver; the CPU of all that is in it. The delay runs from the moment at which a",
        "call is due to the arrival on the receiver’s stream of changes, one object a call, at half the rate",
        f"that this can reach. Published before, as for {_letter(results)}: the snapshot, at 32 at once.",
    ]
    if results.backend.has_servers:
        lines.append("Servers: PostgreSQL and RabbitMQ, all that they did meanwhile.")
    return Text("\n".join([*lines, ""]), style="dim")


def _verdict(*, met: bool) -> Text:
    return Text("reached", style="green") if met else Text("missed", style="red")


def _cell(figure: Figure, digits: int = 0) -> str:
    value = f"{figure.median:,.{digits}f}".replace(",", " ")
    return value if figure.runs == 1 else f"{value} ±{figure.spread_percent:.0f}%"


def _rate(sample: Sample) -> float:
    return sample.rate


def _seconds(sample: Sample) -> float:
    return sample.seconds


def _both(sample: Sample) -> float:
    return sample.both_us


def seen(samples: Sequence[Sample]) -> bool:
    """Say whether the servers' processes were to be seen."""
    return all(sample.servers_us is not None for sample in samples)


def _servers(sample: Sample) -> float:
    return sample.servers_us or 0.0


def _sender(sample: Sample) -> float:
    return sample.sender_us


def _receiver(sample: Sample) -> float:
    return sample.receiver_us
