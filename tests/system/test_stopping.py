"""What a command leaves when it is stopped: one sentence, the right exit code, and nothing else."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from knot_fed.system import watcher
from tests.deployment.members import MARK, left_over, until

pytestmark = pytest.mark.slow

COMMAND = """
import subprocess, sys, time
from knot_fed.system.processes import private_folder
from knot_fed.system.stopping import stoppable

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
with stoppable("program"), private_folder() as home:
    (home / "kept").touch()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if "stubborn" in sys.argv:
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    print(home, flush=True)
    try:
        time.sleep(600)
    finally:
        time.sleep(0.6)  # a second signal comes while the first one unwinds the stack
"""


def start(folder, *arguments, prefix=()):
    environment = {**psutil.Process().environ(), MARK: str(folder), "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", COMMAND, *arguments],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("arguments", [[], ["stubborn"]])
@pytest.mark.parametrize(
    ("numbers", "code", "sentence"),
    [
        ([signal.SIGINT], 130, "program: stopped by Ctrl-C; stopping its processes\n"),
        ([signal.SIGINT, signal.SIGINT], 130, "program: stopped by Ctrl-C; stopping its processes\n"),
        ([signal.SIGTERM, signal.SIGHUP], 143, "program: stopped by SIGTERM; stopping its processes\n"),
        ([signal.SIGHUP], 129, "program: stopped, since the terminal has gone (SIGHUP); stopping its processes\n"),
        ([signal.SIGKILL], -9, ""),
    ],
    ids=["ctrl-c", "ctrl-c-twice", "term-hangup", "hangup", "kill"],
)
def test_a_stopped_command_leaves_no_process_and_no_private_folder(tmp_path, numbers, code, sentence, arguments):
    process, home = start(tmp_path, *arguments)
    assert (home / "kept").exists()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, sentence)
    until(lambda: not left_over(tmp_path), "end of all processes", timeout=20)
    assert not home.exists()


def test_a_hangup_that_nohup_ignores_stops_nothing(tmp_path):
    process, _ = start(tmp_path, prefix=["nohup"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    process.communicate()


def test_a_task_under_way_in_a_pool_ends_with_the_command(tmp_path):
    code = """
import time
from knot_fed.system.processes import worker_pool
from knot_fed.system.stopping import stoppable

if __name__ == "__main__":
    with stoppable("program"), worker_pool(2) as pool:
        parts = [pool.submit(time.sleep, 600) for _ in range(4)]
        print(flush=True)
        parts[0].result()
"""
    (tmp_path / "pool.py").write_text(code)
    environment = {**psutil.Process().environ(), MARK: str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "pool.py"],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    until(lambda: len(left_over(tmp_path)) >= 4, "two workers, their parent and its watcher")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "program: stopped by Ctrl-C; stopping its processes\n")
    until(lambda: not left_over(tmp_path), "end of all processes", timeout=20)


def test_a_watcher_ends_nobody_elses_processes(tmp_path):
    with subprocess.Popen(["sleep", "600"], env={watcher.MARK: "another"}) as stranger:
        watcher.end_marked("ours")
        assert stranger.poll() is None
        watcher.end_marked("another")
        assert stranger.wait(timeout=10) is not None
