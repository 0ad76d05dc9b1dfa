"""Uploads, up to the requests that a hub on the loopback interface receives."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app


class Hub(BaseHTTPRequestHandler):
    """Accepts a repository and a commit, and records what it is sent; or refuses all with `status`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.requests.append((self.path, body, self.headers.get("Authorization")))
        if self.server.status != 200:
            return self._answer({"error": "no"}, self.server.status)
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        if self.path.endswith("/commit/main"):
            return self._answer({"commitUrl": f"{self.server.url}/me/mine/commit/1", "commitOid": "1", "success": True})
        return self._answer({"url": f"{self.server.url}/me/mine", "name": "me/mine", "id": "1"})

    def do_GET(self):
        self.server.requests.append((self.path, "", self.headers.get("Authorization")))
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def _answer(self, facts, status=200):
        content = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.status, server.url = [], 200, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, server.url)
    yield server
    server.shutdown()
    server.server_close()


def use_hub(monkeypatch, url):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def push(run, folder, *words):
    return CliRunner().invoke(app, ["export", str(run.path), "--to", str(folder), "--push-to-hub", "me/mine", *words])


def test_a_push_creates_a_private_repository_and_commits_the_whole_folder(tmp_path, make_student_run, hub):
    result = push(make_student_run(), tmp_path / "out", "--private")
    assert result.exit_code == 0, result.output + str(result.exception)
    created = json.loads(next(body for path, body, _ in hub.requests if path == "/api/repos/create"))
    assert (created["name"], created["organization"]) == ("mine", "me")
    assert created.get("private", created.get("visibility") == "private")
    commit = next(body for path, body, _ in hub.requests if path.endswith("/commit/main"))
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert sent == {file.name for file in (tmp_path / "out").iterdir()}
    assert {token for path, _, token in hub.requests if "me/mine" in path} == {"Bearer hf_of_a_test"}
    assert "me/mine" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_of_the_hub_is_one_sentence_and_the_folder_stays(tmp_path, make_student_run, hub, status):
    hub.status = status
    result = push(make_student_run(), tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"(HTTP {status})" in result.stderr
    assert ("HF_TOKEN" in result.stderr) == (status != 500)
    assert "hf_of_a_test" not in result.output
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_hub_out_of_reach_is_one_sentence(tmp_path, make_student_run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    use_hub(monkeypatch, f"http://127.0.0.1:{port}")
    result = push(make_student_run(), tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be reached (ConnectError); check the network (the export stays in" in result.stderr


def test_a_push_without_a_token_is_refused_before_anything_is_written(tmp_path, make_student_run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    result = push(make_student_run(), tmp_path / "out")
    assert result.exit_code == 1
    assert "no token for the hub; log in with hf auth login, or set HF_TOKEN" in result.stderr
    assert not (tmp_path / "out").exists()
