"""What a pass over data has found is kept for the next run on the same data."""

import json
import threading
import time

import pytest

from hf_mmalign.data import kept as module
from hf_mmalign.data.kept import kept


class Pass:
    """Counts how often it is made."""

    def __init__(self, found):
        self.found, self.made = found, 0

    def __call__(self):
        self.made += 1
        return self.found


def files(folder):
    return sorted(folder.glob("hf_mmalign/kept/*.json"))


def test_a_pass_is_made_once_as_long_as_nothing_it_depends_on_changes(tmp_path, monkeypatch):
    find = Pass({"mean": [0.1, float("inf")], "names": ["ä"]})
    for _ in range(2):
        assert kept("check", {"data": "a", "size": 3}, find, tmp_path) == find.found
    assert find.made == 1
    assert len(files(tmp_path)) == 1
    kept("check", {"data": "b", "size": 3}, find, tmp_path)
    kept("check", {"data": "a", "size": 4}, find, tmp_path)
    kept("other", {"data": "a", "size": 3}, find, tmp_path)
    assert find.made == 4
    monkeypatch.setattr(module, "_code", lambda: "of a later version")
    kept("check", {"data": "a", "size": 3}, find, tmp_path)
    assert find.made == 5


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"key": {}, "found": 1}', "\x00"])
def test_a_damaged_file_is_not_heeded(tmp_path, damage):
    find = Pass(True)
    kept("check", {"data": "a"}, find, tmp_path)
    files(tmp_path)[0].write_text(damage)
    assert kept("check", {"data": "a"}, find, tmp_path) is True
    assert find.made == 2
    assert json.loads(files(tmp_path)[0].read_text())["found"] is True


def test_an_error_is_not_kept(tmp_path):
    def fail():
        raise ValueError("bad row")

    for _ in range(2):
        with pytest.raises(ValueError, match="bad row"):
            kept("check", {"data": "a"}, fail, tmp_path)
    assert files(tmp_path) == []


def test_where_nothing_can_be_written_a_warning_says_so(tmp_path, caplog):
    (tmp_path / "hf_mmalign").write_text("a file")
    find = Pass(3)
    assert [kept("check", {"data": "a"}, find, tmp_path) for _ in range(2)] == [3, 3]
    assert find.made == 2
    assert "cannot be written, so the next run makes the pass over the data again" in caplog.text


def test_one_waits_for_another_that_makes_the_pass(tmp_path):
    begun, find = threading.Event(), Pass(5)

    def slow():
        begun.set()
        time.sleep(0.3)
        return 4

    other = threading.Thread(target=kept, args=("check", {"data": "a"}, slow, tmp_path))
    other.start()
    begun.wait()
    assert kept("check", {"data": "a"}, find, tmp_path) == 4
    other.join()
    assert find.made == 0
