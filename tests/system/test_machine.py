"""Systems that lack what Linux has."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

WITHOUT_AFFINITY = "import os\nfor name in ('sched_getaffinity', 'sched_setaffinity'):\n    delattr(os, name)\n"
"""A `sitecustomize` that takes away what macOS lacks, in every process that inherits the environment."""


def like_macos(folder):
    """Return the environment of a system that pins no process to CPUs."""
    (folder / "sitecustomize.py").write_text(WITHOUT_AFFINITY)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_torch_gets_all_cpus_where_no_process_is_pinned(tmp_path):
    code = "import os, torch; from knot_fed.models import use_threads; use_threads(0); print(torch.get_num_threads())"
    environment = {**os.environ, **like_macos(tmp_path)}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", f"import os; assert not hasattr(os, 'sched_getaffinity'); {code}"],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == os.cpu_count()
