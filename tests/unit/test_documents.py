"""What the pages say of the code is so: links, readings, files, and the commands of the README."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from engine.cli.main import app

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
CODE = [path for part in ("engine", "certs", "brokers", "tests") for path in (REPOSITORY / part).rglob("*.py")]
READING = re.compile(r"(?<![\w.])([BW][1-9][0-9]?)(?![\w.\[\]])")
"""A reading of the draft, as code cites it."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    """Whatever a page links to in this repository is there, with the heading that it names."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_reading_that_code_cites_is_explained():
    """`B7` in a comment is no riddle: docs/decisions.md has it."""
    decisions = (REPOSITORY / "docs" / "decisions.md").read_text(encoding="utf-8")
    explained = set(READING.findall(" ".join(re.findall(r"^- \*\*(.+?)\*\*", decisions, re.MULTILINE))))
    explained |= {"W17"}  # within "W16 to W18"
    cited = {
        (reading, str(path.relative_to(REPOSITORY)))
        for path in CODE
        for text in re.findall(r"\(([^()]*)\)", path.read_text(encoding="utf-8"))
        if re.fullmatch(r"(?:[BWR][0-9.]+[ab]?(?:, | and | to |; )?)+", text)
        for reading in READING.findall(text)
    }

    assert len({reading for reading, _ in cited}) > 20, "they are looked for in the wrong way"
    assert {(reading, path) for reading, path in cited if reading not in explained} == set()


def test_files_that_the_readme_names_are_there():
    """Parts of the engine by their path, tests by theirs."""
    for name in re.findall(r"`((?:engine|brokers|certs|tests|docs|deploy)/[\w/.]*)`", README):
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(r"`((?:unit|integration|acceptance)/\w+)`", README):
        assert (REPOSITORY / "tests" / f"{name}.py").exists(), name
    for name in re.findall(r"`((?:replication|registration)/\w+)`", README):
        assert (REPOSITORY / "engine" / f"{name}.py").exists(), name


def commands() -> list[list[str]]:
    """The commands of the README's walk, as words."""
    whole = README.replace("\\\n", " ")
    lines = [*re.findall(r"^\$ (?:.*\| )?ocpi-engine (.+)$", whole, re.MULTILINE)]
    lines += re.findall(r"`ocpi-engine ([^`]+)`", whole)
    return [shlex.split(line.removesuffix("&")) for line in lines]


def test_the_walk_has_its_commands():
    """They are found at all."""
    assert len(commands()) > 20


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_readme_are_commands(words):
    """Their names and options exist; whether they do what it says is for the demo's test."""
    command = get_command(app)
    context = typer.Context(command, info_name="ocpi-engine")
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
        context = typer.Context(command, parent=context, info_name=name)

    if words != ["--help"]:
        command.make_parser(context).parse_args(list(words))
