"""Weights & Biases: by default offline, under `wandb/` of the run folder, for `wandb sync` later."""

import os
from collections.abc import Mapping
from pathlib import Path

from knot_fed.runs.trackers.tracker import Axis, TrackedRun

PROJECT, MODE = "knot-fed", "offline"
MOST_ROWS = 1_000_000
"""Of one part of a run's history."""
FINISH_SECONDS = 60.0
"""Time to upload what is left at the end of a run; `wandb sync` uploads the rest."""
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import, which starts it

import wandb  # noqa: E402

SETTINGS = {
    "silent": True, "console": "off", "disable_git": True, "disable_code": True, "save_code": False, "host": "",
    "program": "", "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True,
    "x_save_requirements": False, "finish_timeout": FINISH_SECONDS, "reinit": "create_new",
    "x_transaction_log_flush_interval": 1.0,
}  # fmt: skip
"""Nothing is printed, and nothing about the machine, its user and its files is recorded."""


class WandbTracker:
    """Writes settings as the configuration, scalars over their axis, and files, of one W&B run."""

    def start(self, run: TrackedRun, *, resumed: str) -> str:
        """Start a run and W&B's service process; the mode is `WANDB_MODE`, the project `WANDB_PROJECT`."""
        self._alone = wandb.run is None
        parts = len(list(run.folder.glob(f"wandb/*-{resumed}"))) if resumed else 0
        self._rows = parts * MOST_ROWS  # W&B drops rows whose number does not ascend, also over the parts of a run
        settings = wandb.Settings(
            mode=os.environ.get("WANDB_MODE", MODE), project=os.environ.get("WANDB_PROJECT", PROJECT),
            root_dir=str(run.folder), run_id=resumed or None, run_name=run.folder.name, resume="allow", **SETTINGS,
        )  # fmt: skip
        self._run = wandb.init(config={**run.settings, **run.tags}, settings=settings)
        self._run.define_metric("*", step_metric="round")
        self._run.define_metric("distillation/*", step_metric="epoch")
        return str(self._run.id)

    def log(self, rows: Mapping[int, Mapping[str, float]], *, axis: Axis) -> None:
        """Write one row of the run's history for each step."""
        for step, scalars in rows.items():
            self._run.log({**scalars, axis: step}, step=self._rows, commit=True)
            self._rows += 1

    def log_file(self, name: str, text: str) -> None:
        """Keep a file among the run's files."""
        file = Path(self._run.dir) / name
        file.write_text(text, encoding="utf-8")
        self._run.save(str(file), base_path=self._run.dir, policy="now")

    def finish(self, *, ok: bool) -> None:
        """Finish the run, and end the service process, unless the program around has a run of its own."""
        try:
            self._run.finish(exit_code=0 if ok else 1)
        finally:
            if self._alone and wandb.run is None:
                wandb.teardown()
