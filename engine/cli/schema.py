"""`schema`: the JSON Schemas of what modules send and are sent, for any validator and without a platform."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.failure import Failure
from engine.cli.options import Json, Panel, module_named

if TYPE_CHECKING:
    from engine.protocol.modules import Module

HOW = (
    ("payloads of a module", "ocpi-engine schema MODULE"),
    ("the body of an update", "ocpi-engine schema MODULE update"),
    ("the request of a call", "ocpi-engine schema MODULE CALL.request"),
    ("what is answered at once", "ocpi-engine schema MODULE CALL.response"),
    ("a result that comes later", "ocpi-engine schema MODULE CALL.callback"),
    ("a class or enum", "ocpi-engine schema MODULE CLASS"),
    ("all of it, as files", "ocpi-engine schema --to DIR"),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.OBJECTS)(schema)


def schema(
    module: Annotated[
        str | None,
        typer.Argument(metavar="MODULE", help="A ModuleID, for instance locations.", show_default=False),
    ] = None,
    part: Annotated[
        str | None,
        typer.Argument(
            metavar="PART", help="What is to be the root: update, CALL.request, … or a class.", show_default=False
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write files into this folder.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the JSON Schema of a module, offline; without MODULE, list what there is."""
    from engine.cli import output
    from engine.protocol.modules import all_modules
    from engine.protocol.modules.json_schema import document

    if module is not None:
        chosen = module_named(module)
        text = document(chosen, _checked(chosen, part))
        if to is None:
            output.write_bytes(text.encode())
        else:
            _write(to, {".".join(filter(None, [chosen.id, part])): text})
    elif to is not None:
        _write(to, {each.id: document(each) for each in all_modules()})
    elif as_json:
        output.show({"modules": [_listed(each) for each in all_modules()]})
    else:
        _tell(all_modules())


def _checked(module: "Module", part: str | None) -> str | None:
    from engine.protocol.modules.json_schema import definitions_of

    known = definitions_of(module)
    if part is None or part in known:
        return part
    raise Failure(f"there is no part {part!r} in {module.id}", f"these are known: {', '.join(known)}")


def _write(folder: Path, texts: dict[str, str]) -> None:
    from engine.cli import output

    files = {folder / f"{name}.schema.json": text for name, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise Failure(f"cannot write to {folder}: {error.strerror}", "name a folder that can be written") from error
    if output.as_json():
        output.show({"written": [str(file) for file in files]})
    else:
        output.done(f"{output.counted(len(files), 'schema')} in {folder}")


def _listed(module: "Module") -> dict[str, object]:
    from engine.protocol.modules.json_schema import definitions_of

    return {
        "module": module.id,
        "aliases": list(module.aliases),
        "title": module.title,
        "chapter": module.chapter,
        "payload": module.payload.__name__,
        "calls": [call.operation for call in module.calls],
        "parts": list(definitions_of(module)),
    }


def _tell(modules: "tuple[Module, ...]") -> None:
    from engine.cli import output

    listed = [
        (each.id, each.payload.__name__, "\n".join(call.operation for call in each.calls) or None) for each in modules
    ]
    output.print_table(["module", "payload", "calls"], listed, none="there are no modules")
    output.say("")
    output.print_table(["to get", "write"], HOW, none="")
