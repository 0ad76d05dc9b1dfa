"""Every place that draws random numbers, with the sources it may use; an unlisted place fails the test."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import knot_fed
from knot_fed.federation.secure import key_agreement
from knot_fed.federation.secure.peer import KeyList, Peer, deal_shares, mask_values, receive_shares
from knot_fed.models import ModelSpec, build_classifier
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import noisy_soft_labels, noisy_votes
from knot_fed.training.dp_sgd import PrivateSchedule, fit_privately

PACKAGE = Path(knot_fed.__file__).parent
PRIVACY = {
    "privacy/noise.py": {"secrets.token_bytes": 2},
    "mechanisms/gaussian.py": {"NoiseSource": 1},
    "mechanisms/pate.py": {"NoiseSource": 1},
    "training/kept_teachers.py": {"NoiseSource": 1},
    "privacy/ledger/ledger.py": {"NoiseSource": 1},
    "system/processes.py": {"secrets.token_hex": 1},  # the mark by which a watcher knows what was started here
    "runs/log.py": {"secrets.token_urlsafe": 1},  # the seal of a run's own lines
    "federation/secure/key_agreement.py": {"NoiseSource": 1, "ec.generate_private_key": 1, "create_shares": 1},
}
"""Draws that protect somebody: noise, Poisson sampling, the owner's secret, seals, keys, seeds, shares of secure sums.
Keys come from OpenSSL, shares from Flower's primitives, all others from one keystream."""
OTHER = {
    "training/confidence.py": {"np.random.default_rng": 1},  # random token sequences, from the run's seed
    "audit/study.py": {"np.random.default_rng": 1},
    "data/prepare/conversion.py": {"np.random.default_rng": 1},
    "data/shares.py": {"np.random.default_rng": 3},  # who gets which rows in a study, from its seed
    "data/private.py": {"np.random.default_rng": 1},  # which public transfer texts a study keeps
    "data/reviews.py": {"np.random.default_rng": 1},
    "deployment/certificates.py": {"ec.generate_private_key": 1, "x509.random_serial_number": 1},
    "training/distillation.py": {"np.random.default_rng": 2},
    "federation/client/settings.py": {"np.random.SeedSequence": 1},
    "federation/server/collecting.py": {"np.random.default_rng": 1},
    "federation/server/learning.py": {"np.random.SeedSequence": 1},
    "federation/flower/in_process.py": {"uuid4": 2},  # numbers of messages and runs
    "losses.py": {"torch.Generator": 1, "torch.randn": 3},  # a small batch on which a user's loss is tried
    "preflight/plugins.py": {"np.random.default_rng": 1},  # the same for a user's weights
    "training/dp_sgd.py": {"NoiseSource": 1},  # a step on public texts, by which a model is tried
    "training/evaluation.py": {"np.random.default_rng": 1},  # resamples of public test texts
    "training/fitting.py": {"np.random.default_rng": 1},
    "models/huggingface/trial.py": {"np.random.default_rng": 1},  # random texts that a model is tried on
    "models/ngram_bag.py": {"nn.init.normal_": 1},
    "transport/solvers/table.py": {"np.random.default_rng": 1},  # points at which a table is checked
    "models/storage.py": {"torch.default_generator.manual_seed": 1, "torch.cuda.manual_seed_all": 1},
}
"""Draws that protect nobody: initial parameters, order, dropout, public data; repeatable with the run's seed."""
SOURCES = (
    "np.random.", "numpy.random.", "random.", "secrets.", "os.urandom", "os.getrandom", "uuid", "torch.Generator",
    "torch.normal", "torch.rand", "torch.bernoulli", "torch.multinomial", "torch.poisson", "manual_seed", "nn.init.",
    "generate_private_key", "random_serial_number", "create_shares", "NoiseSource", "default_rng", "RandomState",
    "token_bytes", "randbelow", "getrandbits", "scipy.stats",
)  # fmt: skip


def calls_of(file):
    """Return the dotted names of all calls in a source file that look like a draw or a generator."""
    found = Counter()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if "(" not in name and any(source in name for source in SOURCES):
                found[name] += 1
    return found


def test_every_place_that_draws_is_listed_with_its_source():
    expected = {}
    for table in (PRIVACY, OTHER):
        for file, calls in table.items():
            expected.setdefault(file, Counter()).update(calls)
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        calls = calls_of(file)
        calls.pop("torch.random.fork_rng", None)
        if calls:
            found[str(file.relative_to(PACKAGE))] = calls
    assert found == expected


def test_nobody_gives_the_source_a_key_and_no_generator_is_left_to_itself():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name.endswith("NoiseSource"):
                    assert not node.args, file
                    assert not node.keywords, file
                if name.endswith("default_rng"):
                    assert node.args, f"{file}: draws a seed that nobody knows; use NoiseSource"


def train(source):
    spec = ModelSpec("ngram-bag", "all", ("bad", "good"), False, 16)
    model = build_classifier(spec, seed=1)
    texts = ["a fine day", "bad, bad food"] * 4
    schedule = PrivateSchedule(3, 0.5, 1.0, 1.0, 0.05)
    fit_privately(model, model.encode(texts), np.array([1, 0] * 4), schedule, source=source)


def mask(_):
    peers = [Peer.fresh(1) for _ in range(3)]
    seal, masks = zip(*(peer.public_keys for peer in peers), strict=True)
    keys = KeyList(1, 3, seal, masks)
    dealt = [deal_shares(peer, keys, place=place, least_clients=3) for place, peer in enumerate(peers)]
    received = receive_shares(dealt[0][0], [b"", dealt[1][1][0], dealt[2][1][0]], least_clients=3)
    mask_values(received, np.zeros((2, 3), dtype=np.uint64))


@pytest.mark.parametrize(
    "draw",
    [
        train,
        lambda source: noisy_soft_labels(np.full((3, 2), 0.5), noise_multiplier=1.0, source=source),
        lambda source: noisy_votes(np.full((3, 2, 2), 0.5), noise_multiplier=1.0, labels_only=True, source=source),
        lambda source: noisy_votes(np.full((3, 2, 2), 0.5), noise_multiplier=1.0, labels_only=False, source=source),
        mask,
    ],
    ids=["dp-sgd", "gaussian", "pate labels", "pate distributions", "secure sum"],
)
def test_what_protects_draws_from_the_source_and_from_no_other_generator(draw, monkeypatch):
    """The generators of torch and NumPy do not advance; the keystream does."""
    drawn, whole = [], NoiseSource.bytes
    monkeypatch.setattr(NoiseSource, "bytes", lambda self, count: drawn.append(count) or whole(self, count))
    monkeypatch.setattr(np.random, "default_rng", forbidden)
    monkeypatch.setattr(np.random, "normal", forbidden)
    monkeypatch.setattr(torch, "normal", forbidden)
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draw(NoiseSource())
    assert torch.equal(torch_before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert sum(drawn) >= 16


def forbidden(*_, **__):
    raise AssertionError("another generator was used for privacy")


def test_two_sources_share_nothing_and_secrets_are_long():
    assert NoiseSource().bytes(32) != NoiseSource().bytes(32)
    assert len(key_agreement.new_seed()) == 32
    assert key_agreement.new_secret() != key_agreement.new_secret()
