"""What three trackers have kept of a run, read with their own readers, as `{name: {step: value}}`."""

import struct

NAMES = ("tensorboard", "mlflow", "wandb")
BLOCK, HEADER = 32_768, 7


def read_board(name, folder):
    """Read the scalars of a run; a step that was written twice is an error."""
    return {"tensorboard": tensorboard_scalars, "mlflow": mlflow_scalars, "wandb": wandb_scalars}[name](folder)


def tensorboard_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: once((each.step, each.value) for each in events.Scalars(name)) for name in events.Tags()["scalars"]}


def mlflow_run(folder):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(folder.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("knot-fed").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`mlflow.runName` = '{folder.name}'")
    return client, run


def mlflow_scalars(folder):
    client, run = mlflow_run(folder)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: once((each.step, each.value) for each in history) for name, history in histories.items()}


def wandb_records(folder):
    """Parse the offline files of all parts of a run: blocks of checksum, length, kind and data, after a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, place, parts = file.read_bytes(), HEADER, b""
        while place + HEADER <= len(content):
            if BLOCK - place % BLOCK < HEADER:
                place += BLOCK - place % BLOCK
                continue
            length, kind = struct.unpack_from("<HB", content, place + 4)
            parts += content[place + HEADER : place + HEADER + length]
            place += HEADER + length
            if kind in (1, 4):  # whole, or the last part
                record, parts = Record.FromString(parts), b""
                yield record


def wandb_scalars(folder):
    import json

    found = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") != "history":
            continue
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        step = row.get("epoch", row.get("round"))
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, []).append((step, float(value)))
    return {name: once(pairs) for name, pairs in found.items()}


def once(pairs):
    pairs = list(pairs)
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)
