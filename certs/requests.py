"""Certificate signing requests: ours, and those that partners send us (UC 01.01, UC 01.04).

A request comes from outside, by mail or by HTTP, and ends in a certificate that opens our door. So its size is looked
at before anything is parsed, its key before its signature is verified, and what is odd is refused with a sentence that
its sender can act on. Of what passes, the issued certificate takes the name and the key, and nothing else.
"""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from certs import files, names, pem, policy
from certs.errors import BadName, BadRequest, shown

_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")  # the second is what older tools write

_READ = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}
"""Extensions that are understood here; another one may be there, but not be critical."""


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that passed every check: what an authority needs to issue, and people need to compare."""

    common_name: str
    """Who it is for: a domain name in lower case."""

    public_key: policy.CertifiedKey = field(repr=False)

    fingerprint: str
    """SHA-256 of the request in DER, lower-case hexadecimal: what two people read to each other on the telephone
    (R.01.01.04). ``openssl req -in FILE -outform DER | sha256sum`` prints it too."""

    key: str
    """The key as people talk about it: ``ECDSA P-256``."""


def make_request(common_name: str, *, key: bytes | None = None) -> tuple[bytes, bytes]:
    """Make a request for a client certificate: ``(private key, request)``, both PEM.

    The key is a new ECDSA P-256 one, or the given one (PEM). The request is restricted to client authentication
    (R.01.01.01, R.01.01.07).

    Raises:
        BadName: the common name is not a domain name.
        BadRequest: no certificate would be issued for the given key.
        FileProblem: the given key cannot be read.
    """
    name = names.common_name(common_name)
    private_key = ec.generate_private_key(ec.SECP256R1()) if key is None else files.load_key(key, "the given key")
    if isinstance(objection := policy.certified_key(private_key.public_key()), str):
        raise BadRequest(f"the given key is {objection}")
    assert isinstance(private_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)  # noqa: S101  # for the type checker
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    return files.key_bytes(private_key), request.public_bytes(serialization.Encoding.PEM)


def check_request(csr_pem: bytes | str, *, common_name: str | None = None) -> CheckedRequest:
    """Check a partner's request against the draft's requirements and ours (R.01.01.01 to R.01.01.07).

    ``common_name`` is the name that the request must have, where there is one: that of the certificate which the
    partner authenticated with (R.01.04.05).

    Raises:
        BadRequest: no certificate may be issued for it; the message tells its sender why (R.01.04.10).
    """
    data = pem.bounded(csr_pem, length_max=policy.CSR_LENGTH_MAX, what="the request", error=BadRequest)
    _check_blocks(data)
    with pem.reading("the request", BadRequest):
        request = x509.load_pem_x509_csr(data)
        key = _checked_key(request)
        name = _checked_name(request, common_name)
        _check_extensions(request.extensions, name)
        if not request.is_signature_valid:
            raise BadRequest(
                "the request's signature is not that of its key: it was changed on the way, make a new one"
            )
        fingerprint = hashes.Hash(hashes.SHA256())
        fingerprint.update(request.public_bytes(serialization.Encoding.DER))
    return CheckedRequest(name, key, fingerprint.finalize().hex(), policy.key_text(key))


def _check_blocks(data: bytes) -> None:
    if pem.holds_private_key(data):
        raise BadRequest("this is, or has in it, a private key, which nobody else must ever see: make a new one")
    match pem.labels(data):
        case [label] if label in _LABELS:
            return
        case []:
            raise BadRequest("this is not a certificate signing request in PEM: it has no BEGIN CERTIFICATE REQUEST")
        case [label]:
            raise BadRequest(f"this is a {label}, not a CERTIFICATE REQUEST")
        case many:
            raise BadRequest(f"there are {len(many)} PEM blocks, and one is expected: send the request alone")


def _checked_key(request: x509.CertificateSigningRequest) -> policy.CertifiedKey:
    key = policy.certified_key(request.public_key())
    if isinstance(key, str):
        raise BadRequest(f"the request has {key}")
    if objection := policy.hash_objection(request.signature_hash_algorithm):
        raise BadRequest(f"the request is {objection}")
    return key


def _checked_name(request: x509.CertificateSigningRequest, expected: str | None) -> str:
    found = pem.common_names(request.subject)
    if len(found) != 1:
        raise BadRequest(f"the request has {len(found)} common names, and one is expected: the platform's domain name")
    try:
        name = names.common_name(found[0])
    except BadName as problem:
        raise BadRequest(f"the request's common name {problem}") from problem
    if expected is not None and name != expected.lower():
        raise BadRequest(f"the request is for {shown(name)}, and only one for {shown(expected)} is accepted here")
    return name


def _check_extensions(extensions: x509.Extensions, name: str) -> None:
    """Refuse what asks for more than authenticating as a client under this name."""
    for extension in extensions:
        if extension.critical and extension.oid not in _READ:
            raise BadRequest(f"the request has a critical extension ({extension.oid.dotted_string}) unknown here")
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise BadRequest("the request is for a certificate authority: only client certificates are issued")
            case x509.KeyUsage() as usage:
                _check_key_usage(usage)
            case x509.SubjectAlternativeName() as others:
                _check_other_names(others, name)
            case _:
                pass
    _check_purposes(extensions)


def _check_purposes(extensions: x509.Extensions) -> None:
    """Hold the request to client authentication, and to nothing beside it (R.01.01.07)."""
    purposes = {
        purpose for found in extensions if isinstance(found.value, x509.ExtendedKeyUsage) for purpose in found.value
    }
    if ExtendedKeyUsageOID.SERVER_AUTH in purposes:
        raise BadRequest("the request is for TLS server authentication: ask for client authentication only")
    if not purposes:
        raise BadRequest(
            "the request is not restricted to TLS client authentication: add the extended key usage clientAuth, "
            "with `openssl req -new -addext extendedKeyUsage=clientAuth ...`"
        )
    if purposes != {ExtendedKeyUsageOID.CLIENT_AUTH}:
        raise BadRequest("the request is for other uses than TLS client authentication: ask for clientAuth only")


def _check_key_usage(usage: x509.KeyUsage) -> None:
    if usage.key_cert_sign or usage.crl_sign:
        raise BadRequest("the request's key usage is to sign certificates: only client certificates are issued")
    if not usage.digital_signature:
        raise BadRequest(
            "the request's key usage leaves out digitalSignature, which TLS needs: add it, or leave it open"
        )


def _check_other_names(others: x509.SubjectAlternativeName, name: str) -> None:
    for other in others:
        if not isinstance(other, x509.DNSName) or other.value.lower() != name:
            raise BadRequest(
                f"the request has the alternative name {shown(str(other.value))}: only {name} itself may stand there"
            )
