"""The credentials of a federation: its authority, the server's certificate, and a key pair for each node."""

import os
import re
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from knot_fed.deployment.certificates import authority_certificate, new_key, private_pem, server_certificate
from knot_fed.errors import CredentialsError
from knot_fed.files import PRIVATE, PUBLIC, make_folder, write_file

HOSTS = ("localhost", "127.0.0.1", "superlink")
AUTHORITY_DAYS = 3650
WARN_DAYS = 30
CONTAINER_USER = (10001, 10001)
PUBLIC_FOLDERS = (".", "superlink", "superlink/nodes", "clients")
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate, or a node key, which has no expiry date (`until` is None)."""

    name: str
    path: Path
    until: datetime | None


def create_credentials(
    folder: Path, clients: Sequence[str], *, hosts: Sequence[str] = (), days: int = 365
) -> tuple[int, int]:
    """Create an authority, a server certificate and a key pair for each client in a new folder, all or nothing.

    The server certificate covers `HOSTS` and `hosts` and is valid for `days`; the authority's is valid for ten years.
    Returns the user and group that own the keys and run the containers: the caller's, but never root.

    Raises
    ------
    CredentialsError
        If the folder exists, or a name is invalid.
    """
    if folder.exists():
        raise CredentialsError(f"{folder}: already exists; use knot-fed credentials add NAME, or another --out")
    _check_names(clients)
    make_folder(folder.parent, mode=PUBLIC)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".credentials-") as new:
        draft = Path(new) / "credentials"
        for public in PUBLIC_FOLDERS:
            _make(draft / public, mode=PUBLIC)
        _write_authority(draft)
        _write_server_certificate(draft, [*HOSTS, *hosts], days=days)
        for name in clients:
            _write_node(draft, name)
        user = _give_away(draft / "superlink", *(draft / "clients" / name for name in clients))
        draft.rename(folder)
    return user


def add_node(folder: Path, name: str, *, public_key: Path | None = None) -> None:
    """Add a node: with a new key pair, or with the public key of a pair that its owner has created.

    Raises
    ------
    CredentialsError
        If the folder holds no credentials, the node exists, or the public key is invalid.
    """
    _read_certificate(folder / "ca.crt")
    _check_names([name])
    _close(folder)
    listed = folder / "superlink" / "nodes" / f"{name}.pub"
    if listed.exists() or (folder / "clients" / name).exists():
        raise CredentialsError(f"{name}: already has credentials in {folder}; choose another name")
    if public_key is None:
        _write_node(folder, name)
        _give_away(folder / "clients" / name, listed)
    else:
        read_public_key(public_key)
        _write(listed, public_key.read_bytes())


def renew_server_certificate(folder: Path, *, days: int = 365) -> None:
    """Replace the server's key and certificate by new ones for the same hosts.

    Raises
    ------
    CredentialsError
        If the authority or the old certificate is missing, or the authority expires first.
    """
    old = _read_certificate(folder / "superlink" / "server.crt")
    _close(folder)
    alternatives = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    _write_server_certificate(folder, [str(name.value) for name in alternatives], days=days)
    _give_away(folder / "superlink" / "server.key", folder / "superlink" / "server.crt")


def list_credentials(folder: Path) -> list[Credential]:
    """List the authority, the server's certificate and the nodes' keys; raises CredentialsError if there are none."""
    certificates = {"authority": folder / "ca.crt", "server": folder / "superlink" / "server.crt"}
    dated = [Credential(name, path, _read_certificate(path).not_valid_after_utc) for name, path in certificates.items()]
    return dated + [Credential(name, path, None) for name, path in public_keys(folder).items()]


def public_keys(folder: Path) -> dict[str, Path]:
    """Return the file of each node's public key, by node name."""
    return {path.stem: path for path in sorted((folder / "superlink" / "nodes").glob("*.pub"))}


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a node's public key in OpenSSH format; raises CredentialsError if the file holds none."""
    key = _load(path, serialization.load_ssh_public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        remedy = "create one with ssh-keygen -t ecdsa -b 384"
        raise CredentialsError(f"{path}: not an EC public key in OpenSSH format; {remedy}")
    return key


def _write_authority(folder: Path) -> None:
    key = new_key()
    certificate = authority_certificate(key, days=AUTHORITY_DAYS).public_bytes(Encoding.PEM)
    _write(folder / "ca.key", private_pem(key), mode=0o600)
    _write(folder / "ca.crt", certificate)
    _write(folder / "superlink" / "ca.crt", certificate)


def _write_server_certificate(folder: Path, hosts: Sequence[str], *, days: int) -> None:
    authority, authority_key = _read_certificate(folder / "ca.crt"), _read_authority_key(folder / "ca.key")
    if datetime.now(UTC) + timedelta(days=days) > authority.not_valid_after_utc:
        raise CredentialsError(f"--days {days}: the authority expires before that; ask for fewer days")
    key = new_key()
    certificate = server_certificate(
        key.public_key(), hosts, authority=authority, authority_key=authority_key, days=days
    )
    _write(folder / "superlink" / "server.key", private_pem(key), mode=0o600)
    _write(folder / "superlink" / "server.crt", certificate.public_bytes(Encoding.PEM))


def _write_node(folder: Path, name: str) -> None:
    """Write a node's folder, and a copy of its public key for registration."""
    node = folder / "clients" / name
    _make(node, mode=PRIVATE)
    key = new_key()
    public = key.public_key().public_bytes(Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    _write(node / "node.key", private_pem(key, serialization.PrivateFormat.OpenSSH), mode=0o600)
    _write(node / "node.pub", public)
    _write(node / "ca.crt", (folder / "ca.crt").read_bytes())
    _write(folder / "superlink" / "nodes" / f"{name}.pub", public)


def _read_certificate(path: Path) -> x509.Certificate:
    certificate = _load(path, x509.load_pem_x509_certificate)
    if not isinstance(certificate, x509.Certificate):
        raise CredentialsError(f"{path}: missing or not a certificate; create one with knot-fed credentials init")
    return certificate


def _read_authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = _load(path, partial(serialization.load_pem_private_key, password=None))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CredentialsError(f"{path}: missing or not an EC key; run renew where the authority's key is stored")
    return key


def _load(path: Path, parse: Callable[[bytes], object]) -> object:
    """Return the parsed content of a file, or None if it cannot be read or parsed."""
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise CredentialsError(f"client {name!r}: use letters, digits, '-', '_' and '.', at most 63")
    if not names or len(set(names)) < len(names):
        raise CredentialsError("--clients: no name, or the same name twice; name each client once")


def _close(folder: Path) -> None:
    """Withdraw write permission from group and others, in case the folders were created under a lax umask."""
    for public in PUBLIC_FOLDERS:
        mode = stat.S_IMODE((folder / public).stat().st_mode)
        if mode & OTHERS_WRITE:
            (folder / public).chmod(mode & ~OTHERS_WRITE)


def _make(folder: Path, *, mode: int) -> None:
    """Create a folder with exactly this mode, whatever the umask; the containers' user reads public ones."""
    folder.mkdir(mode=PRIVATE)
    folder.chmod(mode)


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file atomically with exactly this mode; a key is never readable by others, not even briefly."""
    write_file(path, content)
    path.chmod(mode)


def _give_away(*paths: Path) -> tuple[int, int]:
    """If root, give the paths to the containers' user; return the user and group that own them."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    for path in paths:
        for file in (path, *path.rglob("*")):
            os.chown(file, *CONTAINER_USER)
    return CONTAINER_USER
