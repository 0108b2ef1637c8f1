import os
import stat
import subprocess
import sys

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


def test_temporaries_of_killed_writers_go_with_the_next_write(tmp_path):
    code = "import os, signal, sys; from hf_mmalign.reporting.files import atomic_path\n"
    code += "with atomic_path(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "report.md")], check=False)
        assert len(list(tmp_path.iterdir())) == 1
    others = {tmp_path / ".report-of-others.md", tmp_path / ".reports-12345678.md"}
    for path in others:
        path.write_text("not ours")
    with atomic_path(tmp_path / "report.md") as living:  # what is being written stays
        path = write_text(tmp_path / "report.md", "text")
        assert set(tmp_path.iterdir()) - others == {path, living}
        living.write_text("later")
    assert set(tmp_path.iterdir()) - others == {path}
    assert path.read_text() == "later"
