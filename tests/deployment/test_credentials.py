import asyncio
import hashlib
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.deployment import certificates, credentials
from knot_fed.deployment.credentials import add_node, create_credentials, list_credentials, renew_server_certificate
from knot_fed.deployment.environment import add_settings
from knot_fed.errors import CredentialsError
from knot_fed.federation.flower.gate import OperatorOnly
from knot_fed.federation.flower.registration import register_nodes
from tests.deployment.certificates import Certificates
from tests.deployment.members import free_port
from tests.deployment.real_federation import Federation

NAMES = ["hospital-a", "hospital-b"]


def call(*arguments):
    return CliRunner().invoke(app, ["credentials", *map(str, arguments)])


def fingerprints(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path):
    create_credentials(tmp_path / "credentials", NAMES, hosts=["10.0.0.7", "knot.example"])
    return tmp_path / "credentials"


def test_the_server_certificate_is_the_authoritys_and_names_every_host(made):
    authority = x509.load_pem_x509_certificate((made / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((made / "superlink" / "server.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {*credentials.HOSTS, "10.0.0.7", "knot.example"}
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "superlink" / "server.crt", made / "superlink" / "server.key")


def test_keys_are_readable_by_their_owner_only(made):
    keys = list(made.rglob("*.key"))
    assert len(keys) == 2 + len(NAMES)
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert {stat.S_IMODE((made / "clients" / name).stat().st_mode) for name in NAMES} == {0o700}


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    return {
        str(path.relative_to(folder)): f"{stat.S_IMODE(path.stat().st_mode):o}" for path in [folder, *folder.rglob("*")]
    }


def test_modes_do_not_depend_on_the_umask(umask, tmp_path):
    folder = tmp_path / "new" / "credentials"
    assert call("init", "--clients", "a", "--out", folder, "--env-file", tmp_path / ".env").exit_code == 0
    add_node(folder, "b")
    add_node(folder, "c", public_key=folder / "clients" / "b" / "node.pub")
    renew_server_certificate(folder)
    found = modes(folder)
    private = {"clients/a", "clients/b"}
    folders = {name for name in found if (folder / name).is_dir()}
    assert folders == {".", "superlink", "superlink/nodes", "clients", *private}
    assert {name: found[name] for name in folders} == {name: "700" if name in private else "755" for name in folders}
    files = found.keys() - folders
    assert len(files) == 2 + 3 + 2 * 3 + 3
    assert {name: found[name] for name in files} == {name: "600" if name.endswith(".key") else "644" for name in files}
    assert modes(tmp_path / "new")["."] in ("755", "700")
    assert not stat.S_IMODE((tmp_path / ".env").stat().st_mode) & 0o022


def test_adding_a_node_closes_folders_that_were_left_open(made):
    for path in (made, made / "clients", made / "superlink" / "nodes"):
        path.chmod(0o777)
    add_node(made, "hospital-c")
    assert {path for path, mode in modes(made).items() if int(mode, 8) & 0o022} == set()


def test_a_nodes_key_has_the_form_that_flower_reads_and_fits_the_public_one(made):
    for name in NAMES:
        own = made / "clients" / name
        key = load_ssh_private_key((own / "node.key").read_bytes(), None)
        assert isinstance(key.curve, ec.SECP384R1)
        for public in (own / "node.pub", made / "superlink" / "nodes" / f"{name}.pub"):
            assert load_ssh_public_key(public.read_bytes()) == key.public_key()


def test_init_overwrites_nothing_and_says_so(made, tmp_path):
    before = fingerprints(tmp_path)
    refused = call("init", "--clients", "x", "--out", made, "--env-file", tmp_path / ".env")
    assert refused.exit_code == 1
    assert "already exists" in refused.output
    assert fingerprints(tmp_path) == before


def test_a_refused_init_leaves_nothing_behind(tmp_path):
    with pytest.raises(CredentialsError, match="the authority expires before that"):
        create_credentials(tmp_path / "credentials", NAMES, days=5000)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=70).filter(lambda name: not credentials.NAME.fullmatch(name)))
def test_no_odd_name_becomes_a_path(name):
    with pytest.raises(CredentialsError, match="client"):
        create_credentials(Path("/nonexistent/credentials"), [name])


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_clients_are_named_once_each(tmp_path, names):
    with pytest.raises(CredentialsError, match="--clients"):
        create_credentials(tmp_path / "credentials", names)


def test_add_makes_one_node_and_touches_nothing_else(made):
    before = fingerprints(made)
    add_node(made, "hospital-c")
    after = fingerprints(made)
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} == {"node.key", "node.pub", "ca.crt", "hospital-c.pub"}
    with pytest.raises(CredentialsError, match="has credentials"):
        add_node(made, "hospital-c")


