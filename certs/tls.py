"""TLS on both sides of a connection between platforms (UC 01.02).

The listener trusts client certificates of our own authority and of nobody else: no other file or directory of the
system is read for it. The client trusts the system's authorities, or those that were named for one partner (B41), and
checks the host name. Both present a certificate of their own.

Nothing is resumed on the listener's side by TLS 1.3 tickets: a resumed session is not verified again, and connections
are kept alive anyway. A TLS 1.2 session or a long connection can still outlive the certificate that opened it, so
whoever answers requests looks at ``PeerCertificate.not_after`` too.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from certs import files, pem, policy
from certs.errors import BadCertificate, FileProblem


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that the other side authenticated with; times in seconds since the epoch."""

    serial: int
    common_name: str
    """In lower case, as names are compared."""

    not_before: float
    not_after: float


class _Context(ssl.SSLContext):
    """A context that remembers the kind of its key, which OpenSSL files certificates by."""

    key_kind: str = ""


def server_context(*, chain_file: Path, key_file: Path, client_ca_file: Path | None) -> ssl.SSLContext:
    """Make the listener's context: it presents ``chain_file`` and admits clients of ``client_ca_file`` (R.01.02.03).

    None is for a listener behind a proxy, which asks for the client certificates (``certs.forwarded``).

    Raises:
        FileProblem: a file cannot be used.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    _set_policy(context)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE  # good suites before sufficient ones, whatever the client likes
    context.options |= ssl.OP_NO_TICKET  # TLS 1.2; see above
    context.num_tickets = 0  # TLS 1.3
    if client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # ours to comply with
        _load_authorities(context, client_ca_file)
    reload(context, chain_file=chain_file, key_file=key_file)
    return context


def client_context(*, chain_file: Path, key_file: Path, server_ca_file: Path | None = None) -> ssl.SSLContext:
    """Make the context for requests to one partner: it presents the certificate that this partner issued to us.

    Server certificates are trusted by the authorities of ``server_ca_file``, or without one by the system's
    (R.01.02.02).

    Raises:
        FileProblem: a file cannot be used.
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    _set_policy(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False  # names stand among the alternative names, as RFC 9525 has it
    if server_ca_file is None:
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # public authorities comply; those made by hand often do not
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, server_ca_file)
    reload(context, chain_file=chain_file, key_file=key_file)
    return context


def reload(context: ssl.SSLContext, *, chain_file: Path, key_file: Path) -> None:
    """Present another certificate from the next handshake on; connections that are open stay as they are.

    If this fails, the context goes on with what it has.

    Raises:
        FileProblem: a file cannot be used, the two do not belong together, or the key is of another kind than the one
            in use: OpenSSL would go on presenting the old one beside it, so that takes a new context (a restart).
    """
    kind = _check_pair(chain_file, key_file)
    rehearsal = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # OpenSSL may stop half-way, and this one is not in use
    rehearsal.set_ciphers(policy.CIPHERS)
    _load_pair(rehearsal, chain_file, key_file)
    if isinstance(context, _Context):
        if context.key_kind not in ("", kind):
            raise FileProblem(
                f"{key_file} is an {kind} key where an {context.key_kind} key is in use: restart to change"
            )
        context.key_kind = kind
    _load_pair(context, chain_file, key_file)


def peer_certificate(connection: ssl.SSLObject | ssl.SSLSocket) -> PeerCertificate | None:
    """Tell who the other side of a connection is, after its handshake; None if it showed no certificate.

    Raises:
        BadCertificate: it does not have exactly one common name; no authority of ours issues that.
    """
    data = connection.getpeercert(binary_form=True)
    if not data:
        return None
    with pem.reading("the peer's certificate", BadCertificate):
        certificate = x509.load_der_x509_certificate(data)
        found = pem.common_names(certificate.subject)
        if len(found) != 1:
            raise BadCertificate(f"the peer's certificate has {len(found)} common names, and one is expected")
        return PeerCertificate(
            serial=certificate.serial_number,
            common_name=found[0].lower(),
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )


def _set_policy(context: ssl.SSLContext) -> None:
    context.minimum_version = policy.TLS_VERSION_MIN
    context.set_ciphers(policy.CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    set_groups: Callable[[str], Any] | None = getattr(context, "set_groups", None)  # from Python 3.15 on
    if set_groups is None:
        context.set_ecdh_curve(policy.GROUP)
    else:
        set_groups(policy.GROUPS)


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    files.read_chain(path)  # says more about a bad file than OpenSSL does
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as problem:
        raise FileProblem(f"{path} cannot be used: {problem}") from problem


def _load_pair(context: ssl.SSLContext, chain_file: Path, key_file: Path) -> None:
    try:
        context.load_cert_chain(chain_file, key_file, password=_no_password)
    except (ssl.SSLError, OSError) as problem:
        raise FileProblem(f"{chain_file} cannot be used: {problem}") from problem


def _check_pair(chain_file: Path, key_file: Path) -> str:
    """Make sure that these two would load, before a context in use is touched; return the kind of the key."""
    key = files.load_key(files.read_key(key_file), str(key_file)).public_key()
    with pem.reading(str(chain_file), FileProblem):
        keys = [each.public_key() for each in x509.load_pem_x509_certificates(files.read_chain(chain_file))]
    if keys[0] == key:
        return policy.key_text(key).split(" ")[0]
    if key in keys:
        raise FileProblem(
            f"{chain_file} does not begin with the certificate of {key_file}: put it first, then its issuers"
        )
    raise FileProblem(f"{chain_file} is not for the key in {key_file}: the two must come from the same request")


def _no_password() -> str:
    """Stand in for OpenSSL's prompt, which would hold up a process that has no terminal."""
    return ""
