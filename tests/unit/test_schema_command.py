"""`ocpi-engine schema`: what it lists, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.main import run
from engine.protocol.modules import all_modules, registry
from engine.protocol.modules.json_schema import definitions_of, document

NAMES = [(name, module) for name, module in registry.items()]


def test_the_list(capsys):
    """Without a module it tells which there are, what they have, and how to get it."""
    assert run(["schema"]) == 0
    told = capsys.readouterr().out

    for module in all_modules():
        assert module.id in told
        assert module.payload.__name__ in told
        assert all(call.operation in told for call in module.calls)
    assert "ocpi-engine schema MODULE update" in told
    assert "ocpi-engine schema --to DIR" in told


def test_the_list_for_scripts(capsys):
    """With `--json` every part is listed, and each can be had."""
    assert run(["schema", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["modules"]

    assert [each["module"] for each in listed] == [module.id for module in all_modules()]
    for each, module in zip(listed, all_modules(), strict=True):
        assert each["parts"] == [*definitions_of(module)]
        assert each["payload"] in each["parts"]
        assert "update" in each["parts"]
    assert run(["schema", listed[-1]["module"], listed[-1]["parts"][-1]]) == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("name", "module"), NAMES, ids=lambda each: each if isinstance(each, str) else "")
def test_a_module(name, module, options, capsys):
    """Its document, under each of its names, on standard output and nothing beside it."""
    assert run(["schema", name, *options]) == 0

    assert capsys.readouterr() == (document(module), "")


@pytest.mark.parametrize("part", ["update", "Location", "Connector", "DateTime"])
def test_a_part(part, capsys):
    """With what it needs and nothing else."""
    assert run(["schema", "locations", part]) == 0
    schema = json.loads(capsys.readouterr().out)

    assert schema["$ref"] == f"#/$defs/{part}"
    assert ("update" in schema["$defs"]) == (part == "update")
    assert ("Facility" in schema["$defs"]) == (part in {"update", "Location"})


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["Locations"], "there is no module 'Locations'", ", ".join(module.id for module in all_modules())),
        (["evsestatuses", "Location"], "there is no part 'Location' in evsestatuses", "EvseStatus, update"),
        (["evsestatuses", ""], "there is no part '' in evsestatuses", "EvseStatus, update"),
    ],
)
def test_unknown_names(words, message, hint, capsys):
    """What is not there is told with what is; the exit code is 1, and nothing is written."""
    assert run(["schema", *words]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert hint in told.err

    assert run(["schema", *words, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == message
    assert hint in error["hint"]


def test_files(tmp_path: Path, capsys):
    """`--to` writes a file for each module, into a folder that it makes."""
    folder = tmp_path / "deep" / "schemas"
    assert run(["schema", "--to", str(folder)]) == 0
    assert f"{len(all_modules())} schemas in" in capsys.readouterr().out

    written = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert written == {f"{module.id}.schema.json": document(module) for module in all_modules()}


def test_one_file(tmp_path: Path, capsys):
    """Also of one module, or of a part of it, over an older one."""
    old = tmp_path / "locations.update.schema.json"
    old.write_text("old")
    assert run(["schema", "locations", "--to", str(tmp_path)]) == 0
    assert run(["schema", "locations", "update", "--to", str(tmp_path), "--json"]) == 0

    assert capsys.readouterr().out.endswith('{\n  "written": [\n    "' + str(old) + '"\n  ]\n}\n')
    assert {file.name for file in tmp_path.iterdir()} == {"locations.schema.json", old.name}
    assert json.loads(old.read_text())["$ref"] == "#/$defs/update"


def test_a_folder_that_is_none(tmp_path: Path, capsys):
    """What cannot be written is told, and the exit code is 1."""
    file = tmp_path / "file"
    file.write_text("")

    assert run(["schema", "--to", str(file)]) == 1
    assert f"cannot write to {file}: " in capsys.readouterr().err


def test_wrong_use(capsys):
    """One module and one part at a time."""
    assert run(["schema", "locations", "update", "Location"]) == 2
    assert run(["schema", "--to"]) == 2
    assert "Usage" in capsys.readouterr().err


def test_it_is_there_at_once():
    """None of the large libraries is loaded to write a schema."""
    code = (
        "import sys; from engine.cli.main import run; run(['schema', 'locations']);"
        "print([name for name in ('httpx', 'sqlalchemy', 'aiohttp', 'fastapi', 'cryptography', 'jsonschema')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
