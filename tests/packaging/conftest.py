import tomllib

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="package")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
