"""Keys of the secure sum: agreed pairwise, split into shares, and bound to one round of one list of clients.

Flower's primitives are used where they hold: elliptic-curve key agreement, Fernet, Shamir's sharing over GF(2^128).
Its mask generator is not: it folds a seed into 32 bits, which anybody can try out, drives a Mersenne Twister that is
no cryptographic generator, and never draws the largest value of its range. Masks are ChaCha20 keystreams here
(`privacy.secure_sum.expand_mask`) under keys of 256 bits. Nor is its quantisation: it rounds by NumPy's global
generator and cuts values off without a word.
"""

import base64
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)

from knot_fed.errors import WireError
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.secure_sum import MASK_KEY_BYTES

CURVE = ec.SECP384R1()
SECRET_BYTES = 48
PUBLIC_BYTES = 49
SEED_BYTES = 32
SEED_SHARE_BYTES = 52
SECRET_SHARE_BYTES = 68
INDEX_BYTES = 4


def new_secret() -> bytes:
    """Draw a secret key of the curve."""
    return ec.generate_private_key(CURVE).private_numbers().private_value.to_bytes(SECRET_BYTES, "big")


def new_seed() -> bytes:
    """Draw the seed of a self-mask."""
    return NoiseSource().bytes(SEED_BYTES)


def public_key(secret: bytes) -> bytes:
    """Return a secret key's public key, as a compressed point.

    Raises
    ------
    WireError
        If the bytes are no secret key.
    """
    point = _private(secret).public_key()
    return point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def session_digest(
    *, round_number: int, threshold: int, seal_keys: Sequence[bytes], mask_keys: Sequence[bytes]
) -> bytes:
    """Name a round of one list of clients: who sees another list, threshold or round derives other keys."""
    digest = hashlib.sha256(b"knot_fed secure sum 1")
    for number in (round_number, threshold, len(seal_keys)):
        digest.update(number.to_bytes(8, "big"))
    for key in (*seal_keys, *mask_keys):
        digest.update(len(key).to_bytes(2, "big") + key)
    return digest.digest()


def pair_mask_key(secret: bytes, peer: bytes, session: bytes) -> bytes:
    """Derive the key of the mask that two clients share in one round.

    Raises
    ------
    WireError
        If the peer's key is no point of the curve.
    """
    return _derive(_agree(secret, peer), purpose=b"pair mask", session=session)


def self_mask_key(seed: bytes, session: bytes) -> bytes:
    """Derive the key of a client's own mask in one round."""
    return _derive(seed, purpose=b"self mask", session=session)


def commitment(seed: bytes, session: bytes) -> bytes:
    """Bind a client to its seed, so that a seed put together from shares can be checked."""
    return _derive(seed, purpose=b"commitment", session=session)


def split_secret(secret: bytes, *, threshold: int, clients: int) -> list[bytes]:
    """Split a secret into one share for each client, any `threshold` of which give it back, and fewer tell nothing."""
    return create_shares(secret, threshold, clients)


def join_shares(shares: Sequence[bytes], *, threshold: int) -> bytes:
    """Put a secret together from the first `threshold` shares.

    Raises
    ------
    WireError
        If there are too few shares, or they are not shares of one secret.
    """
    if len(shares) < threshold:
        raise WireError(f"{len(shares)} shares of a secret, the threshold is {threshold}; nothing can be put together")
    try:
        return combine_shares(list(shares[:threshold]))
    except ValueError:
        raise WireError("the shares of a secret do not belong together; run again") from None


def check_share(share: bytes, *, holder: int, size: int) -> None:
    """Refuse a share of another length, or of another holder's place in the list of clients.

    Raises
    ------
    WireError
        With what was found.
    """
    if len(share) != size:
        raise WireError(f"a share of {len(share)} bytes, expected {size}; send shares of split_secret")
    index = int.from_bytes(share[:INDEX_BYTES], "little")
    if index != holder + 1:
        raise WireError(f"a share of place {index}, expected {holder + 1}; send each client its own shares")


def seal_shares(
    seed_share: bytes, key_share: bytes, *, secret: bytes, peer: bytes, session: bytes, sender: int, receiver: int
) -> bytes:
    """Encrypt the shares for one peer, with sender and receiver inside, so that the server cannot read or move them."""
    plain = share_keys_plaintext_concat(sender, receiver, seed_share, key_share)
    return encrypt(_seal_key(secret, peer, session), plain)


def open_shares(
    sealed: bytes, *, secret: bytes, peer: bytes, session: bytes, sender: int, receiver: int
) -> tuple[bytes, bytes]:
    """Decrypt the shares that a peer sealed for this client.

    Returns
    -------
    seed_share, key_share
        Of the peer's self-mask seed, and of its secret key.

    Raises
    ------
    WireError
        If they were sealed for somebody else, for another list of clients or round, or altered on the way.
    """
    try:
        plain = decrypt(_seal_key(secret, peer, session), sealed)
        said_sender, said_receiver, seed_share, key_share = share_keys_plaintext_separate(plain)
    except (InvalidToken, InvalidSignature, ValueError, TypeError):
        raise WireError(
            "sealed shares cannot be opened: altered, or sealed for another list of clients; run again"
        ) from None
    if (said_sender, said_receiver) != (sender, receiver):
        raise WireError("sealed shares name another sender or receiver than the server says; run again")
    check_share(seed_share, holder=receiver, size=SEED_SHARE_BYTES)
    check_share(key_share, holder=receiver, size=SECRET_SHARE_BYTES)
    return seed_share, key_share


def _seal_key(secret: bytes, peer: bytes, session: bytes) -> bytes:
    return base64.urlsafe_b64encode(_derive(_agree(secret, peer), purpose=b"seal", session=session))


def _agree(secret: bytes, peer: bytes) -> bytes:
    try:
        return generate_shared_key(_private(secret), ec.EllipticCurvePublicKey.from_encoded_point(CURVE, peer))
    except ValueError:
        raise WireError("a public key is no point of the curve P-384; send keys of public_key") from None


def _private(secret: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        return ec.derive_private_key(int.from_bytes(secret, "big"), CURVE)
    except ValueError:
        raise WireError("the bytes are no secret key of the curve P-384; run again") from None


def _derive(secret: bytes, *, purpose: bytes, session: bytes) -> bytes:
    info = b"knot_fed secure sum 1 | " + purpose
    return HKDF(algorithm=hashes.SHA256(), length=MASK_KEY_BYTES, salt=session, info=info).derive(secret)
