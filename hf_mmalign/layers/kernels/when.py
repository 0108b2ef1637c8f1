"""When the kernels written by hand serve, and when PyTorch's own do."""

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


def by_hand(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors may run a kernel of this folder: on a CPU, step by step, with values.

    Under `torch.compile`, `torch.export` and tracing PyTorch's own operators serve, which those understand and fuse; also
    under `torch.func`'s transforms, on fake and other tensors that stand for something else, and on every other device.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(tensor) in _PLAIN and tensor.device.type == "cpu" for tensor in tensors)
