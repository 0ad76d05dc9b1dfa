"""Keys of the secure sum: agreed pairwise, split into shares, and bound to one round and one list of clients.

Flower's primitives are used for key agreement on an elliptic curve, Fernet, and Shamir's sharing over GF(2^128), but
not for masks and quantisation. Its mask generator folds a seed into 32 bits, which can be searched, drives a Mersenne
Twister, which is not a cryptographic generator, and never draws the largest value of its range. Its quantisation
rounds by NumPy's global generator and clips silently. Here masks are ChaCha20 keystreams under 256-bit keys
(`privacy.secure_sum.expand_mask`).
"""

import base64
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate

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
    """Return the public key of a secret key, as a compressed point."""
    point = _private(secret).public_key()
    return point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def pair_mask_key(secret: bytes, peer: bytes, session: bytes) -> bytes:
    """Derive the key of the mask that two clients share in one round."""
    return _derive(_agree(secret, peer), purpose=b"pair mask", session=session)


def self_mask_key(seed: bytes, session: bytes) -> bytes:
    """Derive the key of a client's self-mask in one round."""
    return _derive(seed, purpose=b"self mask", session=session)


def commitment(seed: bytes, session: bytes) -> bytes:
    """Commit a client to its seed, so that a seed joined from shares can be checked."""
    return _derive(seed, purpose=b"commitment", session=session)


def split_secret(secret: bytes, *, threshold: int, clients: int) -> list[bytes]:
    """Split a secret into one share per client; any `threshold` shares restore it, and fewer reveal nothing."""
    return create_shares(secret, threshold, clients)


def join_shares(shares: Sequence[bytes], *, threshold: int) -> bytes:
    """Restore a secret from the first `threshold` shares."""
    if len(shares) < threshold:
        raise WireError(f"{len(shares)} shares of a secret, the threshold is {threshold}; nothing can be restored")
    try:
        return combine_shares(list(shares[:threshold]))
    except ValueError:
        raise WireError("the shares of a secret do not belong together; run again") from None


def check_share(share: bytes, *, holder: int, size: int) -> None:
    """Refuse a share of another length, or one that belongs to another place in the list of clients."""
    if len(share) != size:
        raise WireError(f"a share of {len(share)} bytes, expected {size}; send shares of split_secret")
    index = int.from_bytes(share[:INDEX_BYTES], "little")
    if index != holder + 1:
        raise WireError(f"a share of place {index}, expected {holder + 1}; send each client its own shares")


def seal_shares(
    seed_share: bytes, key_share: bytes, *, secret: bytes, peer: bytes, session: bytes, sender: int, receiver: int
) -> bytes:
    """Encrypt the shares for one peer, bound to sender and receiver: the server can neither read nor move them."""
    plain = share_keys_plaintext_concat(sender, receiver, seed_share, key_share)
    return encrypt(_seal_key(secret, peer, session), plain)


def open_shares(
    sealed: bytes, *, secret: bytes, peer: bytes, session: bytes, sender: int, receiver: int
) -> tuple[bytes, bytes]:
    """Decrypt the shares of a peer's self-mask seed and secret key, which it sealed for this client."""
    try:
        plain = decrypt(_seal_key(secret, peer, session), sealed)
        said_sender, said_receiver, seed_share, key_share = share_keys_plaintext_separate(plain)
    except (InvalidToken, InvalidSignature, ValueError, TypeError):
        reason = "altered, or sealed for another list of clients; run again"
        raise WireError(f"sealed shares cannot be opened: {reason}") from None
    if (said_sender, said_receiver) != (sender, receiver):
        raise WireError("sealed shares name another sender or receiver than the server states; run again")
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
