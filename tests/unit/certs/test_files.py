"""Keys and certificates on disk."""

import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certs import files
from certs.authority import Authority
from certs.errors import FileProblem
from certs.requests import make_request
from tests.support import certificates

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def identity():
    """A key with a chain."""
    return certificates.client(Authority.create("test", now=NOW), "emsp.example.org", now=NOW)


def mode(path):
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_written_for_this_user_only_whatever_the_umask(tmp_path, identity):
    """Mode 0600 also where files are open to everyone by default, and also when a file was replaced."""
    path = tmp_path / "client.key"
    old = os.umask(0)
    try:
        path.write_bytes(b"an old key")
        files.write_key(path, identity.key_pem)
    finally:
        os.umask(old)

    assert mode(path) == 0o600
    assert files.read_key(path) == identity.key_pem


def test_a_key_has_its_mode_from_the_moment_that_the_file_exists(tmp_path, identity, monkeypatch):
    """No other user can open it between its creation and the end of writing."""
    seen = []
    real = os.fsync

    def look(descriptor):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)

    files.write_key(tmp_path / "client.key", identity.key_pem)

    assert seen[0] == 0o600


def test_what_was_written_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    """The file is synced, then renamed, then its folder is synced: a power cut leaves the old one or the new one."""
    path = tmp_path / "chain.pem"
    path.write_bytes(b"old")
    synced = []
    real = os.fsync

    def look(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)

    files.write_chain(path, b"new")

    assert synced == [(False, b"old"), (True, b"new")]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """Out of space: what was there stays, no half of a file and no draft of it."""
    path = tmp_path / "chain.pem"
    path.write_bytes(b"old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(FileProblem, match="No space left"):
        files.write_chain(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_a_problem_with_a_name(tmp_path):
    """The message names the file."""
    with pytest.raises(FileProblem, match=r"nowhere/chain\.pem cannot be written"):
        files.write_chain(tmp_path / "nowhere" / "chain.pem", b"new")


@pytest.mark.parametrize("open_mode", [0o640, 0o604, 0o660, 0o620, 0o644])
def test_a_key_that_others_can_get_at_is_not_used(tmp_path, identity, open_mode):
    """The message says how to close it."""
    path = tmp_path / "client.key"
    files.write_key(path, identity.key_pem)
    path.chmod(open_mode)

    with pytest.raises(FileProblem, match=f"chmod 600 {path}"):
        files.read_key(path)


def test_an_encrypted_key_is_a_problem_and_not_a_prompt(tmp_path):
    """Nobody is there to type a password."""
    path = tmp_path / "client.key"
    key = ec.generate_private_key(ec.SECP256R1())
    files.write_key(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )

    with pytest.raises(FileProblem, match="encrypted"):
        files.read_key(path)


def test_no_message_about_a_key_shows_any_of_it(tmp_path, identity):
    """Also a key that is cut off stays out of messages and of the errors behind them."""
    path = tmp_path / "client.key"
    files.write_key(path, identity.key_pem[:100])

    with pytest.raises(FileProblem, match="not a private key") as refused:
        files.read_key(path)
    assert refused.value.__cause__ is None
    assert identity.key_pem.splitlines()[1].decode()[:20] not in str(refused.value)


@pytest.mark.parametrize("make", ["missing", "folder", "pipe", "huge", "text"])
def test_files_that_cannot_be_right_are_named(tmp_path, make):
    """Whatever stands where a key should be, there is a message at once, for a key and for a chain."""
    path = tmp_path / "it"
    match make:
        case "folder":
            path.mkdir(mode=0o700)
        case "pipe":
            os.mkfifo(path, 0o600)
        case "huge":
            with path.open("wb") as file:
                file.truncate(2_000_000)
            path.chmod(0o600)
        case "text":
            path.touch(0o600)
            path.write_text("good morning")

    with pytest.raises(FileProblem, match=str(path)):
        files.read_key(path)
    with pytest.raises(FileProblem, match=str(path)):
        files.read_chain(path)


def test_a_key_and_its_chain_can_share_a_file(tmp_path, identity):
    """One file cannot have the key of one certificate and the chain of another."""
    path = tmp_path / "client.pem"

    files.write_pair(path, key_pem=identity.key_pem, chain_pem=identity.chain_pem)

    assert mode(path) == 0o600
    assert files.read_key(path) == identity.key_pem
    assert files.read_chain(path) == identity.chain_pem


def test_a_private_folder_is_for_this_user_only(tmp_path):
    """And making it twice does no harm."""
    path = tmp_path / "cpo"

    files.make_private_folder(path)
    files.make_private_folder(path)

    assert mode(path) == 0o700


def test_a_private_folder_cannot_be_where_a_file_is(tmp_path):
    """The message names it."""
    (tmp_path / "cpo").touch()

    with pytest.raises(FileProblem, match="cannot be made"):
        files.make_private_folder(tmp_path / "cpo")


def test_a_key_that_we_made_can_be_read_back(tmp_path):
    """What ``make_request`` returns is what ``read_key`` reads."""
    key, _ = make_request("emsp.example.org")
    files.write_key(tmp_path / "client.key", key)

    assert files.read_key(tmp_path / "client.key") == key
