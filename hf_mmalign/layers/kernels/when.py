"""When the kernels written by hand serve, and when PyTorch's own do."""

from torch import Tensor

from ...ot.values import values_at_hand


def by_hand(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors may run a kernel of this folder: on a CPU, in eager mode.

    Under `torch.compile`, `torch.export` and tracing PyTorch's own operators serve, which those understand and fuse; also
    under `torch.func`'s transforms, on tensors without values, and on every other device.
    """
    return values_at_hand(*tensors)
