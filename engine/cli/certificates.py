"""`certificate …`: client certificates, exchanged by file and checked by phone (UC 01.01), renewed, ended, shown."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.failure import Failure
from engine.cli.options import Folder, Json, Panel, Partner

group = typer.Typer(
    name="certificate",
    help="Client certificates: request, sign, install, renew, end, show.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ServerCa = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="PEM to trust for the partner's server; if left out, public authorities."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead of to standard output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, rich_help_panel=Panel.REGISTRATION)


@group.command()
def request(folder: Folder, partner: Partner, out: Out = None, as_json: Json = False) -> None:
    """Make a key and a signing request for a PARTNER to sign. The key stays here."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        made = api.post("/api/v1/certificates/request", {"platform": partner})
    if as_json:
        output.show(made)
        return
    _write(made["csr"], out)
    output.note(output.faint("fingerprint  "), _spaced(made["fingerprint"]))
    output.note(output.good("✓ "), f"request of {made['identity']} for {partner} to sign", _in(out))
    _hint("send it to them; they compare the fingerprint with you by phone before they sign")


@group.command()
def sign(
    folder: Folder,
    csr: Annotated[Path, typer.Argument(metavar="CSR", help="The partner's signing request; - for standard input.")],
    *,
    out: Out = None,
    server_ca: ServerCa = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="Identity and fingerprint were checked by phone: do not ask.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign a partner's request, after identity and fingerprint were checked by phone (R.01.01.04)."""
    from engine.cli import output
    from engine.cli.api import Api

    text = _text(csr)
    with Api(folder) as api:
        found = api.post("/api/v1/certificates/inspect", {"csr": text})
        output.note(output.faint("identity     "), found["identity"])
        output.note(output.faint("fingerprint  "), _spaced(found["fingerprint"]))
        if not confirmed:
            _ask_whether_confirmed(found)
        signed = api.post(
            "/api/v1/certificates/sign", {"csr": text, "confirmed": True, "server_ca": _optional(server_ca)}
        )
    if as_json:
        output.show(signed)
        return
    _write(signed["chain"], out)
    output.note(output.good("✓ "), f"signed for {signed['identity']}, ", _ends(signed), _in(out))
    _hint("send it back; they install it with `ocpi-engine certificate install`")


@group.command()
def install(
    folder: Folder,
    partner: Partner,
    chain: Annotated[Path, typer.Argument(metavar="CHAIN", help="What the partner signed; - for standard input.")],
    server_ca: ServerCa = None,
    as_json: Json = False,
) -> None:
    """Install the certificate that a PARTNER signed for us."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        order = {"platform": partner, "chain": _text(chain), "server_ca": _optional(server_ca)}
        installed = api.post("/api/v1/certificates/install", order)
    if as_json:
        output.show(installed)
        return
    output.done(
        f"{partner} knows us by this certificate {_ends(installed)}",
        then=f"connect: ocpi-engine connect {folder} https://… --identity {partner}",
    )


@group.command()
def renew(folder: Folder, partner: Partner, as_json: Json = False) -> None:
    """Ask a PARTNER for a new certificate now; by itself it is done in time (UC 01.04)."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        answer = api.post(f"/api/v1/platforms/{partner}/renew")
    if as_json:
        output.show(answer)
        return
    if answer["state"] == "renewed":
        output.done(f"{partner} issued a new certificate", then=f"see: ocpi-engine certificate show {folder}")
    else:
        output.say(output.odd("… "), f"renewal {answer['id']} is {answer['state']}: {answer['last_error'] or 'asked'}")
        output.hint(f"the present certificate is used until then; see: ocpi-engine certificate show {folder}")


@group.command()
def decide(
    folder: Folder,
    renewal: Annotated[int, typer.Argument(metavar="ID", help="A renewal that a partner asked for.")],
    refuse: Annotated[str | None, typer.Option(metavar="REASON", help="Refuse it, and say why.")] = None,
    as_json: Json = False,
) -> None:
    """Issue a renewal that a partner asked for, or refuse it; needed only where renewal is not automatic."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        api.post(f"/api/v1/renewals/{renewal}/decide", {"refuse_because": refuse})
    if as_json:
        output.show({"renewal": renewal, "refused": refuse is not None})
        return
    output.done(f"renewal {renewal} is {'refused' if refuse else 'granted'}; the partner is told")


@group.command()
def end(
    folder: Folder,
    serial: Annotated[str, typer.Argument(help="Serial of a certificate that we issued, hexadecimal.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "ended by the operator",
    as_json: Json = False,
) -> None:
    """End a certificate that we issued: it is refused from now on."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        ended = api.post(f"/api/v1/certificates/{serial}/end", {"reason": reason})
    if as_json:
        output.show(ended)
        return
    output.done(f"certificate {serial} of {ended['platform']} is refused from now on")


@group.command()
def show(folder: Folder, as_json: Json = False) -> None:
    """Show the certificates that we issued, and those issued to us."""
    from engine.cli import output
    from engine.cli.api import Api

    with Api(folder) as api:
        found = api.get("/api/v1/certificates")
        renewals = api.get("/api/v1/renewals")
    if as_json:
        output.show({"certificates": found, "renewals": renewals})
        return
    output.print_table(
        ["partner", "issued", "state", "serial", "from", "until"],
        [
            [
                one["platform"],
                "by us" if one["issued_here"] else "to us",
                output.good(one["state"]) if one["state"] == "in use" else output.odd(one["state"]),
                one["serial"],
                one["not_before"][:10],
                f"{one['not_after'][:10]} ({output.age(one['not_after'])})",
            ]
            for one in found
        ],
        none="no certificates yet; begin with `ocpi-engine certificate request`",
    )
    if renewals:
        output.say()
        output.print_table(
            ["renewal", "partner", "asked", "state", "since", "next try", "why"],
            [
                [
                    str(one["id"]),
                    one["platform"],
                    "by us" if one["asked_by_us"] else "by them",
                    one["state"],
                    output.age(one["created_at"]),
                    output.age(one["due_at"]),
                    one["reason"] or one["last_error"],
                ]
                for one in renewals
            ],
            none="",
        )


def _ask_whether_confirmed(found: dict[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise Failure(
            f"nobody here can say whether {found['identity']} was checked by phone",
            "after the check, say so with --confirmed",
        )
    question = "Did a person there read you this identity and fingerprint by phone?"
    if not typer.confirm(question, default=False, err=True):
        raise Failure("not signed", "call them first (R.01.01.04)")


def _spaced(fingerprint: str) -> str:
    """Write a fingerprint so that it can be read aloud."""
    plain = fingerprint.replace(":", "")
    return " ".join(plain[start : start + 4] for start in range(0, len(plain), 4))


def _ends(certificate: dict[str, Any]) -> str:
    return f"until {certificate['not_after'][:10]}"


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {error}", "give a PEM file") from error


def _optional(path: Path | None) -> str | None:
    return None if path is None else _text(path)


def _write(text: str, out: Path | None) -> None:
    from engine.cli import output

    if out is None:
        output.write_bytes(text.encode())
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot write {out}: {error.strerror}", "choose another --out") from error


def _in(out: Path | None) -> str:
    return "" if out is None else f", in {out}"


def _hint(text: str) -> None:
    """Say what comes next, beside what was written to standard output."""
    from engine.cli import output

    output.note(output.faint(output.HINT + text))
