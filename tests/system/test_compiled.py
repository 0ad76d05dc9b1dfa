"""Code that Numba keeps is loaded by another process, and compiled again where its files are damaged."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

MODULE = """
from knot_fed.system.compiled import compiled

@compiled
def doubled(value: float) -> float:
    return 2 * value

print(doubled(2.5), sum(doubled.stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "kernel.py").write_text(MODULE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def call():
        done = subprocess.run(
            [sys.executable, "-c", "import kernel"],
            cwd=tmp_path, env=environment, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        value, hits = done.stdout.split()
        assert value == "5.0"
        return int(hits)

    return call


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_kept_code_that_is_cut_is_compiled_again_and_kept(run, tmp_path, suffix, share):
    assert run() == 0
    assert run() == 1
    (file,) = (tmp_path / "cache").rglob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert run() == 0
    assert run() == 1
