"""An authority and a server certificate for 127.0.0.1, made for one test."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server's certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def create(cls, folder, *, lasts=timedelta(days=2)):
        """Make all three, valid from an hour ago on; a negative time gives an expired certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        files = cls(folder / "ca.crt", folder / "server.pem", folder / "server.key")
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name = named("knot_fed test authority")
        root = builder(root_name, root_name, root_key, timedelta(days=2))
        root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        server = builder(named("localhost"), root_name, key, lasts)
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        server = server.add_extension(x509.SubjectAlternativeName(names), critical=False)
        server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        server = server.add_extension(issuer, critical=False)
        files.authority.write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files.certificate.write_bytes(server.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def of_superlink(self):
        """Return the SuperLink's options."""
        files = {"--ssl-ca-certfile": self.authority, "--ssl-certfile": self.certificate, "--ssl-keyfile": self.key}
        return [str(part) for pair in files.items() for part in pair]


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def builder(subject, issuer, key, lasts):
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    certificate = certificate.serial_number(x509.random_serial_number())
    certificate = certificate.not_valid_before(min(start, start + lasts - timedelta(hours=1)))
    certificate = certificate.not_valid_after(datetime.now(UTC) + lasts)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return certificate.add_extension(identifier, critical=False)
