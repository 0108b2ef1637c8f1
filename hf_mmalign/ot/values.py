"""What is a tensor, and whether its values may be looked at."""

from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


def require_tensors(**arguments: Any) -> None:
    """Raise TypeError for an argument, given under its name, that is neither a tensor nor None."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            hint = "; torch.from_numpy makes one of it" if type(value).__module__ == "numpy" else ""
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__module__}.{type(value).__name__}{hint}")


def values_at_hand(*tensors: Tensor) -> bool:
    """Whether Python may decide by these tensors' values at no cost: ordinary ones on a CPU, computed step by step.

    False on every other device, where looking would make the host wait; and where there is no value to look at: under
    `torch.compile`, `torch.export`, tracing and `torch.func`'s transforms, and in fake and other tensors that stand for
    something else.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(tensor) in _PLAIN and tensor.device.type == "cpu" for tensor in tensors)
