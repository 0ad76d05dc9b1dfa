import time
from dataclasses import dataclass, field

import pytest

from knot_fed.federation.flower.window import slide
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import folder_of, timeless

pytestmark = pytest.mark.slow

CLIENTS = 5
KEYS = {"rounds": 2, "teacher.epochs": 1, "distill.epochs": 1, "student.pretrain": False, "data.min-examples": 1}
POLL = 0.01


@dataclass
class WindowedGrid(InProcessGrid):
    """Sends requests in a sliding window; `deaf` nodes shake hands and answer nothing else."""

    window: int = 1
    deaf: tuple[int, ...] = ()
    arrived: dict[str, object] = field(default_factory=dict)
    most: int = 0

    def push_messages(self, messages):
        for message in messages:
            reply = self.answer(message) if self.hears(message) else None
            self.arrived[message.metadata.message_id or str(id(message))] = reply
        self.most = max(self.most, len(self.arrived))
        return [message.metadata.message_id or str(id(message)) for message in messages]

    def hears(self, message):
        return message.metadata.message_type == "query" or message.metadata.dst_node_id not in self.deaf

    def pull_messages(self, message_ids):
        return [self.arrived.pop(number) for number in list(message_ids) if self.arrived[number]]

    def send_and_receive(self, messages, *, timeout=None):
        return slide(
            messages,
            push=self.push_messages,
            pull=self.pull_messages,
            timeout=timeout,
            window=self.window,
            poll=POLL,
        )


def run(config, name, **options):
    grid = WindowedGrid(virtual_clients(config, CLIENTS), **options)
    folder = RunFolder.create(folder_of(config), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def files(folder):
    return {
        name: (folder.path / name).read_bytes()
        for name in ("pooled-soft-labels-1.npy", "pooled-soft-labels-2.npy", "student/parameters.safetensors")
    }


def test_windows_of_any_size_give_the_same_run_and_the_same_bytes(small):
    config = small(keys=KEYS)
    runs = [run(small(keys=KEYS | {"state-dir": f"{config.state_dir}-{size}"}), f"of-{size}", window=size)
            for size in (1, 2, 1000)]  # fmt: skip
    assert [grid.most for _, grid in runs] == [1, 2, CLIENTS]
    (first, _), *others = runs
    for folder, _ in others:
        assert timeless(folder.read_summary()) == timeless(first.read_summary())
        assert files(folder) == files(first)


def test_a_deaf_client_in_the_first_window_is_left_out_and_delays_no_other(small):
    config = small(keys=KEYS | {"rounds": 1, "timeout": 3.0})
    started = time.monotonic()
    folder, _ = run(config, "deaf", window=1, deaf=(100,))
    assert {client["name"]: client["status"] for client in folder.read_summary()["clients"]} == {
        "phones-0": "no answer",
        "phones-1": "ok",
        "restaurants-0": "ok",
        "restaurants-1": "ok",
        "hotels": "ok",
    }
    spent = time.monotonic() - started
    assert spent < 3 * config.timeout + 10  # the evaluation before, the round and the evaluation after it


@pytest.mark.parametrize("deaf", [(100,), (100, 101)])
def test_metrics_of_the_others_arrive_whoever_is_deaf(small, deaf):
    config = small(keys=KEYS | {"rounds": 1, "timeout": 3.0})
    folder, _ = run(config, "metrics", window=2, deaf=deaf)
    measured = {client["name"] for client in folder.read_summary()["clients"] if not client["unmeasured"]}
    assert len(measured) == CLIENTS - len(deaf)
