"""TensorBoard: event files under `tensorboard/` of the run folder."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from knot_fed.runs.trackers.tracker import Axis, TrackedRun

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes scalars as they come; files stay beside its folder, in the run folder."""

    def start(self, run: TrackedRun, *, resumed: str) -> str:
        """Open a further event file; a board joins the files of one folder."""
        self._writer = SummaryWriter(str(run.folder / FOLDER))
        if not resumed:
            lines = [f"| {key} | {value} |" for key, value in {**run.settings, **run.tags}.items()]
            table = "\n".join(["| setting | value |", "|---|---|", *lines])
            self._writer.add_text("configuration", table)
            self._writer.flush()
        return FOLDER

    def log(self, rows: Mapping[int, Mapping[str, float]], *, axis: Axis) -> None:
        """Write scalars, and flush them."""
        del axis
        for step, scalars in rows.items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_file(self, name: str, text: str) -> None:
        """Do nothing."""

    def finish(self, *, ok: bool) -> None:
        """Close the event file, and end the thread that writes it."""
        del ok
        self._writer.close()
