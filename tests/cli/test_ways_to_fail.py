"""Ways to fail that cost no run: each gives one sentence, exits non-zero, and leaves files as they were.

`docs/reference/failures.md` has these and those that need a run.
"""

import json
import re
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from knot_fed.cli.boundary import without_traceback
from knot_fed.cli.main import app
from knot_fed.cli.simulate import simulate
from knot_fed.launch.project import write_project
from tests.models.tiny_models import tokenizer_of, tokenizer_of_words, write_bert, write_config

simulation = typer.Typer(pretty_exceptions_enable=False)
simulation.command()(without_traceback("flower-simulation", simulate))
RUN = {
    "error": None, "task": "sentiment", "seed": 1, "labels": [], "clients": [], "student": {}, "domains": {},
    "privacy": {}, "versions": {}, "wall_seconds": 1.0, "distillation": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project") / "mine"
    write_project(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, project):
    """An empty folder of the call, with the project's files."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KNOT_FED_OWN_CODE", str(tmp_path))
    monkeypatch.setattr("knot_fed.launch.simulation.simulator", _started)
    monkeypatch.setattr("knot_fed.sweep.run.simulator", _started)
    return tmp_path


def _started(*_, **__):
    pytest.fail("the run was started")


def files_below(folder):
    """Return what every file holds, links by where they lead."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in found}


def refusal(command):
    """Call a command that has to fail in one sentence and change nothing; returns the sentence."""
    program, arguments = (simulation, command[1:]) if command[0] == "sim" else (app, command)
    before = files_below(Path())
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "a bug in knot_fed" not in result.stderr
    assert "finished:" not in result.stderr
    assert files_below(Path()) == before
    return result.stderr


def text(name, content=""):
    """Return a step that writes a file."""

    def write():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)

    return write


def raw(name, content):
    return lambda: Path(name).write_bytes(content)


def link(name, target):
    def make():
        Path(name).unlink(missing_ok=True)
        Path(name).symlink_to(target)

    return make


def folder(name):
    def make():
        Path(name).unlink(missing_ok=True)
        Path(name).mkdir(parents=True)

    return make


def matrix(array):
    return lambda: np.save("m.npy", array)


def run_folder(**changed):
    def write():
        text("r/config.toml")()
        text("r/summary.json", json.dumps(RUN | changed))()

    return write


def edited(name, old, new):
    return lambda: Path(name).write_text(Path(name).read_text().replace(old, new))


def model(step=None, *, without="", kind="BertModel", **changed):
    """Return a step that writes a tiny BERT into the folder m, and then spoils it."""

    def write():
        write_bert(Path("m"), kind, **{key: changed.pop(key) for key in ("num_labels",) if key in changed})
        write_config(Path("m"), **changed)
        for file in Path("m").glob(without or "-"):
            file.unlink()
        if step is not None:
            step()

    return write


def owned(content):
    return text(OWNED, content)


