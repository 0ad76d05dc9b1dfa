"""A refusal of a real node reveals the kind of problem with its files, but neither names nor content."""

import ast
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

import knot_fed
from knot_fed import client_app, fedavg_app
from knot_fed.errors import DataError, KnotError
from knot_fed.federation.client.guard import refusal_for_peer, without_folders
from knot_fed.federation.wire import envelope
from tests.conftest import small_config
from tests.fakes import InProcessGrid, context, virtual_clients
from tests.federation.client.test_hostile_servers import PUBLIC, handshake, request, student

CANARY = "zugzwang"
ROWS, BAD = 1013, 677
COLUMNS = {"text": f"{CANARY}-text", "label": f"{CANARY}-label", "split": f"{CANARY}-split"}
SOURCE = Path(knot_fed.__file__).parent


def row(number, **changes):
    found = {"text": f"{CANARY} {number}", "label": number % 5, "split": "train", **changes}
    return {COLUMNS.get(key, key): value for key, value in found.items()}


def rows(bad=0, **changes):
    """Return rows, some of them invalid."""
    return [row(number, **(changes if number < bad else {})) for number in range(ROWS)]


def json_lines(*content):
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in content).encode()


def csv_of(*lines):
    return "\n".join([f"{COLUMNS['text']},{COLUMNS['label']}", *lines, ""]).encode()


