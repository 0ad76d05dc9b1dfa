"""A sweep that is stopped leaves nothing running, wherever its threads were."""

import subprocess
import time

import psutil
import pytest

from knot_fed.sweep.run import _stopped_on_error


def test_a_run_that_starts_just_after_the_stop_is_stopped_too():
    def start_late():
        time.sleep(1.0)
        subprocess.run(["sleep", "600"], check=False)

    jobs, before = [], set(psutil.Process().children())

    def stop_with_one_running_and_one_waiting():
        with _stopped_on_error(1) as pool:
            jobs.extend(pool.submit(start_late) for _ in range(2))
            raise SystemExit

    started = time.monotonic()
    with pytest.raises(SystemExit):
        stop_with_one_running_and_one_waiting()
    assert time.monotonic() - started < 60
    running, waiting = jobs
    assert running.done()
    assert waiting.cancelled()
    started_here = set(psutil.Process().children()) - before
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in started_here)


def test_a_sweep_that_ends_waits_for_its_runs():
    with _stopped_on_error(1) as pool:
        running = pool.submit(time.sleep, 0.2)
    assert running.done()
