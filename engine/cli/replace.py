"""`replace`: what takes the place of an object that never changes."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Module, Panel

if TYPE_CHECKING:
    from engine.cli.api import Api


class _TellsWhatHappens(TyperCommand):
    """Its help says what happens in each module that replaces objects, in the modules' own words."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Ask the modules only now: nobody else needs them to be loaded."""
        from engine.protocol.modules import all_modules

        self.epilog = "\n\n".join(
            f"[bold]{one.id}[/bold]: {one.replacement.summary}" for one in all_modules() if one.replacement is not None
        )
        super().format_help(ctx, formatter)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=Panel.OBJECTS, cls=_TellsWhatHappens)(replace)


def replace(
    folder: Folder,
    module: Module,
    object_id: Annotated[
        str, typer.Argument(metavar="ID", help="The object that is replaced; it stays as it is.", show_default=False)
    ],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="What comes in its place, as lines that `publish` takes; - for standard input.",
            show_default=False,
        ),
    ] = None,
    *,
    party: Annotated[
        str | None, typer.Option(help="The party that issued it; may be left out if only one is hosted here.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="NEW", help="Id of the object that is made from the old one.")
    ] = None,
    effective_at: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="From when the new ones count, for instance 2027-01-01T00:00:00Z; else now."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Replace an object that never changes by further ones: all that it takes is issued, or nothing."""
    from engine.cli import output
    from engine.cli.api import Api
    from engine.cli.objects import only_party

    body = _order(file, new_id, effective_at)
    with Api(folder) as api:
        issuer = party or only_party(api)
        issued = _replaced(api, issuer, module, object_id, body)
    if as_json:
        output.show({"issued": issued})
        return
    output.done(
        f"{module} {object_id} of {issuer} is replaced: {output.counted(len(issued), 'object')} issued",
        then=f"watch it go out: ocpi-engine state {folder}",
    )
    rows = [[one["module"], one["id"], str(one["version"])] for one in issued]
    output.print_table(["module", "id", "version"], rows, right=["version"], none="nothing had to be issued")


def _replaced(api: "Api", party: str, module: str, object_id: str, body: bytes) -> list[dict[str, Any]]:
    from engine.cli.api import segment

    path = f"/api/v1/parties/{segment(party)}/objects/{segment(module)}/{segment(object_id)}/replacement"
    answer = api.request("POST", path, content=body, headers={"content-type": "application/json"})
    issued: list[dict[str, Any]] = answer.json()["issued"]
    return issued


def _order(file: str | None, new_id: str | None, effective_at: str | None) -> bytes:
    """Write what is wanted; the lines' bytes stay as they are."""
    fields = [] if file is None else [b'"objects":[%b]' % b",\n".join(_new_objects(file))]
    if new_id is not None:
        fields.append(b'"id":' + json.dumps(new_id).encode())
    if effective_at is not None:
        fields.append(b'"effective_at":' + json.dumps(_moment(effective_at)).encode())
    return b"{%b}" % b",".join(fields)


def _new_objects(file: str) -> Iterator[bytes]:
    import msgspec

    from engine.cli.objects import LINE_BYTES_MAX, lines_of, opened

    with opened(file) as (source, _):
        for line in lines_of(source):
            if line.text is None:
                raise Failure(f"line {line.number} is longer than {LINE_BYTES_MAX} bytes")
            if not line.text.strip():
                continue
            try:
                msgspec.json.decode(line.text, type=dict[str, msgspec.Raw])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Failure(
                    f"line {line.number} is no JSON object: {error}", 'each line is {"id": …, "payload": {…}}'
                ) from error
            yield line.text


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; write 2027-01-01T00:00:00Z", param_hint="--from") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; add Z for UTC, or +01:00", param_hint="--from")
    return moment.isoformat()
