"""Every fault that a federation meets, on real processes; -s prints the rows of docs/explanation/faults.md."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from knot_fed.privacy.ledger.ledger import Ledger
from tests.deployment.members import left_over, until
from tests.deployment.proxy import proxy
from tests.deployment.real_federation import federation
from tests.deployment.review_files import TEXTS

TEACHING = {"teacher.epochs": 40, "teacher.patience": 40}
LEARNING = {"distill.epochs": 12, "distill.patience": 12}
STUDENT = "student/parameters.safetensors"
ASKED = "Receiving: train message"


@pytest.fixture
def two(tmp_path):
    with federation(tmp_path, "phones", "restaurants") as real:
        yield real
    assert not left_over(real.folder)


@pytest.fixture
def three(tmp_path):
    with federation(tmp_path, "phones", "restaurants", "hotels") as real:
        yield real
    assert not left_over(real.folder)


def measured(fault, done, happened, since):
    """Print one row of the table: seconds count from the fault until the federation was whole again."""
    print(f"\n| {fault} | {done} | {happened} | {time.monotonic() - since:.0f} |")  # noqa: T201


def teachers(run, number):
    return {round_["round"]: round_["teachers"] for round_ in run.rounds()}[number]


@pytest.mark.long
def test_a_client_killed_while_it_trains_is_missed_for_one_round_and_comes_back(three):
    run = three.submit(TEACHING, wait_for=3, rounds=2, timeout=600.0)
    three.nodes["hotels"].await_said(ASKED, timeout=400)
    three.nodes["hotels"].await_child("flwr-clientapp")
    since = time.monotonic()
    three.nodes["hotels"].kill()
    three.start_node("hotels")
    run.await_said("hotels is back", timeout=400)
    back = time.monotonic() - since
    ended = run.wait(timeout=900)
    assert ended.completed, run.text()
    assert set(teachers(run, 1)) == {"phones", "restaurants"}
    assert set(teachers(run, 2)) == {"phones", "restaurants", "hotels"}
    assert set(run.statuses().values()) == {"ok"}
    measured(
        "client killed while training", "SIGKILL of node and app, started again",
        "round 1 went on with 2 of 3; it took part in round 2", time.monotonic() - back,
    )  # fmt: skip


@pytest.mark.long
def test_a_client_killed_while_it_trains_is_waited_for_where_too_few_are_left(two):
    run = two.submit(TEACHING, timeout=600.0)
    two.nodes["phones"].await_said(ASKED, timeout=400)
    two.nodes["phones"].await_child("flwr-clientapp")
    since = time.monotonic()
    two.nodes["phones"].kill()
    two.start_node("phones")
    run.await_said("phones is back", timeout=400)
    back = time.monotonic() - since
    ended = run.wait(timeout=900)
    assert ended.completed, run.text()
    assert set(teachers(run, 1)) == {"phones", "restaurants"}
    measured(
        "client killed while training, too few left", "SIGKILL of node and app, started again",
        "the round waited and asked it again", time.monotonic() - back,
    )  # fmt: skip


@pytest.mark.long
def test_a_client_killed_while_it_replies_leaves_no_half_reply(tmp_path):
    with federation(tmp_path, "phones") as real, proxy(real.port) as network:
        node = real.start_node("restaurants", port=network.port)
        run = real.submit(timeout=600.0)
        node.await_said(ASKED, timeout=400)
        cut = []
        network.cut_upload(20_000, lambda: (node.kill(), cut.append(time.monotonic())))
        until(lambda: cut, "the reply that is cut", timeout=300, log=node.log)
        real.start_node("restaurants")
        run.await_said("restaurants is back", timeout=400)
        back = time.monotonic() - cut[0]
        assert run.wait(timeout=900).completed, run.text()
        assert teachers(run, 1)["restaurants"]["reused"]
        measured(
            "client killed while replying", "SIGKILL after 20 kB of the reply",
            "no half reply; it was asked again and answered with its kept teacher", time.monotonic() - back,
        )  # fmt: skip


@pytest.mark.long
def test_a_client_that_never_answers_is_left_out_of_one_round_and_is_welcome_later(three):
    run = three.submit(TEACHING, wait_for=3, timeout=150.0, rounds=2)
    three.nodes["hotels"].await_said(ASKED, timeout=400)
    since = time.monotonic()
    three.nodes["hotels"].freeze()
    run.await_said("round 1: 2 of 3 clients answered", timeout=400)
    waited = time.monotonic() - since
    three.nodes["hotels"].thaw()
    assert run.wait(timeout=900).completed, run.text()
    measured(
        "client that never answers", f"SIGSTOP for {waited:.0f} s, then SIGCONT",
        "the round went on with 2 of 3", time.monotonic() - waited,
    )  # fmt: skip


@pytest.mark.long
def test_a_client_that_joins_late_takes_part_from_the_next_round_on(two):
    run = two.submit(rounds=2, timeout=600.0)
    two.nodes["phones"].await_said(ASKED, timeout=400)
    since = time.monotonic()
    two.start_node("hotels")
    assert run.wait(timeout=900).completed, run.text()
    assert set(teachers(run, 1)) == {"phones", "restaurants"}
    assert set(teachers(run, 2)) == {"phones", "restaurants", "hotels"}
    measured("client that joins late", "started during round 1 of 2", "it took part in round 2", since)


@pytest.mark.long
def test_a_node_that_restarts_between_rounds_keeps_its_teacher_and_the_texts(two):
    run = two.submit(LEARNING, rounds=2, timeout=600.0)
    run.await_said("round 1: 2 of 2 clients answered", timeout=400)
    since = time.monotonic()
    two.nodes["phones"].stop()
    two.start_node("phones")
    run.await_said("phones is back", timeout=400)
    back = time.monotonic() - since
    assert run.wait(timeout=900).completed, run.text()
    assert teachers(run, 2)["phones"]["reused"]
    measured(
        "node restarted between rounds", "SIGTERM, started again",
        "it answered round 2 with the teacher kept", time.monotonic() - back,
    )  # fmt: skip


@pytest.mark.long
def test_a_server_app_killed_or_out_of_disk_in_distillation_is_resumed_to_the_same_student(two):
    whole = two.submit(LEARNING, name="whole", timeout=600.0)
    assert whole.wait(timeout=900).completed, whole.text()
    killed = two.submit(LEARNING, name="killed", timeout=600.0)
    until(lambda: (killed.folder / "checkpoint.safetensors").exists(), "the checkpoint", timeout=600)
    since = time.monotonic()
    two.superlink.await_child("flwr-serverapp").kill()
    ended = killed.wait(timeout=400)
    assert ended.status == "finished:failed"
    check_resumed(two, "killed", whole)
    measured("ServerApp killed in distillation", "SIGKILL, then resume", "the same student, nothing asked twice", since)

    full = two.submit(LEARNING, name="full", timeout=600.0)
    until(lambda: (full.folder / "checkpoint.safetensors").exists(), "the checkpoint", timeout=600)
    since = time.monotonic()
    two.superlink.await_child("flwr-serverapp").rlimit(psutil.RLIMIT_FSIZE, (1000, 1000))
    ended = full.wait(timeout=400)
    assert ended.status == "finished:failed"
    assert "cannot be written (File too large); make room, then resume the run" in ended.sentence
    assert (full.folder / "checkpoint.safetensors").stat().st_size > 1000
    assert not list(full.folder.glob(".partial-*"))
    check_resumed(two, "full", whole)
    measured(
        "disk full in the run folder", "no file may grow, then resume", "one sentence, then the same student", since
    )


def check_resumed(real, name, whole):
    asked = {node: member.said().count(ASKED) for node, member in real.nodes.items()}
    resumed = real.submit(LEARNING, resume=name, timeout=600.0)
    resumed.folder = real.folder / "runs" / name
    assert resumed.wait(timeout=900).completed, resumed.text()
    assert asked == {node: member.said().count(ASKED) for node, member in real.nodes.items()}
    for file in (STUDENT, "pooled-soft-labels-1.npy"):
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()


@pytest.mark.long
def test_nodes_find_a_superlink_that_is_killed_and_restarted_and_the_run_is_resumed(two):
    run = two.submit(LEARNING, name="cut", timeout=600.0)
    until(lambda: (run.folder / "checkpoint.safetensors").exists(), "the checkpoint", timeout=600)
    since = time.monotonic()
    two.superlink.kill()
    until(lambda: not two.superlink.family(), "the end of the SuperLink")
    two.start_superlink()
    resumed = two.submit(LEARNING, resume="cut", timeout=600.0)
    resumed.folder = run.folder
    ended = resumed.wait(timeout=900)
    assert ended.completed, resumed.text()
    assert set(resumed.statuses().values()) == {"ok"}
    assert all(member.process.poll() is None for member in two.nodes.values())
    measured(
        "SuperLink killed", "SIGKILL, started again with its database, run resumed",
        "nodes came back by themselves under their numbers; the run went on", since,
    )  # fmt: skip
    until(lambda: run.status()[0] == "finished:failed", "Flower's word on the run that was cut", timeout=180)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler for the clock")
@pytest.mark.parametrize("seconds", [3600, -3600], ids=["ahead", "behind"])
def test_a_node_whose_clock_is_off_by_an_hour_is_refused_and_the_others_go_on(tmp_path, seconds):
    with federation(tmp_path, "phones", "restaurants") as real:
        since = time.monotonic()
        environment = ("env", f"LD_PRELOAD={wrong_clock(tmp_path)}", f"CLOCK_OFF_BY={seconds}")
        hotels = real.start_node("hotels", prefix=environment)
        code = hotels.process.wait(timeout=300)
        refused = time.monotonic() - since
        assert not hotels.family()
        assert '"POST /v1/fleet/register-node HTTP/1.1" 401' in real.superlink.said()
        run = real.submit(timeout=600.0)
        assert run.wait(timeout=900).completed, run.text()
        assert set(run.statuses().values()) == {"ok"}
        measured(
            "clocks that disagree by an hour", f"a node {seconds:+d} s",
            f"refused, exit code {code}; the others went on", time.monotonic() - refused,
        )  # fmt: skip


def wrong_clock(folder):
    """Build a library that shifts the wall clock of a process, and no other clock."""
    library = folder / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.long
@pytest.mark.parametrize("seconds", [10, 65], ids=["10 s", "a minute"])
def test_a_network_that_drops_loses_nothing(tmp_path, seconds):
    with federation(tmp_path, "phones") as real, proxy(real.port) as network:
        node = real.start_node("restaurants", port=network.port)
        run = real.submit(TEACHING, timeout=600.0)
        node.await_said(ASKED, timeout=400)
        since = time.monotonic()
        network.drop()
        time.sleep(seconds)
        network.restore()
        assert run.wait(timeout=900).completed, run.text()
        assert set(teachers(run, 1)) == {"phones", "restaurants"}
        assert node.process.poll() is None
        measured(f"network down for {seconds} s", "a proxy that forwards nothing", "the round waited for it", since)


@pytest.mark.long
def test_two_runs_at_once_on_the_same_nodes_both_complete(two):
    since = time.monotonic()
    runs = [two.submit(name=f"at-once-{seed}", seed=seed, timeout=900.0) for seed in (1, 2)]
    for run in runs:
        assert run.wait(timeout=1200).completed, run.text()
        assert set(run.statuses().values()) == {"ok"}
    pooled = [np.load(run.folder / "pooled-soft-labels-1.npy") for run in runs]
    assert not np.array_equal(*pooled)
    for name in two.nodes:
        ledger = Ledger(two.folder / name / "state")
        assert ledger.released_in_life() == len(runs) * TEXTS
    measured("two runs at once", "two seeds on the same nodes", "both completed", since)
