"""Files that are written whole or not at all."""

import os
import stat

import pytest

from knot_fed.files import OWNERS, SHARED, write_file


@pytest.mark.parametrize(("mode", "umask", "expected"), [
    (OWNERS, 0o000, 0o600), (OWNERS, 0o022, 0o600), (SHARED, 0o022, 0o644), (SHARED, 0o077, 0o600), (SHARED, 0, 0o666),
])  # fmt: skip
def test_a_file_has_its_mode_less_what_the_umask_takes_away(tmp_path, mode, umask, expected):
    before = os.umask(umask)
    try:
        write_file(tmp_path / "a", b"one", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == expected


def test_a_file_of_before_is_replaced_whole(tmp_path):
    for content in (b"a long first one", b"second"):
        write_file(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match="a"):
        write_file(tmp_path / "a", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "kept").is_dir()
