"""The table: one screen of 100 columns."""

from collections.abc import Callable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.bodies import KINDS, LOCATIONS, Kind
from benchmarks.measuring import Figure, Sample
from benchmarks.plan import AT_ONCE, BARE, BY_HAND, OURS, Results, machine

WIDTH = 100
LABEL_WIDTH = 19
BARE_SHARE = 1 / 5  # of the bare loop's requests
BY_HAND_TIMES = 5  # the hand-written worker's updates
CPU_MAX_US = 700  # for a Location, both ends
GOAL_AT_ONCE = 32

Value = Callable[[Sample], float]


def show(results: Results, console: Console) -> None:
    """Print everything."""
    console.print(Group(_title(results), _main(results), _rest(results), _goals(results), _legend()))


def _title(results: Results) -> RenderableType:
    runs = len(results.samples[OURS, LOCATIONS.module, GOAL_AT_ONCE])
    how = f"medians of {runs} runs, ± half the distance from the smallest to the largest" if runs > 1 else "one run"
    load = f"load average {results.load_before:.1f} before, {results.load_after:.1f} after"
    return Text(f"\n{machine()}, {load}\n{how}\n", style="dim")


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
    heading("(b) written by hand")
    row("  updates/s", BY_HAND, _rate)
    row("  CPU µs, both ends", BY_HAND, _both)
    heading("ocpi-engine")
    row("  updates/s", OURS, _rate, "bold")
    row("  CPU µs, both ends", OURS, _both, "bold")
    row("      sender", OURS, _sender)
    row("      receiver", OURS, _receiver)
    table.add_row("  share of (a)", *_ratios(results, BARE, lambda ratio: f"{ratio:.2f}"))
    table.add_row("  times (b)", *_ratios(results, BY_HAND, lambda ratio: f"{ratio:.1f}"))
    return table


def _ratios(results: Results, runner: str, written: Callable[[float], str]) -> list[str]:
    return [written(_ratio(results, runner, kind, at_once)) for kind in KINDS.values() for at_once in AT_ONCE]


def _ratio(results: Results, runner: str, kind: Kind, at_once: int) -> float:
    rates = [
        Figure.of([sample.rate for sample in results.samples[name, kind.module, at_once]]).median
        for name in (OURS, runner)
    ]
    return rates[0] / rates[1]


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
    for kind in KINDS.values():
        share = _ratio(results, BARE, kind, GOAL_AT_ONCE)
        table.add_row(f"{kind.module}: a fifth of (a)", f"{share:.2f}", _verdict(met=share >= BARE_SHARE))
        times = _ratio(results, BY_HAND, kind, GOAL_AT_ONCE)
        table.add_row(f"{kind.module}: {BY_HAND_TIMES} times (b)", f"{times:.1f}", _verdict(met=times >= BY_HAND_TIMES))
    cpu = Figure.of(list(map(_both, results.samples[OURS, LOCATIONS.module, GOAL_AT_ONCE]))).median
    goal = f"{LOCATIONS.module}: CPU of both ends at most {CPU_MAX_US} µs"
    table.add_row(goal, f"{cpu:.0f} µs", _verdict(met=cpu <= CPU_MAX_US))
    return table


def _legend() -> RenderableType:
    return Text(
        "\n(a) posts over mutual TLS, to a server that stores nothing. (b) has its queue filled before the"
        "\nclock starts. ocpi-engine: from the first call of the local API, in batches of 200, until all is"
        "\ncommitted at the receiver; the CPU of all that is in it. The delay runs from the moment at which a"
        "\ncall is due to the arrival on the receiver’s stream of changes, one object a call, at half the rate"
        "\nthat this can reach.\n",
        style="dim",
    )


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


def _sender(sample: Sample) -> float:
    return sample.sender_us


def _receiver(sample: Sample) -> float:
    return sample.receiver_us
