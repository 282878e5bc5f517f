"""Pages and files that are written from the code are the ones that the code would write today."""

import tomllib
from typing import Any

import pytest

from engine.protocol.transitions import Lifecycle
from engine.settings import Settings, read_settings
from tests.support.generated import EXAMPLES, FILES, LIVES, REPOSITORY, lifecycles, settings_file


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_current(name):
    """What differs is shown; `python -m tests.support.generated` mends it."""
    assert (REPOSITORY / name).read_text(encoding="utf-8") == FILES[name]()


def test_the_settings_file_is_one_that_the_engine_reads():
    """Its values are the defaults, every one of them, so that copying it changes nothing."""
    written = read_settings(tomllib.loads(settings_file()), {})

    assert written == read_settings({"platform": EXAMPLES}, {})
    names = {(section, name) for section, values in written.model_dump().items() for name in values}
    assert {(section, name) for section, values in tomllib.loads(settings_file()).items() for name in values} == names


def test_every_setting_says_why():
    """A number without a reason cannot be changed by anyone but its author."""
    for section in Settings.model_fields.values():
        assert section.annotation is not None
        fields = section.annotation.model_fields
        assert all(field.description for field in fields.values())


@pytest.mark.parametrize("life", LIVES.values(), ids=lambda life: life.name)
def test_every_cell_is_in_the_picture(life: Lifecycle[Any, Any]):
    """Each event of each state stands on the arrow to the state after it."""
    arrows = [line.strip() for line in lifecycles().splitlines() if "-->" in line]
    for state, row in life.table.items():
        for event, after in row.items():
            assert any(
                arrow.startswith(f"{state} --> {after}: ") and event in arrow.partition(": ")[2].split(" · ")
                for arrow in arrows
            ), f"{state} {event}"
