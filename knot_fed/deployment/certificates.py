"""X.509 certificates of a federation's authority and of its server."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from knot_fed.errors import CredentialsError

CLOCK_SKEW = timedelta(hours=1)
UNUSED_KEY_USAGES = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only",
)  # fmt: skip


def new_key() -> ec.EllipticCurvePrivateKey:
    """Draw a private key on the curve P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(
    key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8
) -> bytes:
    """Return a private key as PEM, unencrypted."""
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def authority_certificate(key: ec.EllipticCurvePrivateKey, *, days: int) -> x509.Certificate:
    """Return the self-signed certificate of an authority that may sign server certificates but no other authority."""
    name = _name("knot_fed federation")
    return _builder(name, name, key.public_key(), days=days, is_authority=True).sign(key, hashes.SHA384())


def server_certificate(
    key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    *,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    """Return a server certificate for `hosts`, IP addresses or host names; raises CredentialsError for any other."""
    alternatives = [_general_name(host) for host in dict.fromkeys(hosts)]
    return (
        _builder(_name("superlink"), authority.subject, key, days=days, is_authority=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int, is_authority: bool
) -> x509.CertificateBuilder:
    """Start a certificate, valid from an hour ago on so that slow clocks accept it."""
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        **dict.fromkeys(UNUSED_KEY_USAGES, False),
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.BasicConstraints(is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(usage, critical=True)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CredentialsError(f"--host {host!r}: not an IP address or an ASCII host name; write one") from None
