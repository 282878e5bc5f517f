"""Keys and certificates on disk: written whole or not at all, and private keys for nobody else's eyes.

A key and the certificate for it belong together, and two files cannot be replaced at one instant. ``write_pair`` puts
both into one file, so that no crash can leave a key beside the certificate of another.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from certs import pem, policy
from certs.errors import FileProblem

KEY_MODE = 0o600
CHAIN_MODE = 0o644
FOLDER_MODE = 0o700


def write_key(path: Path, key_pem: bytes) -> None:
    """Write a private key that only this user can read, from the moment that the file exists.

    Raises:
        FileProblem: the file system does not let us.
    """
    write_whole(path, key_pem, mode=KEY_MODE)


def write_chain(path: Path, chain_pem: bytes) -> None:
    """Write certificates, which are public.

    Raises:
        FileProblem: the file system does not let us.
    """
    write_whole(path, chain_pem, mode=CHAIN_MODE)


def write_pair(path: Path, *, key_pem: bytes, chain_pem: bytes) -> None:
    """Write a private key and its certificates as one file; it serves as chain file and as key file.

    Raises:
        FileProblem: the file system does not let us.
    """
    write_whole(path, key_pem.rstrip() + b"\n" + chain_pem.rstrip() + b"\n", mode=KEY_MODE)


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Replace a file at one instant, and return when it would survive a power cut.

    Raises:
        FileProblem: the file system does not let us; the file is as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write_new(draft, data, mode)
            draft.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as problem:
        raise FileProblem(f"{path} cannot be written: {problem.strerror}") from problem


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it, that only this user can look into; one that is there stays as it is.

    Raises:
        FileProblem: the file system does not let us.
    """
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as problem:
        raise FileProblem(f"{path} cannot be made: {problem.strerror}") from problem


def read_key(path: Path) -> bytes:
    """Read the private key of a file that nobody else can read, as PEM without anything else.

    Raises:
        FileProblem: it cannot be read, others can read it, it is encrypted, or it is none.
    """
    return key_bytes(load_key(_read(path, private=True), str(path)))


def read_chain(path: Path) -> bytes:
    """Read the certificates of a file as PEM, in the order in which they stand there.

    Raises:
        FileProblem: it cannot be read, or has none.
    """
    data = _read(path, private=False)
    with pem.reading(str(path), FileProblem):
        certificates = x509.load_pem_x509_certificates(data)
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def load_key(key_pem: bytes, what: str) -> PrivateKeyTypes:
    """Parse an unencrypted private key; ``what`` is its name in messages.

    Raises:
        FileProblem: it is encrypted, or no private key.
    """
    try:
        return serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        # From nothing: whatever the library says about a key stays out of our messages and traces.
        raise FileProblem(
            f"{what} is encrypted, and nobody is there to type a password: write it without one, "
            "with `openssl pkey -in FILE -out NEW-FILE`, readable by this user only"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise FileProblem(f"{what} is not a private key in PEM") from None


def key_bytes(key: PrivateKeyTypes) -> bytes:
    """Write a private key as PEM (PKCS 8, not encrypted: the file's mode guards it)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor: the mode holds from creation
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Let what was created, renamed or removed in a folder outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        # Not blocking: whoever names a pipe gets a message and not a process that waits for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # the file that was looked at is the file that is read
            _look(path, os.fstat(descriptor), private=private)
            return file.read(policy.FILE_BYTES_MAX)
    except OSError as problem:
        raise FileProblem(f"{path} cannot be read: {problem.strerror}") from problem


def _look(path: Path, found: os.stat_result, *, private: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise FileProblem(f"{path} is not a file")
    if found.st_size > policy.FILE_BYTES_MAX:
        raise FileProblem(f"{path} is larger than {policy.FILE_BYTES_MAX} bytes: it cannot be the right file")
    if private and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise FileProblem(
            f"{path} has mode {mode:04o}, so other users can get at the private key: run `chmod 600 {path}`, "
            "and replace the key if one of them may have"
        )
