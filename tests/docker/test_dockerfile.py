"""What the image is built on stands in one place, so that one digest pins all of it."""

import re
import tomllib

from tests.conftest import ROOT


def test_every_stage_is_built_on_the_one_base_image():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dockerfile.index("\nARG BASE_IMAGE=") < dockerfile.index("\nFROM ")
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${BASE_IMAGE}"}
    assert not re.search(r"--from=(?!requirements|build)", dockerfile)
    assert not re.search(r"^#\s*syntax\s*=", dockerfile, re.MULTILINE)


def test_every_build_of_the_compose_file_takes_the_base_image_from_the_settings():
    compose = (ROOT / "docker-compose.yml").read_text()
    (default,) = re.findall(r'&base-image "\$\{BASE_IMAGE:-(\S+)\}"', compose)
    assert f"ARG BASE_IMAGE={default}\n" in (ROOT / "Dockerfile").read_text()
    builds = re.findall(r"^\s*build: .*$", compose, re.MULTILINE)
    assert len(builds) == 2
    assert all("BASE_IMAGE: *base-image" in build for build in builds)
    images = set(re.findall(r"^\s*image: (\S+)$", compose, re.MULTILINE))
    assert images == {"knot-fed:cpu", "knot-fed:gpu"}


def test_the_image_gets_all_that_the_wheel_is_built_from():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source in {*wheel["packages"], *wheel["force-include"]}:
        assert f"\nCOPY {source} {source}\n" in (ROOT / "Dockerfile").read_text()
        assert f"\n!{source}\n" in (ROOT / ".dockerignore").read_text()
