"""Which cryptography is accepted and issued.

The yardstick is version 2.1 (2021) of the "IT Security Guidelines for Transport Layer Security" of the Dutch NCSC,
which sorts choices into good, sufficient, phase out and insufficient. Good and sufficient ones are accepted, good
ones are issued and offered first (R.01.01.05, R.01.01.06, R.01.02.04, R.01.02.05).

TLS has more choices than Python can set. Where it cannot set one, this is what remains:

- TLS 1.3 suites cannot be chosen before Python 3.15; OpenSSL's three defaults are all good.
- Key exchange groups can be chosen one at a time before Python 3.15. OpenSSL's default list has groups to be phased
  out (ffdhe2048) or worse (P-521), so there only P-256 is left on: good, and known to every TLS library in use.
"""

import ssl
from collections.abc import Iterable
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

DAY_S = 86_400.0

# --- keys and hashes -------------------------------------------------------------------------------------------

CertifiedKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""Public keys that we put our name under."""

CURVES = ("secp256r1", "secp384r1")
"""Good curves for ECDSA. P-521 is not on the list, P-224 is to be phased out."""

HASHES = ("sha256", "sha384", "sha512")
"""Good hashes for signatures. SHA-1 and MD5 are insufficient; nobody asks for others."""

RSA_BITS_MIN = 3072
"""Good. 2048 bits are only sufficient, and a certificate issued today is to last; ECDSA is there for everyone."""

RSA_BITS_PARTNER_MIN = 2048
"""Sufficient. In chains of partners' authorities, whose keys are as old as the authorities."""

RSA_BITS_MAX = 8192
"""A partner chooses this number and we pay for it at each handshake; nobody needs more."""

RSA_EXPONENT_MIN, RSA_EXPONENT_MAX = 65_537, 2**32
"""Smaller exponents have a history of attacks; larger ones only make our verification slow."""

SECURITY_LEVEL = 2
"""OpenSSL's: at least 112 bits everywhere, so RSA from 2048 bits, and no signature with SHA-1."""

# --- sizes -----------------------------------------------------------------------------------------------------

CSR_LENGTH_MAX = 5_500
"""Characters of a request in PEM: the draft's size of ``CertificateRenewalRequest.csr``; RSA-8192 needs about 3 000."""

CHAIN_LENGTH_MAX = 10_000
"""Characters of a chain in PEM: the draft's size of ``RenewedCertificate.certificateChain``."""

FILE_BYTES_MAX = 1_048_576
"""Of a key or certificate file: a bundle of all public authorities has about 250 000 bytes; nothing real is larger."""

# --- lifetimes -------------------------------------------------------------------------------------------------

CLIENT_LIFETIME_S = 365 * DAY_S
"""Long enough that a partner who renews by hand does it once a year; renewal by itself starts after two thirds."""

CLIENT_LIFETIME_MAX_S = 2 * 365 * DAY_S
"""A stolen key that nobody noticed is of use no longer than this."""

SERVER_LIFETIME_S = 365 * DAY_S
"""Of a local server certificate; below the 398 days that clients take for public ones."""

AUTHORITY_LIFETIME_S = 20 * 365 * DAY_S
"""Its end means new credentials for every partner on one day: beyond the life of the connections it starts."""

CLOCK_SKEW_S = 300.0
"""Certificates are valid from this long before they were issued, since the partner's clock may be behind ours; and a
certificate that begins this little in the future is taken, since ours may be."""

# --- TLS -------------------------------------------------------------------------------------------------------

TLS_VERSION_MIN = ssl.TLSVersion.TLSv1_2
"""1.3 is good, 1.2 sufficient, older ones are to be phased out."""

CIPHERS_GOOD = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
"""TLS 1.2 suites of good parts only."""

CIPHERS_SUFFICIENT = (
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-RSA-AES128-SHA256",
)
"""TLS 1.2 suites with CBC, taken when the peer has nothing better. Sufficient ones that are left out: DHE, because
Python cannot hold a partner's group to 3072 bits (2048 is to be phased out), and HMAC with SHA-1, because whatever
has it has one of these too."""

CIPHERS = ":".join((*CIPHERS_GOOD, *CIPHERS_SUFFICIENT, f"@SECLEVEL={SECURITY_LEVEL}"))
"""For ``SSLContext.set_ciphers``; the order is the preference."""

GROUP = "prime256v1"
"""The one key exchange group (P-256) where only one can be set."""

GROUPS = "P-256:X25519:P-384:X448"
"""All good groups, where a list can be set."""


def key_text(key: PublicKeyTypes) -> str:
    """Describe a public key the way people talk about it: ``ECDSA P-256``, ``RSA 3072``."""
    match key:
        case ec.EllipticCurvePublicKey():
            nist = {"secp224r1": "P-224", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
            return f"ECDSA {nist.get(key.curve.name, key.curve.name)}"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def certified_key(key: PublicKeyTypes) -> CertifiedKey | str:
    """Return the key if we put our name under it, or else what is wrong with it."""
    match key:
        case ec.EllipticCurvePublicKey():
            return key if key.curve.name in CURVES else f"an {key_text(key)} key: use ECDSA P-256 or P-384"
        case rsa.RSAPublicKey():
            return _rsa_objection(key, RSA_BITS_MIN) or key
        case _:
            return f"a key of the kind {key_text(key)}: use ECDSA P-256 or P-384, or RSA of {RSA_BITS_MIN} bits or more"


def partner_key_objection(key: PublicKeyTypes) -> str | None:
    """Say what is wrong with a key of a partner's authority, if anything."""
    match key:
        case ec.EllipticCurvePublicKey():
            return None if key.curve.name in (*CURVES, "secp521r1") else f"an {key_text(key)} key"
        case rsa.RSAPublicKey():
            return _rsa_objection(key, RSA_BITS_PARTNER_MIN)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case _:
            return f"a key of the kind {key_text(key)}"


def hash_objection(algorithm: hashes.HashAlgorithm | None, allowed: Iterable[str] = HASHES) -> str | None:
    """Say what is wrong with the hash of a signature, if anything; none means that the signature has its own inside."""
    if algorithm is None or algorithm.name in allowed:
        return None
    return f"signed with {algorithm.name.upper()}: use SHA-256, SHA-384 or SHA-512"


def _rsa_objection(key: rsa.RSAPublicKey, bits_min: int) -> str | None:
    if not bits_min <= key.key_size <= RSA_BITS_MAX:
        return f"an RSA key of {key.key_size} bits: use ECDSA P-256, or RSA of {bits_min} to {RSA_BITS_MAX} bits"
    if not RSA_EXPONENT_MIN <= key.public_numbers().e <= RSA_EXPONENT_MAX:
        return f"an RSA key with an unusual exponent: use {RSA_EXPONENT_MIN}"
    return None
