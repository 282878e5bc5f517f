"""Which requirements of the draft are shown, by which tests: ``make requirements``.

A test that shows a requirement says so: ``@pytest.mark.requirement("R.03.02.12")``. This collects all tests
without running them and lays their marks beside the list in ``tests/requirements.tsv``. Whether they pass is
for ``make test`` to say.
"""

import argparse
import contextlib
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIST = REPOSITORY / "tests" / "requirements.tsv"


@dataclass(frozen=True)
class Requirement:
    """One number of the draft."""

    id: str
    chapter: str
    reason: str = ""
    """Why a program cannot show it; empty where it can."""


@dataclass
class Marks:
    """A pytest plugin that notes which test names which requirement."""

    tests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Requirement id → the tests that name it, each once however many parameters it has."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the marks of everything that was collected."""
        for id_, test in marks(session.items):
            if test not in self.tests[id_]:
                self.tests[id_].append(test)


def marks(items: Iterable[pytest.Item]) -> Iterator[tuple[str, str]]:
    """Each requirement id that a test names, with the test."""
    for item in items:
        for mark in item.iter_markers("requirement"):
            for id_ in mark.args:
                yield id_, item.nodeid.partition("[")[0]


def read(text: str) -> list[Requirement]:
    """Read the list of requirements.

    Raises ``ValueError`` for a line that is none, and for a number that stands there twice.
    """
    found: dict[str, Requirement] = {}
    chapter = ""
    for line in text.splitlines():
        if line.startswith("#") or not line:
            chapter = line.removeprefix("# ")
            continue
        id_, _, reason = line.partition("\t")
        if not re.fullmatch(r"R(\.\d\d){3}[ab]?", id_):
            raise ValueError(f"not a requirement: {line!r}")
        if id_ in found:
            raise ValueError(f"twice in the list: {id_}")
        found[id_] = Requirement(id_, chapter, reason)
    return list(found.values())


def report(
    requirements: Sequence[Requirement],
    tests: Mapping[str, Sequence[str]],
    *,
    only: str = "",
    only_open: bool = False,
) -> str:
    """Write the report, chapter by chapter; of those whose id begins with ``only``."""
    chosen = [requirement for requirement in requirements if requirement.id.startswith(only)]
    lines: list[str] = []
    for chapter in dict.fromkeys(requirement.chapter for requirement in chosen):
        members = [requirement for requirement in chosen if requirement.chapter == chapter]
        lines += [f"{chapter}: {counts(members, tests)}", ""]
        for requirement in members:
            if not only_open or state(requirement, tests) == "not yet":
                lines += describe(requirement, tests.get(requirement.id, ()))
        lines.append("")
    lines.append(f"{len(chosen)} requirements: {counts(chosen, tests)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def state(requirement: Requirement, tests: Mapping[str, Sequence[str]]) -> str:
    """How far we are with a requirement."""
    if tests.get(requirement.id):
        return "shown"
    return "cannot be shown by a program" if requirement.reason else "not yet"


def counts(requirements: Sequence[Requirement], tests: Mapping[str, Sequence[str]]) -> str:
    """How many requirements are in which state."""
    states = [state(requirement, tests) for requirement in requirements]
    names = ("shown", "cannot be shown by a program", "not yet")
    return ", ".join(f"{states.count(name)} {name}" for name in names if name in states)


def describe(requirement: Requirement, tests: Sequence[str]) -> list[str]:
    """The lines for one requirement: its first two tests, or what stands in their place."""
    shown = [test.removeprefix("tests/") for test in tests[:2]]
    if len(tests) > len(shown):
        shown[-1] += f"  and {len(tests) - len(shown)} more"
    if requirement.reason:
        shown.append(f"— {requirement.reason}")
    first, *rest = shown or ["not yet"]
    return [f"  {requirement.id:<12}{first}", *(f"  {'':<12}{line}" for line in rest)]


def collect(tests: Path) -> Marks:
    """Collect all tests below a folder, without running them.

    Raises ``RuntimeError`` with pytest's own words when some cannot be collected.
    """
    found = Marks()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        configuration = str(REPOSITORY / "pyproject.toml")
        code = pytest.main(["-c", configuration, "--collect-only", "-q", str(tests)], plugins=[found])
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise RuntimeError(output.getvalue())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 if a test names a requirement that the draft does not have."""
    parser = argparse.ArgumentParser(prog="make requirements ARGS=...", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="the beginning of an id: R.03 for chapter 3")
    parser.add_argument("--open", action="store_true", help="list only those that are not shown yet")
    options = parser.parse_args(arguments)
    requirements = read(LIST.read_text())
    tests = collect(LIST.parent).tests
    print(report(requirements, tests, only=options.only, only_open=options.open))  # noqa: T201 - its purpose
    unknown = sorted(tests.keys() - {requirement.id for requirement in requirements})
    for id_ in unknown:
        print(f"{', '.join(tests[id_])}: there is no {id_}", file=sys.stderr)  # noqa: T201 - its purpose
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
