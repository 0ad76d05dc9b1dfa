import pytest

from tests.deployment.processes import write_reviews, write_server_files


@pytest.fixture
def small(run_config, tmp_path):
    """A configuration on files of a few rows."""
    write_server_files(tmp_path / "data")
    names = ("phones", "restaurants", "hotels")
    for name in names:
        write_reviews(tmp_path / "data" / f"{name}.csv", name)
    files = {"data.root": str(tmp_path / "data"), "data.clients": ",".join(names)}
    files |= {"data.public": "books", "data.transfer": "forum"}
    return lambda keys=None: run_config(keys=files | (keys or {}))