def test_add_takes_a_public_key_whose_private_half_stays_with_its_owner(made, tmp_path):
    (made / "clients" / NAMES[0] / "node.pub").rename(tmp_path / "theirs.pub")
    add_node(made, "hospital-d", public_key=tmp_path / "theirs.pub")
    assert not (made / "clients" / "hospital-d").exists()
    with pytest.raises(CredentialsError, match="not an EC public key"):
        add_node(made, "hospital-e", public_key=made / "ca.crt")


def test_renew_gives_the_server_a_new_key_for_the_same_names_and_keeps_the_authority(made):
    before = fingerprints(made)
    renew_server_certificate(made, days=10)
    changed = {path.name for path, digest in fingerprints(made).items() if before[path] != digest}
    assert changed == {"server.crt", "server.key"}
    test_the_server_certificate_is_the_authoritys_and_names_every_host(made)


@pytest.mark.parametrize(("days", "said"), [(365, "ok"), (29, "expires in 29 days"), (-1, "EXPIRED")])
def test_show_tells_of_the_end_thirty_days_before(tmp_path, monkeypatch, days, said):
    monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=3))
    create_credentials(tmp_path / "credentials", NAMES, days=days)
    assert said in call("show", "--out", tmp_path / "credentials").output
    server = list_credentials(tmp_path / "credentials")[1]
    assert abs(server.until - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=5)


def test_show_of_nothing_is_one_sentence(tmp_path):
    refused = call("show", "--out", tmp_path)
    assert refused.exit_code == 1
    assert "missing or not a certificate" in refused.output


def test_settings_that_are_there_stay(tmp_path):
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=gpu")
    add_settings(tmp_path / ".env", {"COMPOSE_PROFILES": "cpu", "KNOT_FED_USER": "1:1"})
    assert (tmp_path / ".env").read_text() == "COMPOSE_PROFILES=gpu\nKNOT_FED_USER=1:1\n"


def test_registering_where_no_superlink_answers_is_one_sentence(made):
    refused = call("register", "--out", made, "--superlink", f"127.0.0.1:{free_port()}")
    assert refused.exit_code == 1
    assert "registration failed" in refused.output


async def superlink(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


async def ask(gate, address, path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate)) as client:
        return (await client.post(f"http://{address}{path}")).status_code


@pytest.mark.parametrize(
    ("arrived_at", "path", "status"),
    [
        ("172.18.0.2", "/v1/fleet/pull-messages", 200),
        ("172.18.0.2", "/health", 200),
        ("172.18.0.2", "/v1/control/start-run", 403),
        ("172.18.0.2", "/v1/runtime/acquire-task", 403),
        ("172.18.0.2", "/docs", 403),
        ("172.19.0.2", "/v1/control/start-run", 200),
        ("127.0.0.1", "/v1/runtime/acquire-task", 200),
    ],
)
def test_only_the_operators_network_reaches_more_than_the_fleet_api(arrived_at, path, status):
    gate = OperatorOnly(superlink, operator_addresses=frozenset({"172.19.0.2"}))
    assert asyncio.run(ask(gate, arrived_at, path)) == status


def test_registering_twice_registers_once_and_no_key_is_known_by_two_names(made, tmp_path):
    certificates = Certificates(made / "ca.crt", *(made / "superlink" / f"server.{kind}" for kind in ("crt", "key")))
    real = Federation(tmp_path / "federation", certificates=certificates, authenticate=True)
    keys = {name: credentials.read_public_key(path) for name, path in credentials.public_keys(made).items()}
    renamed = {"hospital-c": keys["hospital-a"], "hospital-a": ec.generate_private_key(ec.SECP384R1()).public_key()}
    try:
        real.start_superlink()
        first, second, third = (
            register_nodes(asked, superlink=real.address, authority=certificates.authority)
            for asked in (keys, keys, renamed)
        )
    finally:
        real.close()
    assert all(outcome.startswith("registered as node ") for outcome in first.values())
    assert second == dict.fromkeys(NAMES, "known already")
    assert third["hospital-c"].startswith("known already as hospital-a, and Flower renames no node")
    node = first["hospital-a"].removeprefix("registered as node ")
    assert third["hospital-a"].endswith(f"; unregister node {node} of this name")
