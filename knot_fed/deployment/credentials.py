"""A federation's credentials: its authority, the server's certificate, and one key pair for each node."""

import os
import re
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from knot_fed.deployment.certificates import authority_certificate, new_key, private_pem, server_certificate
from knot_fed.errors import CredentialsError
from knot_fed.files import PRIVATE, PUBLIC, make_folder, write_file

HOSTS = ("localhost", "127.0.0.1", "superlink")
AUTHORITY_DAYS = 3650
WARN_DAYS = 30
CONTAINER_USER = (10001, 10001)
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Credential:
    """One certificate or node key; `until` is None for a node key, which has no date of its own."""

    name: str
    path: Path
    until: datetime | None

    @property
    def days_left(self) -> float | None:
        """Days until it expires, negative afterwards."""
        return None if self.until is None else (self.until - datetime.now(UTC)) / timedelta(days=1)


def create_credentials(
    folder: Path, clients: Sequence[str], *, hosts: Sequence[str] = (), days: int = 365
) -> tuple[int, int]:
    """Make an authority, a server certificate and a key pair for each client in a folder that is not there yet.

    Parameters
    ----------
    folder
        Where they go; all of it appears at once or not at all.
    clients
        Names of the nodes.
    hosts
        Names and addresses of the server beside `HOSTS`.
    days
        How long the server certificate is valid; the authority is for ten years.

    Returns
    -------
    user
        User and group that own the keys, and that the containers run as: whoever calls, but never root.

    Raises
    ------
    CredentialsError
        If the folder is there, or a name is invalid.
    """
    if folder.exists():
        raise CredentialsError(f"{folder}: is there already; use knot-fed credentials add NAME, or another --out")
    _check_names(clients)
    make_folder(folder.parent, mode=PUBLIC)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".credentials-") as new:
        draft = Path(new) / "credentials"
        for public in _public_folders(draft):
            _make(public, mode=PUBLIC)
        _write_authority(draft)
        _write_server_certificate(draft, [*HOSTS, *hosts], days=days)
        for name in clients:
            _write_node(draft, name)
        user = _give_away(draft / "superlink", *(draft / "clients" / name for name in clients))
        draft.rename(folder)
    return user


def add_node(folder: Path, name: str, *, public_key: Path | None = None) -> None:
    """Add one node: a key pair made here, or the public key of one that its owner has made.

    Raises
    ------
    CredentialsError
        If the folder holds no credentials, the node is there already, or the public key is invalid.
    """
    _read_certificate(folder / "ca.crt")
    _check_names([name])
    _close(folder)
    listed = folder / "superlink" / "nodes" / f"{name}.pub"
    if listed.exists() or (folder / "clients" / name).exists():
        raise CredentialsError(f"{name}: has credentials in {folder} already; choose another name")
    if public_key is None:
        _write_node(folder, name)
        _give_away(folder / "clients" / name, listed)
    else:
        read_public_key(public_key)
        _write(listed, public_key.read_bytes())


def renew_server_certificate(folder: Path, *, days: int = 365) -> None:
    """Put a new key and certificate for the same names in the place of the server's.

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
    """List what is there: authority, server certificate, nodes.

    Raises
    ------
    CredentialsError
        If the folder holds no credentials.
    """
    certificates = [("authority", folder / "ca.crt"), ("server", folder / "superlink" / "server.crt")]
    found = [Credential(name, path, _read_certificate(path).not_valid_after_utc) for name, path in certificates]
    return found + [Credential(name, path, None) for name, path in public_keys(folder).items()]


def public_keys(folder: Path) -> dict[str, Path]:
    """Return the file of each node's public key by the node's name."""
    return {path.stem: path for path in sorted((folder / "superlink" / "nodes").glob("*.pub"))}


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a node's public key, in OpenSSH's form.

    Raises
    ------
    CredentialsError
        If the file is missing, or holds no such key.
    """
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CredentialsError(
            f"{path}: is no EC public key in OpenSSH's form; make it with ssh-keygen -t ecdsa -b 384"
        )
    return key


def _write_authority(folder: Path) -> None:
    key = new_key()
    certificate = authority_certificate(key, days=AUTHORITY_DAYS)
    _write(folder / "ca.key", private_pem(key), mode=0o600)
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder / "superlink" / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _write_server_certificate(folder: Path, hosts: Sequence[str], *, days: int) -> None:
    authority, authority_key = _read_certificate(folder / "ca.crt"), _read_authority_key(folder / "ca.key")
    if datetime.now(UTC) + timedelta(days=days) > authority.not_valid_after_utc:
        raise CredentialsError(f"--days {days}: is beyond the authority's own end; ask for fewer days")
    key = new_key()
    certificate = server_certificate(
        key.public_key(), hosts, authority=authority, authority_key=authority_key, days=days
    )
    _write(folder / "superlink" / "server.key", private_pem(key), mode=0o600)
    _write(folder / "superlink" / "server.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _write_node(folder: Path, name: str) -> None:
    """Write a node's own folder, and its public key where the server's operator registers from."""
    own = folder / "clients" / name
    _make(own, mode=PRIVATE)
    key = new_key()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    _write(own / "node.key", private, mode=0o600)
    _write(own / "node.pub", public)
    _write(own / "ca.crt", (folder / "ca.crt").read_bytes())
    _write(folder / "superlink" / "nodes" / f"{name}.pub", public)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise CredentialsError(
            f"{path}: is missing or no certificate; make one with knot-fed credentials init"
        ) from None


def _read_authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CredentialsError(f"{path}: is missing or no key; renew where the authority's key is kept")
    return key


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise CredentialsError(f"client {name!r}: use letters, digits, '-', '_' and '.', at most 63")
    if not names or len(set(names)) < len(names):
        raise CredentialsError("--clients: names no client, or one of them twice; give each its own name")


def _public_folders(folder: Path) -> tuple[Path, ...]:
    return folder, folder / "superlink", folder / "superlink" / "nodes", folder / "clients"


def _close(folder: Path) -> None:
    """Let nobody but their owner write to folders that were made under a lax umask."""
    for public in _public_folders(folder):
        mode = stat.S_IMODE(public.stat().st_mode)
        if mode & OTHERS_WRITE:
            public.chmod(mode & ~OTHERS_WRITE)


def _make(folder: Path, *, mode: int) -> None:
    """Make a folder of exactly this mode, whatever the umask; the containers' user reads what is public."""
    folder.mkdir(mode=PRIVATE)
    folder.chmod(mode)


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file at once, of exactly this mode; a key is never readable by others, not even for a moment."""
    write_file(path, content)
    path.chmod(mode)


def _give_away(*paths: Path) -> tuple[int, int]:
    """Let the containers' user own what they read, where root makes it; else they run as whoever makes it."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    for path in paths:
        for file in (path, *path.rglob("*")):
            os.chown(file, *CONTAINER_USER)
    return CONTAINER_USER
