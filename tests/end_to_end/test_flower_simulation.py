import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.deployment.members import MARK, command_line, left_over, until
from tests.system.test_machine import like_macos

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = 'teacher.epochs=1 distill.epochs=1 student.pretrain=false name="real"'


def start(name, *arguments, folder, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), MARK: str(folder), **environment}
    return subprocess.Popen(
        [BIN / name, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def command(name, *arguments, folder, **environment):
    process = start(name, *arguments, folder=folder, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def private_folders(folder):
    return set(folder.glob("knot-fed-*"))


def test_three_virtual_clients_on_ray_give_a_run_folder_that_the_commands_read(tmp_path):
    run = command("flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", SMALL, folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "before → after" in run.stdout
    folder = tmp_path / "runs" / "real"
    summary = json.loads((folder / "summary.json").read_text())
    assert [client["status"] for client in summary["clients"]] == ["ok"] * 3
    assert np.load(folder / "pooled-soft-labels-1.npy").shape == (1947, 5)
    assert not left_over(tmp_path)
    assert "restaurants" in command("knot-fed", "show", folder, folder=tmp_path).stdout
    assert "very positive" in command("knot-fed", "predict", folder, "--text", "it is fine", folder=tmp_path).stdout


@pytest.mark.slow
def test_a_secure_sum_on_ray_pools_what_a_plain_run_pools(tmp_path):
    for name, secure in (("plain", "false"), ("secure", "true")):
        keys = f'name="{name}" distill.objective="pooled" privacy.secure-sum={secure}'
        run = command(
            "flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", SMALL, "--run-config", keys,
            folder=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
    plain, secure = (np.load(tmp_path / "runs" / name / "pooled-soft-labels-1.npy") for name in ("plain", "secure"))
    assert np.abs(plain - secure).max() < 1e-4
    summary = json.loads((tmp_path / "runs" / "secure" / "summary.json").read_text())
    assert summary["privacy"]["mechanism"] == "secure sum"
    assert not left_over(tmp_path)


@pytest.mark.slow
def test_a_run_completes_without_affinity_behind_a_proxy_in_a_deep_folder_on_an_ascii_terminal(tmp_path):
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"), "http://127.0.0.1:9")
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ["--num-supernodes", "3", "--run-config", SMALL]
    environment = {**dead, **plain, **like_macos(tmp_path), "TMPDIR": str(deep), "no_proxy": "", "NO_PROXY": ""}
    run = command("flower-simulation", "--app", ROOT, *options, folder=tmp_path, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "before -> after" in run.stdout
    assert run.stdout.isascii()
    assert not left_over(tmp_path)


@pytest.mark.long
def test_a_killed_client_actor_is_told_by_kind_and_the_run_goes_on(tmp_path):
    long = ["--run-config", SMALL, "--run-config", "teacher.epochs=60 teacher.patience=60 min-teachers=2"]
    run = start("flower-simulation", "--app", ROOT, "--num-supernodes", "3", *long, folder=tmp_path)
    assert any("joined" in line for line in run.stdout)
    actor = until(lambda: busy_actors(run.pid), "actor at work", timeout=120)[0]
    actor.kill()
    out, err = run.communicate(timeout=180)
    assert run.returncode == 0, out + err
    assert "its process ended before it answered" in out
    assert "error 0" not in out
    summary = json.loads((tmp_path / "runs" / "real" / "summary.json").read_text())
    for client in summary["clients"]:
        assert (client["name"] in summary["domains"]) == (client["unmeasured"] == "")


def busy_actors(number):
    """Return the actors of a command that work on a message."""
    members = psutil.Process(number).children(recursive=True)
    return [member for member in members if "ClientAppActor.run" in command_line(member)]


@pytest.mark.slow
def test_a_run_that_fails_exits_non_zero_and_says_why(tmp_path):
    options = ["--num-supernodes", "3", "--run-config", SMALL + ' distill.loss="absent:loss"']
    run = command("flower-simulation", "--app", ROOT, *options, folder=tmp_path)
    assert run.returncode == 1
    assert "absent:loss" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "sentence"),
    [
        pytest.param([signal.SIGTERM], 143, "stopped by SIGTERM", marks=pytest.mark.long),
        ([signal.SIGINT, signal.SIGINT], 130, "stopped by Ctrl-C"),
        pytest.param([signal.SIGHUP], 129, "the terminal has gone", marks=pytest.mark.long),
        ([signal.SIGKILL], -signal.SIGKILL, ""),
    ],
    ids=["term", "ctrl-c-twice", "hangup", "kill"],
)
def test_a_run_that_is_stopped_leaves_no_process_and_no_private_folder(tmp_path, signals, code, sentence):
    long = "teacher.epochs=300 teacher.patience=300 student.pretrain=false"
    run = start("flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", long, folder=tmp_path)
    training = any("objective" in line for line in run.stdout)
    until(lambda: any("raylet" in command_line(process) for process in left_over(tmp_path)), "a raylet")
    assert private_folders(tmp_path)
    for number in signals:
        run.send_signal(number)
        time.sleep(0.3)
    _, err = run.communicate(timeout=60)
    assert training
    assert run.returncode == code
    assert sentence in err
    assert err.count("\n") == (1 if sentence else 0)
    until(lambda: not left_over(tmp_path), "end of all processes", timeout=15)
    assert not private_folders(tmp_path)