def parquet(folder):
    pq.write_table(pa.table({COLUMNS["label"]: [1, 2]}), folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


BROKEN = {
    "missing": (None, ".csv", "no such file"),
    "latin-1": ("Zugzwang é".encode("latin-1"), ".csv", "not UTF-8"),
    "cut": (gzip.compress(json_lines(*rows()))[:900], ".jsonl.gz", "cannot be read as a file of its kind"),
    "no parquet": (CANARY.encode(), ".parquet", "cannot be read as a file of its kind"),
    "empty": (b"", ".csv", "no rows"),
    "header only": (f"{COLUMNS['text']},{COLUMNS['label']}\n".encode(), ".csv", "no rows"),
    "unknown kind": (CANARY.encode(), f".{CANARY}", "unknown kind"),
    "no json": (json_lines(*[CANARY] * BAD, *rows()), ".jsonl", "some rows are not JSON objects"),
    "uneven": (f"a,{CANARY}\n{CANARY}\n".encode() * BAD, ".csv", "some rows have other fields than the header"),
    "no label": (json_lines({COLUMNS["text"]: CANARY}), ".jsonl", "no label column"),
    "no text": (json_lines({COLUMNS["label"]: 1}), ".jsonl", "no text column"),
    "no text in parquet": (parquet, ".parquet", "no text column"),
    "empty texts": (json_lines(*rows(BAD, text=" ")), ".jsonl", "some rows have no text"),
    "labels outside": (
        json_lines(*rows(BAD, label=CANARY)), ".jsonl", "the label column has values outside the run's labels",
    ),
    "other splits": (
        json_lines(*rows(BAD, split=CANARY)), ".jsonl", "the split column has values other than train, val and test",
    ),
    "two rows": (json_lines(row(0), row(1)), ".jsonl", "no rows to train on, to validate or to test"),
    "marks": (csv_of(f'"{CANARY}" so,1'), ".csv", "quotation marks of a row do not match"),
    "swallowed": (
        csv_of("a,1", "b,1", f'"{CANARY}', f'{CANARY},1', 'c",1'), ".csv",
        "a quoted field contains what look like rows",
    ),
    "quoted tsv": (b'"a"\t"b"\n', ".tsv", "fields are quoted in a file that is read without quoting"),
    "a column twice": (
        f"{COLUMNS['text']},{COLUMNS['text']}\na,b\n".encode(), ".csv", "a column appears more than once",
    ),
    "sep": (b"sep=;\n" + csv_of("a;1"), ".csv", "the first line is not a header"),
    "half a character": (
        json_lines(*rows(BAD, text=f"{CANARY} \ud83d")), ".jsonl", "some texts contain a lone surrogate or a NUL byte",
    ),
    "names and numbers": (
        json_lines(*rows(BAD, label="neutral")), ".jsonl", "the label column mixes names and numbers",
    ),
}  # fmt: skip


@pytest.fixture
def hospital(tmp_path):
    """A real node whose folder, file, columns and values all contain the canary."""

    def build(content, suffix, *, transfer=None, policy="", **node):
        folder = tmp_path / CANARY / f"my {CANARY}'s folder"
        folder.mkdir(parents=True)
        file, copy = folder / f"{CANARY}{suffix}", folder / f"{CANARY}-copy{suffix}"
        for path, made in ((file, content), (copy, transfer)):
            if made is not None:
                path.write_bytes(made(folder) if callable(made) else made)
        (folder / f"{CANARY}.toml").write_text(policy)
        own = {"name": "hospital", "data": file, "state-dir": folder / "state", "policy": folder / f"{CANARY}.toml"}
        own |= {"transfer": copy} if transfer is not None else {}
        own |= COLUMNS | node
        config = small_config(tmp_path / "server", {"teacher.epochs": 1})
        return context(config, node={key: str(value) for key, value in own.items()}, node_id=100)

    return build


def reasons(node, *kinds, app=client_app.app):
    """Ask a node and return its refusals; no reply contains the canary."""
    contents = {"query": handshake(), "train": request(), "evaluate": student()}
    grid, told = InProcessGrid({100: node}, app=app), []
    for kind in kinds or contents:
        (reply,) = grid.send_and_receive([Message(contents[kind], dst_node_id=100, message_type=kind)])
        assert CANARY.encode() not in grid.wire[-1].lower()
        told.append(envelope.refusal_of(reply.content))
    return told


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_private_file_is_told_by_its_kind_of_problem_only(hospital, name, caplog):
    content, suffix, kind = BROKEN[name]
    expected = f"the private file: {kind}; its owner finds the details in the client's own log"
    assert reasons(hospital(content, suffix)) == [expected] * 3
    own_log = [record.getMessage() for record in caplog.records if "was refused: " in record.getMessage()]
    assert len(own_log) == 3
    assert CANARY in own_log[0]


def test_an_owner_of_one_label_takes_part(hospital):
    """Such an owner was once refused after the time of a training."""
    node = hospital(json_lines(*[row(5 * number) for number in range(40)]), ".jsonl")
    assert reasons(node, "query", "train") == [None, None]


@pytest.mark.parametrize(
    "name", [name for name in BROKEN if BROKEN[name][2] in ("not UTF-8", "no rows", "no text column")]
)
def test_a_broken_copy_of_the_transfer_set_is_told_by_its_kind_of_problem_only(hospital, name):
    content, suffix, kind = BROKEN[name]
    node = hospital(json_lines(*rows()), suffix, transfer=content)
    (said,) = reasons(node, "query")
    assert said == (
        f"the client's copy of the transfer set: {kind}; its owner finds the details in the client's own log"
    )


def refusals_in(folder):
    """Return the source text of every `refusal=` passed to an error."""
    calls = [node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    return [
        word.value for call in calls if isinstance(call, ast.Call) for word in call.keywords if word.arg == "refusal"
    ]


def test_no_refusal_is_made_of_anything_that_a_file_holds():
    """A refusal contains a limit of the owner's policy, or the name of a model, and no other value."""
    found = refusals_in(SOURCE)
    told = {ast.unparse(part.value) for value in found if isinstance(value, ast.JoinedStr) for part in value.values
            if isinstance(part, ast.FormattedValue)}  # fmt: skip
    assert told == {"name", "limit"}
    assert "f'the request would take more than {name} = {limit}; ask for less'" in map(ast.unparse, found)
    found = [value for value in found if not isinstance(value, ast.JoinedStr)]
    assert len(found) > len({kind for _, _, kind in BROKEN.values()})
    assert all(isinstance(value, ast.Constant) and isinstance(value.value, str) for value in found)
    digits = {number for value in found for number in re.findall(r"\d+", value.value)}
    assert digits <= {"2", "8"}


def test_every_problem_that_a_file_can_have_is_among_the_broken_ones():
    unreadable = {"cannot be opened"}  # every file can be opened by root, whom the tests may run as
    of_shares = {  # virtual clients that share a file
        "too few rows for so many shares",
        "fewer ids than shares",
        "other labels than data.labels-per-client can share out",
    }
    of_server = {"fewer classes to train on than are needed"}  # of the public file
    kinds = {kind for _, _, kind in BROKEN.values()}
    assert {value.value for value in refusals_in(SOURCE / "data")} == kinds | of_shares | of_server | unreadable


def test_an_error_about_a_file_without_a_sentence_for_peers_tells_nothing():
    said = DataError(f"{CANARY}: 3 of 4 rows").refusal
    assert said == "a file of this client: cannot be used; its owner finds the details in the client's own log"


def test_a_broken_policy_is_told_without_its_name(hospital):
    assert reasons(hospital(b"", ".csv", policy=f"{CANARY} = ["), "query") == [
        "the policy's file cannot be read as TOML; its owner finds why in the client's own log"
    ]


@pytest.mark.parametrize("changed", [{"trainable": CANARY}, {CANARY: "1"}, {"state-dir": f"{CANARY}/state"}])
def test_a_wrong_node_configuration_is_told_without_its_values(hospital, changed):
    assert set(reasons(hospital(b"", ".csv", **changed))) == {
        "the node configuration is wrong; its owner finds why in the client's own log"
    }


def test_a_model_in_the_owners_folder_is_told_by_its_last_name(hospital, tmp_path):
    model = f"hf:{tmp_path}/{CANARY}'s models; {CANARY}/bert"
    (said,) = reasons(hospital(json_lines(*rows()), ".jsonl", model=model), "train")
    assert said.startswith("model ")
    assert "hf:bert" in said


def test_a_state_folder_that_cannot_be_used_is_told_by_the_kind_of_error(hospital, tmp_path):
    (tmp_path / f"{CANARY}-file").write_text(CANARY)
    node = hospital(json_lines(*rows()), ".jsonl", **{"state-dir": tmp_path / f"{CANARY}-file" / "state"})
    for said in reasons(node):
        assert said == "this client's ledger cannot be written, so nothing leaves; its owner makes room on its disk"


def test_federated_averaging_tells_no_more(hospital):
    node = hospital(json_lines(*rows(BAD, label=CANARY)), ".jsonl", policy="share-parameters = true")
    said = reasons(node, "query", app=fedavg_app.client_app)
    assert said[0].startswith("the private file: the label column has values outside")


def test_virtual_clients_have_no_owner_and_tell_all(run_config, tmp_path):
    (tmp_path / "phones.jsonl").write_bytes(json_lines({"text": "a", "label": CANARY}, {"text": "b", "label": 1}))
    config = run_config(keys={"data.root": str(tmp_path), "data.clients": "phones"})
    grid = InProcessGrid(virtual_clients(config, 1))
    (reply,) = grid.send_and_receive([Message(handshake(PUBLIC), dst_node_id=100, message_type="query")])
    said = envelope.refusal_of(reply.content)
    assert "phones.jsonl: column 'label': 1 of 2 rows are neither a label name nor 0..4" in said


PLAIN = st.text("abcXYZ09._-#%+=@ ", min_size=1, max_size=12).map(lambda text: f"{CANARY}{text.strip()}x")
ANY = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=12).map(
    lambda text: f"{CANARY}{text}"
)
SENTENCES = (
    "{path}: cannot be read", "model '{path}' cannot be loaded (OSError); give another", '"{path}"', "no file ({path})",
    "it failed ([Errno 28] No space left: '{path}'); make room", "key={path}", "{path}", "hf:{path}: not a model",
    "at file://{path}", "{path} and {path}",
)  # fmt: skip


@given(st.lists(PLAIN, min_size=1, max_size=5), st.sampled_from(SENTENCES), st.sampled_from("/\\"), st.booleans())
def test_no_folder_of_any_path_is_left_in_a_sentence(folders, sentence, separator, drive):
    path = ("C:" if drive else "") + separator + separator.join([*folders, "last.csv"])
    said = without_folders(sentence.replace("{path}", path))
    assert CANARY not in said
    assert "last.csv" in said


@given(st.lists(ANY, min_size=1, max_size=5), st.sampled_from(SENTENCES), st.booleans())
def test_no_folder_of_a_path_in_the_node_configuration_is_left_whatever_letters_it_holds(folders, sentence, quoted):
    path = "/" + "/".join([*folders, "last.csv"])
    spelt = repr(path)[1:-1] if quoted else path
    said = refusal_for_peer(KnotError(sentence.replace("{path}", spelt)), {"data": path})
    assert CANARY not in said
    assert "last.csv" in said


@pytest.mark.parametrize(
    "sentence",
    [
        "the model 'hf:evil/model' is named by the server only; add it to models in the policy",
        "3 texts asked with 3 of max-texts-per-run = 5 used; ask for fewer texts",
        "run configuration: teacher.temperature = 0.01: input should be greater than or equal to 0.1",
        "speaks protocol 1, expected 2; install the same knot_fed release",
    ],
)
def test_a_sentence_without_a_path_stays_as_it_is(sentence):
    assert without_folders(sentence) == sentence
