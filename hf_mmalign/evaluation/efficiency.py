"""What a model costs: parameters, operations of a forward pass, time and memory."""

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class ModelEfficiency:
    """What one model costs.

    Attributes:
        parameters (`int`): Of the model as it is saved, with those that only its losses use; shared ones count once.
        trainable_parameters (`int`): Those of them that training changes.
        flops (`int`): Floating-point operations of one forward pass with a batch of 1 (see :func:`count_flops`).
        latency_ms_median, latency_ms_p95 (`float`): Milliseconds of a forward pass with a batch of 1.
        train_step_seconds (`float`): Mean of the measured training steps.
        seconds_per_epoch (`float`): That, times the steps of an epoch.
        peak_memory_mib (`float`, *optional*): Most memory that the model took, in MiB (see :class:`PeakMemory`); None where
            the system does not tell.
    """

    parameters: int
    trainable_parameters: int
    flops: int
    latency_ms_median: float
    latency_ms_p95: float
    train_step_seconds: float
    seconds_per_epoch: float
    peak_memory_mib: float | None

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        latencies: Sequence[float],
        steps: Sequence[float],
        steps_per_epoch: int,
        peak_memory_mib: float | None,
    ) -> "ModelEfficiency":
        """From what was measured.

        Args:
            counts (`Mapping[str, int]`): `parameters`, `trainable_parameters` and `flops`.
            latencies (`Sequence[float]`), steps (`Sequence[float]`): Seconds of every forward pass and training step.
            steps_per_epoch (`int`): Training steps of an epoch.
            peak_memory_mib (`float`, *optional*): As above.
        """
        median, p95 = (1e3 * float(value) for value in np.percentile(latencies, [50, 95]))
        step = float(np.mean(steps))
        return cls(
            **counts,
            latency_ms_median=median,
            latency_ms_p95=p95,
            train_step_seconds=step,
            seconds_per_epoch=step * steps_per_epoch,
            peak_memory_mib=peak_memory_mib,
        )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained; shared ones count once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def count_flops(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Floating-point operations of one forward pass, by PyTorch's counter: a multiplication and an addition are two.

    It counts matrix products, convolutions and attention, which is nearly all; no element-wise operation, bias, softmax or
    norm. Some fused kernels it does not know: LSTMs on a CPU and the fast path of [`torch.nn.MultiheadAttention`] would
    count 0. So these are switched off here, and what they are made of is counted: of an LSTM the products of its gates,
    2 · 4h · (d + h) for each step and layer; of attention, in whichever kernel, Q Kᵀ and the weights times V, 4 · T · S ·
    d.

    Args:
        model (`nn.Module`): On the CPU, whose kernels these are; it is left in eval mode.
        inputs (`Mapping[str, Any]`): Keyword arguments of its forward.
    """
    model.eval()
    with torch.no_grad(), _known_kernels(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@contextlib.contextmanager
def _known_kernels() -> Iterator[None]:
    """Lets only operators run that the counter has a formula for, or that come apart into such."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@torch.inference_mode()
def time_forward(model: nn.Module, batches: Sequence[Mapping[str, Any]], count: int, warm_up: int = 0) -> list[float]:
    """Seconds of each of `count` forward passes, in eval mode, over the batches in turn.

    Args:
        model (`nn.Module`), batches (`Sequence[Mapping[str, Any]]`): On one device.
        count (`int`): Passes that are timed.
        warm_up (`int`): Passes before them that are not.
    """
    model.eval()
    seconds = []
    for index in range(-warm_up, count):
        batch = batches[index % len(batches)]
        synchronize()
        start = time.perf_counter()
        model(**batch)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[warm_up:]


def synchronize() -> None:
    """Wait for what a GPU, if one is in use, still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class PeakMemory:
    """Most memory that this process takes from here on, beyond what it has taken already.

    On a CPU it is the growth of the resident set, with what PyTorch keeps in reserve, as Linux tells it; so the process
    should be a fresh one that does nothing else. On CUDA it is `torch.cuda.max_memory_allocated`.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
    """

    HOW: ClassVar[dict[str, str]] = {
        "cpu": "growth of the resident set of a process of its own",
        "cuda": "torch.cuda.max_memory_allocated in a process of its own",
    }

    def __init__(self, device: str):
        self.device = device
        self._before = _resident("VmRSS") if device == "cpu" else None

    def mib(self) -> float | None:
        """In MiB; None where the system does not tell."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        if self._before is None:
            return None
        # The peak is one of the whole process, which imports may have reached before.
        return max(_resident("VmHWM") - self._before, 0) / 2**10


def _resident(field: str) -> int | None:
    """A line of the process's status in KiB. getrusage would tell the parent's peak where that was higher."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
