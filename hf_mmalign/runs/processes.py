"""A process for each run of several at a time."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection

import torch

# What each run imports, which takes longer than many a run.
_IMPORTED_ONCE = ["hf_mmalign.runs.training", "matplotlib.pyplot", "hf_mmalign.reporting.plots"]


@contextmanager
def process_per_task(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, each with its share of the processors, and a new one for each task.

    Nothing of one run, its random state or its caches, can reach the next. On Linux without an accelerator, which a copied
    process could not use, they are copies of one that has imported the package and done nothing else. They end with the
    process that started them, however that ends: a sweep that was killed and begun anew must not find its runs still
    being written.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    copied = sys.platform == "linux" and not torch.accelerator.is_available()
    context = multiprocessing.get_context("forkserver" if copied else "spawn")
    if copied:
        context.set_forkserver_preload(_IMPORTED_ONCE)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a new process, which reads it as it imports torch
    try:
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(threads,), max_tasks_per_child=1
        ) as pool:
            yield pool
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _begin(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: multiprocessing.Process) -> None:
    connection.wait([parent.sentinel])
    os._exit(1)
