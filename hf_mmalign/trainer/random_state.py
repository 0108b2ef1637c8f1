"""Random state that an evaluation leaves as it found it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Restore the states of Python's, NumPy's and PyTorch's global generators, all devices' included, on leaving.

    A data loader draws its base seed from the global generator, even where nothing in it is random. A checkpoint written
    before an evaluation would therefore continue with other numbers than the run that went through the evaluation.
    """
    python, numpy = random.getstate(), np.random.get_state()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = range(torch.accelerator.device_count()) if accelerator else ()
    try:
        with torch.random.fork_rng(devices, device_type=accelerator.type if accelerator else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
