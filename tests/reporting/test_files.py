import os
import stat

import pytest

from hf_mmalign.reporting.files import atomic_path, write_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "report.md", "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "report.md", "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new ±")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "new ±"


def test_missing_folders_are_made_and_files_are_as_readable_as_others(tmp_path):
    path = write_text(tmp_path / "a" / "b" / "report.md", "text")
    (tmp_path / "plain").write_text("text")
    assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)
