"""Processes for runs: alone, each with its share of the processors, and none left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hf_mmalign.runs.processes import process_per_task

SCRIPT = """
import os, time
from hf_mmalign.runs.processes import process_per_task

def work():
    print(os.getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    with process_per_task(2) as pool:
        [pool.submit(work) for _ in range(2)]
"""


def state():
    """Of this process: its number, its threads, and whether an earlier task was here."""
    met = hasattr(torch, "_an_earlier_task")
    torch._an_earlier_task = True
    return os.getpid(), torch.get_num_threads(), met


def test_nothing_of_one_task_reaches_the_next():
    with process_per_task(1) as pool:
        first, second = [pool.submit(state).result() for _ in range(2)]
    assert first[0] != second[0]
    assert first[1] == second[1] == (os.cpu_count() or 1)
    assert not first[2]
    assert not second[2]
    with process_per_task(2) as pool:  # in the same process, with another share
        assert pool.submit(state).result()[1] == max(1, (os.cpu_count() or 1) // 2)


def running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_no_process_survives_the_one_that_started_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(running, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(running, workers))
