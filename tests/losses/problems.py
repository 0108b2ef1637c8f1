"""Samples of several modalities, some missing, to test DecAlign's loss terms on."""

import torch
from torch import Tensor

# What lies behind a mask must not matter.
GARBAGE = 300.0
SIZES = [(6, 6), (6, 4, 5), (3, 6, 5, 4)]


def samples(
    sizes: tuple[int, ...], width: int = 4, batch: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Modality m with `sizes[m]` of `batch` samples.

    Returns:
        Samples `(M, batch, width)` with garbage where missing, `(M, batch)` bool that tells which are present, and each
        modality's present samples alone, `(sizes[m], width)`.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), batch, width, generator=generator, dtype=torch.float64).to(dtype)
    x = x + torch.arange(len(sizes), dtype=dtype)[:, None, None] / 3
    present = torch.stack([torch.randperm(batch, generator=generator) < size for size in sizes])
    x[~present] = GARBAGE
    return x, present, [x[m, present[m]] for m in range(len(sizes))]


def assert_finite_with_gradient(loss: Tensor, *inputs: Tensor) -> None:
    """The loss is a finite fp32 (fp64) scalar and its gradients are finite."""
    assert loss.shape == ()
    assert loss.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(loss)
    if loss.requires_grad:
        for gradient in torch.autograd.grad(loss, inputs, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()
