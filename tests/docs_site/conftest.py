import os
import subprocess
import sys

import pytest

from tests.browsers import browser as browser
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site as `make docs` builds it: offline, with warnings as errors."""
    pytest.importorskip("mkdocs", reason="mkdocs is missing; install the extra docs")
    folder = tmp_path_factory.mktemp("site")
    silent = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **silent, **nowhere, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    return folder
