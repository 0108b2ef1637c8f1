"""Cost functions between tokens."""

import contextlib

import torch
from torch import Tensor

from .values import require_tensors

# Below this norm a vector has no direction that fp32 could hold; the same threshold as torch.cosine_similarity.
_SMALLEST_NORM = 1e-8


def full_precision(x: Tensor) -> Tensor:
    """``x`` in fp32, or unchanged where it is fp64: transport is never computed in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """A region where autocast, if on, does not reach; devices that know no autocast (meta) need none."""
    # Asked only of what runs step by step: older PyTorch cannot compile the question.
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Cosine distances ``1 − cos(x_i, y_j)`` between two sets of tokens (Eq. 5 of the WMA paper).

    Args:
        x: tokens, (…, n, d), any floating dtype.
        y: tokens, (…, m, d).

    Returns:
        (…, n, m) in fp32 (fp64 where an input is), also under autocast; between 0 and 2. A zero vector has cost 1 to
        every other and passes no gradient.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for different feature sizes.
    """
    require_tensors(x=x, y=y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y must have the same feature size, got x {tuple(x.shape)} and y {tuple(y.shape)}")
    with no_autocast(x.device):
        x, y = full_precision(x), full_precision(y)
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        return 1 - _directions(x) @ _directions(y).mT


def _directions(x: Tensor) -> Tensor:
    """Unit vectors, with 0 (and a zero gradient) for vectors too short to have a direction."""
    squared = x.square().sum(-1, keepdim=True)
    directed = squared > _SMALLEST_NORM**2
    # The square root must not see the zero it would turn into an infinite gradient, hence the inner replacement.
    return x * torch.where(directed, torch.where(directed, squared, 1).rsqrt(), 0)
