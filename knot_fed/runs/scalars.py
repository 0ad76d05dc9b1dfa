"""Scalars for TensorBoard, if it is installed."""

from importlib.util import find_spec

from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS
from knot_fed.types import MEAN


def write_scalars(folder: RunFolder) -> None:
    """Write losses by epoch and each domain's metrics before (step 0) and after (step 1) under `tensorboard/`.

    Does nothing without TensorBoard: `pip install "knot-fed[tensorboard]"`.

    Raises
    ------
    RunFolderError
        If the run left no readable summary.
    """
    if find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    summary, rounds = folder.read_summary(), folder.read_rounds()
    with SummaryWriter(str(folder.path / "tensorboard")) as writer:
        start = 0
        for record in rounds:
            for name, first in (("train_losses", 1), ("validation_losses", 0)):
                for epoch, loss in enumerate(record[name], start + first):
                    writer.add_scalar(f"distillation/{name}", loss, epoch)
            start += len(record["validation_losses"])
        for domain, metrics in {**summary["domains"], MEAN: summary["student"]}.items():
            for key, _ in COLUMNS:
                for step, when in enumerate(("before", "after")):
                    writer.add_scalar(f"{key}/{domain}", metrics[when][key], step)