OWNED = "data/product.csv"
APART = np.ones((5, 5)) - np.eye(5)
SIM = ("sim", "run.toml")
HF = (*SIM, "model=hf:m")
CASES = {
    "runs-dir is a file": (text("runs"), SIM, "runs-dir: .*runs cannot be written: not a directory; a file stands"),
    "runs-dir below a file": (text("f"), (*SIM, "runs-dir=f/runs"), "runs-dir: .*/f cannot be written: not a dir"),
    "runs-dir in /proc": (None, (*SIM, "runs-dir=/proc/knot"), "runs-dir: /proc cannot be written"),
    "runs-dir is a circle of links": (link("runs", "runs"), SIM, "runs-dir: .*runs cannot be written"),
    "state-dir is a file": (text("st"), (*SIM, "state-dir=st"), "state-dir: .*/st cannot be written: not a directory"),
    "name without a form": (None, (*SIM, "name=montag-ä"), "name = 'montag-ä': use letters, digits"),
    "name that leads out": (None, (*SIM, "name=.."), "name = '..': use letters, digits"),
    "NUL in a path": (None, (*SIM, 'data.root="a\\u0000b"'), "use text without zero bytes"),
    "rate that is no number": (None, (*SIM, "teacher.learning-rate=nan"), "should be a finite number"),
    "list for a string": (None, (*SIM, 'data.clients=["a","b"]'), "is a list; use a string or a number"),
    "open quote": (None, ("sim", "name='a"), "neither a TOML file nor pairs; .* quotes around a value with spaces"),
    "spaces without quotes": (None, ("sim", "task=my task"), "quotes around a value with spaces"),
    "configuration is a folder": (folder("a.toml"), ("sim", "a.toml"), "a.toml: cannot be read .is a directory"),
    "configuration in UTF-16": (raw("a.toml", "seed = 1".encode("utf-16")), ("sim", "a.toml"), "not UTF-8 at byte 0"),
    "app is not there": (None, ("sim", "--app", "nowhere"), "no .tool.flwr.app.config.; omit --app"),
    "resume from here": (None, (*SIM, "--resume", "."), "nothing to resume"),
    "resume from nowhere": (None, (*SIM, "--resume", "runs/absent/"), "absent: nothing to resume"),
    "file in UTF-16": (raw("data/product.csv", "text,label\na,0\n".encode("utf-16")), SIM, "product.csv: not UTF-8"),
    "file with semicolons": (text("data/product.csv", "text;label\na;0\n"), SIM, "product.csv: no column"),
    "file with another column": (owned("text,grade\na,0\n"), SIM, "has 'text', 'grade'; check"),
    "UTF-16 without a mark": (raw(OWNED, "text,label\na,0\n".encode("utf-16-le")), SIM, "not UTF-8 but UTF-16"),
    "file in latin-1": (raw(OWNED, "text,label\né,0\n".encode("latin-1")), SIM, "not UTF-8 at byte 11 .line 2.; save"),
    "workbook": (raw(OWNED, b"PK\x03\x04\xff"), SIM, "or a workbook such as .xlsx.; save it as CSV UTF-8"),
    "mark that is never closed": (
        owned('text,label\na,positive\n"b,neutral\nc,neutral\n'),
        SIM,
        "product.csv: line 3: a quotation mark opens a field that is never closed; close it",
    ),
    "mark within a text in marks": (owned('text,label\n"a" b,0\n'), SIM, "line 2: a quoted field continues"),
    "mark that another one closes": (
        owned('text,label\na,neutral\nb,neutral\n"c,neutral\nd,neutral\n5",neutral\n'),
        SIM,
        "line 4: a quoted field extends to line 6 and contains what look like rows",
    ),
    "quoted tsv": (
        lambda: (Path(OWNED).unlink(), text("data/product.tsv", '"text"\t"label"\n"a"\t"neutral"\n')()),
        SIM,
        "product.tsv: line 1: a field is quoted as in csv",
    ),
    "uneven rows": (owned("text,label\na,b,neutral\n"), SIM, "line 2: 1 of 1 rows do not have the header's 2 fields"),
    "first line for Excel": (owned("sep=;\ntext;label\na;0\n"), SIM, "line 1 is Excel's sep= line"),
    "column twice": (owned("text,text,label\na,b,0\n"), SIM, "column 'text' appears more than once in the header"),
    "half a character": (
        lambda: (Path(OWNED).unlink(), text("data/product.jsonl", '{"text": "a \\ud83d", "label": "neutral"}\n')()),
        SIM,
        "product.jsonl: line 1: 1 of 1 texts contain a lone surrogate",
    ),
    "half a character in transfer texts": (
        lambda: (
            Path("data/movie-texts.csv").unlink(),
            text("data/movie-texts.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n')(),
        ),
        SIM,
        "movie-texts.jsonl: line 2: 1 of 2 texts contain a lone surrogate",
    ),
    "names and numbers": (owned("text,label\na,neutral\nb,1\n"), SIM, "1 of 2 rows are numbers from 0 to 4"),
    "stars that no name is": (owned("text,label\na,1\nb,7\n"), SIM, "1 of 2 rows are neither a label name nor"),
    "booleans": (
        lambda: (Path(OWNED).unlink(), text("data/product.jsonl", '{"text": "a", "label": true}\n')()),
        SIM,
        "for true and false set labels.names = 'false, true'",
    ),
    "delimiter of two signs": (None, (*SIM, "data.delimiter=ab"), "data.delimiter = 'ab': use one character"),
    "check of one class": (owned("text,label\na,good\n"), ("check-data", OWNED), "1 distinct label; give the"),
    "check of no classes": (
        owned("text,label\na,1\nb,2\nc,3\n"),
        ("check-data", OWNED),
        "3 distinct labels in 3 rows are not classes",
    ),
    "check of labels with commas": (
        owned('text,label\na,"b, c"\nb,d\nb,d\nb,d\n'),
        ("check-data", OWNED),
        "labels with a comma, which no label name can have; write them",
    ),
    "two files of one name": (text("data/product.tsv"), SIM, "product.csv and product.tsv are all in data.root"),
    "file with one column": (text("data/product.csv", "text\na\n"), SIM, "product.csv: no column 'label'"),
    "folder in a file's place": (folder("data/product.csv"), SIM, "product: no file product"),
    "file that links to itself": (link("data/product.csv", "product.csv"), SIM, "product: no file product"),
    "empty texts": (text("data/product.csv", "text,label\n,0\nb,1\n"), SIM, "1 of 2 rows have no text"),
    "labels of another task": (None, (*SIM, "task=nli"), "rows are neither a label name nor 0..2"),
    "client that no server takes": (
        lambda: Path("data/product.csv").rename("data/pho nes é.csv"),
        (*SIM, 'data.clients="pho nes é,tweets,nyt"'),
        "data.clients gives a client the name 'pho nes é', which is not 1 to 64 letters, digits",
    ),
    "two rows": (text("data/product.csv", "text,label\na,0\nb,1\n"), SIM, "product.csv: 1 rows to train on, 0 to"),
    "public file of one label": (
        text("data/movies.csv", "text,label\n" + "".join(f"a{row},0\n" for row in range(40))),
        SIM,
        "movies.csv: .* training rows with fewer than 2 classes; add rows of another",
    ),
    "shares that are too small": (None, (*SIM, "--num-supernodes", "300"), "100 clients share product, .* enough for"),
    "shares that are too uneven": (
        None,
        (*SIM, "data.partition=dirichlet data.alpha=0.001", "--num-supernodes", "18"),
        "product: data.partition = 'dirichlet' for 6 clients: in each of 300 draws one has fewer than",
    ),
    "shares of more labels than there are": (
        None,
        (*SIM, "data.partition=pathological data.labels-per-client=9", "--num-supernodes", "6"),
        "cannot hold 5 labels, each once or more; set data.labels-per-client to 3 to 5",
    ),
    "shares by no column": (
        None,
        (*SIM, "data.partition=natural-id", "--num-supernodes", "6"),
        "for 2 clients, and data.id names no column of the file",
    ),
    "dealing a missing file": (None, ("sim", "--data", "r.csv"), "r.csv: no such file; give a csv, tsv"),
    "dealing a folder": (folder("r.csv"), ("sim", "--data", "r.csv"), "r.csv: no such file; give a csv, tsv"),
    "dealing a file without labels": (
        text("r.csv", "text\n" + "".join(f"a {row}\n" for row in range(40))),
        ("sim", "--data", "r.csv"),
        "r.csv: no column looks like labels .text.; name it by data.label=NAME",
    ),
    "dealing few rows": (
        text("r.csv", "text,label\n" + "".join(f"a {row},{row % 2}\n" for row in range(9))),
        ("sim", "--data", "r.csv"),
        "r.csv: 9 rows are too few to deal; give 100 rows or more",
    ),
    "dealing with an unknown key": (
        text("r.csv", "text,label\n" + "".join(f"a {row},{row % 2}\n" for row in range(120))),
        ("sim", "--data", "r.csv", "distil.loss=ot"),
        "distil.loss",
    ),
    "dealing beside named files": (
        text("r.csv", "text,label\n" + "".join(f"a {row},{row % 2}\n" for row in range(120))),
        (*SIM, "--data", "r.csv"),
        "--data deals r.csv into all roles, but data.root is set; give one of the two",
    ),
    "dealing where a folder is in the way": (
        lambda: (
            text("r-dealt/other.txt", "mine")(),
            text("r.csv", "text,label\n" + "".join(f"a {row},{row % 2}\n" for row in range(120)))(),
        ),
        ("sim", "--data", "r.csv"),
        "r-dealt: holds other files than dealt ones; move it away",
    ),
    "delta of half": (None, (*SIM, "privacy.delta=0.5"), "privacy.delta = 0.5: input should be less than"),
    "a transfer text that no message carries": (
        text("data/movie-texts.csv", "text\na\n" + "x" * 100_001), SIM, "longer than 100000 characters, which no",
    ),
    "transfer texts all the same": (text("data/movie-texts.csv", "text\na\na\na\n"), SIM, "1 distinct transfer text"),
    "matrix too small": (matrix(np.zeros((2, 2))), (*SIM, "transport.cost=m.npy"), "shape .2, 2. for 5 labels"),
    "matrix of three dimensions": (matrix(np.zeros((5, 5, 5))), (*SIM, "transport.cost=m.npy"), "shape .5, 5, 5."),
    "matrix of words": (text("m.csv", "a,b\n"), (*SIM, "transport.cost=m.csv"), "m.csv: cannot be read as a matrix"),
    "matrix that is a folder": (folder("m.csv"), (*SIM, "transport.cost=m.csv"), "m.csv: cannot be read as a matrix"),
    "matrix of noise": (raw("m.npy", b"\x93NUMPY\x01"), (*SIM, "transport.cost=m.npy"), "m.npy: cannot be read"),
    "matrix with NaN": (matrix(APART * np.nan), (*SIM, "transport.cost=m.npy"), "is not finite"),
    "matrix of complex numbers": (matrix(APART * 1j), (*SIM, "transport.cost=m.npy"), "numbers are complex"),
    "matrix beyond float32": (matrix(APART * 1e300), (*SIM, "transport.cost=m.npy"), "leave the range of float32"),
    "matrix below float32": (matrix(APART * 1e-300), (*SIM, "transport.cost=m.npy"), "leave the range of float32"),
    "model in no folder": (None, (*SIM, "model=hf:./absent"), "no such folder; give hf:"),
    "model without weights": (model(without="*.safetensors"), HF, "no weights in that folder .*; copy them there"),
    "model with weights cut": (model(raw("m/model.safetensors", b"cut")), HF, "weights cannot be loaded .*; copy the"),
    "model that was not fetched": (
        model(raw("m/model.safetensors", b"version https://git-lfs.github.com/spec/v1")),
        HF,
        "model.safetensors is only a git-lfs pointer; run git lfs pull",
    ),
    "model of fewer layers": (model(num_hidden_layers=2), HF, "are not in its files or have another shape.*; give the"),
    "model without tokenizer": (model(without="tokenizer*"), HF, "its tokenizer .*; add the files that tokenizer.save"),
    "model of another language": (
        model(lambda: tokenizer_of_words("дом").save_pretrained("m")),
        HF,
        "its tokenizer knows no part of the first 20 transfer texts; use a model of their language",
    ),
    "model of fewer words": (
        model(lambda: tokenizer_of("gpt").save_pretrained("m"), vocab_size=300),
        HF,
        "tokens up to 399, and the model embeddings for 300; use the model's own tokenizer",
    ),
    "model that is an adapter": (model(text("m/adapter_config.json")), HF, "adapter, which cannot be read; merge it"),
    "model with code of its own": (model(model_type="own", auto_map={"AutoModel": "own.M"}), HF, "never run; use a"),
    "model of images": (model(model_type="vit"), HF, "it reads pixel_values, not text; use a model of text"),
    "model without a classifier": (model(model_type="mamba"), HF, "no classifier of type 'mamba'; use trainable = 'he"),
    "model without a mask": (model(model_type="fnet"), HF, "it has no attention mask, .* of a batch; use another"),
    "model of a newer transformers": (model(model_type="bert9000"), HF, "no type 'bert9000'; use another model, or up"),
    "model that is quantised": (model(quantization_config={"bits": 4}), HF, "are quantised, .*; use the model before"),
    "model of other labels": (
        model(kind="BertForSequenceClassification", num_labels=5),
        HF,
        "no label names .*, where the run has very negative, .*; write the run's names into id2label of",
    ),
    "student of other labels": (
        model(kind="BertForSequenceClassification", num_labels=5),
        (*SIM, "student.model=hf:m"),
        "its trained head has no label names",
    ),
    "resources that are no JSON": (None, (*SIM, "--backend-config", "{client_resources}"), "is not JSON"),
    "sweep in a foreign folder": (text("sweeps/run/notes.txt"), ("sweep", "run.toml"), "not empty and no sweep"),
    "grid without values": (None, ("sweep", "--grid", "distill.loss"), "is not pairs; write 'key=value,value"),
    "grid over a name": (None, ("sweep", "--grid", "name=a,b"), "--grid name: is the same for all runs of a sweep"),
    "grid over folders": (None, ("sweep", "--grid", "runs-dir=a,b"), "is the same for all runs"),
    "grid over seeds": (None, ("sweep", "--grid", "seed=1,2"), "seeds are given by --seeds"),
    "a thousand million seeds": (None, ("sweep", "--seeds", "1000000000"), "too many; use 1000 seeds at most"),
    "seeds of other digits": (None, ("sweep", "--seeds", "²"), "expected a number of seeds"),
    "audit of nobody": (None, ("audit", "run.toml", "--client", "nobody"), "no such client; use one of product"),
    "audit by an unknown attack": (None, ("audit", "--attacks", "guess"), "no attack guess; use membership"),
    "audit in a foreign folder": (text("audits/run/x"), ("audit", "run.toml"), "not empty and no audit"),
    "audit at delta nan": (None, ("audit", "run.toml", "--delta", "nan"), "--delta = nan; use a number"),
    "student cut": (
        lambda: (run_folder()(), text("r/student/knot_fed.json", '{"name": "ngram-bag"}')()),
        ("predict", "r", "--text", "x"),
        "the model specification is not what",
    ),
    "run without a student": (run_folder(), ("predict", "r", "--text", "x"), "r/student: no knot_fed.json"),
    "summary without its run": (text("r/summary.json", "3"), ("show", "r"), "not a run folder"),
    "summary of other kinds": (run_folder(student=3, clients="x"), ("show", "r"), "clients and student of the"),
    "summary of odd clients": (run_folder(clients=[1]), ("show", "r"), "holds clients of the wrong type"),
    "rounds of lists": (
        lambda: (run_folder()(), text("r/rounds.jsonl", "[]\n")()),
        ("report", "r"),
        "rounds.jsonl: a line is not a round",
    ),
    "report over a foreign file": (
        lambda: (run_folder()(), text("mine.html", "mine")()),
        ("report", "r", "r", "--out", "mine.html"),
        "mine.html: already exists and is not a knot_fed report",
    ),
    "status of no run": (folder("d"), ("status", "d"), "d: not a run folder"),
    "status at no address": (None, ("status", "--insecure", "--superlink", "here"), "is not host:port"),
    "submit to a closed port": (None, ("submit", "--insecure", "--superlink", "127.0.0.1:1"), "no SuperLink answers"),
    "submit without certificates": (None, ("submit",), "credentials/ca.crt: no such file or directory; give --root"),
    "certificates are a folder": (folder("ca"), ("submit", "--root-certificates", "ca"), "ca: is a directory; give"),
    "unknown recipe": (None, ("prepare", "imdb", "out"), "no recipe 'imdb'; use one of amazon"),
    "policy that is no TOML": (
        lambda: (text("s/ledger.jsonl")(), text("p.toml", "x = [")()),
        ("privacy", "show", "s", "--policy", "p.toml"),
        "p.toml: cannot be read as TOML",
    ),
    "ledger cut": (text("s/ledger.jsonl", '{"cut'), ("privacy", "show", "s"), "the ledger is damaged"),
    "no ledger": (None, ("privacy", "show", "."), "no ledger; give the state folder"),
    "node settings in JSON": (None, ("client", "check", "--node-config", '{"name": 1}'), "write 'name=mine data="),
    "project on a link to itself": (link("l", "l"), ("new", "l"), "l: already exists"),
    "project below a file": (text("f"), ("new", "f/x"), "f/x: not a directory"),
    "credentials for a path": (None, ("credentials", "init", "--clients", "../x"), "use letters, digits"),
    "frontier of nothing": (folder("d"), ("frontier", "d"), "no folder of a sweep"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_way_to_fail_is_told_in_one_sentence_before_anything_starts(name):
    prepare, command, sentence = CASES[name]
    if prepare is not None:
        prepare()
    assert re.search(sentence, refusal(command))


def test_a_summary_that_is_no_object_is_told():
    run_folder()()
    Path("r/summary.json").write_text("3")
    assert "summary.json is not a JSON object" in refusal(("show", "r"))


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n"])
def test_a_port_of_another_service_is_told(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for _ in range(1):
                connection, _ = server.accept()
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        said = refusal(("submit", "--insecure", "--superlink", f"127.0.0.1:{server.getsockname()[1]}"))
        thread.join()
    assert "SuperLink" in said


def test_a_marked_configuration_is_read_like_any_other(here):
    """Windows editors write a byte order mark."""
    (here / "a.toml").write_bytes(b"\xef\xbb\xbfname = '..'\n")
    assert "name = '..'" in refusal(("sim", "a.toml"))
