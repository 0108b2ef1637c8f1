"""Squared 2-Wasserstein (Bures) cost between Gaussians."""

import torch
from torch import Tensor

from .costs import full_precision, no_autocast
from .values import require_tensors


def bures_cost(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distances between two sets of Gaussians (Eq. 6 of the DecAlign paper).

    ``‖μ − μ'‖² + tr Σ + tr Σ' − 2 tr (Σ^½ Σ' Σ^½)^½``, which for diagonal covariances is ``‖μ − μ'‖² + ‖σ − σ'‖²``.

    Args:
        mean_x: (…, K, d), any floating dtype.
        covariance_x: variances (…, K, d), or symmetric covariance matrices (…, K, d, d). Variances are floored at 1e-12
            of the problem's largest; full covariances get a millionth of their mean variance on the diagonal.
        mean_y: (…, L, d).
        covariance_y: of the same kind as ``covariance_x``.

    Returns:
        (…, K, L) in fp32 (fp64 where an input is), also under autocast; nonnegative up to rounding, and differentiable
        everywhere, with finite gradients also for equal or singular covariances.
    """
    require_tensors(mean_x=mean_x, covariance_x=covariance_x, mean_y=mean_y, covariance_y=covariance_y)
    diagonal = covariance_x.dim() == mean_x.dim()
    for name, mean, covariance in (("x", mean_x, covariance_x), ("y", mean_y, covariance_y)):
        wanted = mean.shape if diagonal else (*mean.shape, mean.shape[-1])
        if covariance.shape != wanted:
            raise ValueError(
                f"covariance_{name} must be {tuple(wanted)} (both sides diagonal or both full), "
                f"got {tuple(covariance.shape)}"
            )
    if mean_x.shape[-1] != mean_y.shape[-1]:
        raise ValueError(f"mean_x and mean_y must have the same width, got {mean_x.shape[-1]} and {mean_y.shape[-1]}")
    with no_autocast(mean_x.device):
        tensors = [full_precision(x) for x in (mean_x, covariance_x, mean_y, covariance_y)]
        if any(x.dtype == torch.float64 for x in tensors):
            tensors = [x.double() for x in tensors]
        mean_x, covariance_x, mean_y, covariance_y = tensors
        distance = (mean_x.unsqueeze(-2) - mean_y.unsqueeze(-3)).square().sum(-1)
        if diagonal:
            return distance + _diagonal(covariance_x, covariance_y)
        return distance + _full(covariance_x, covariance_y)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """‖σ − σ'‖². The floor keeps the square root's slope finite at a variance of 0 (and zero below it)."""
    largest = torch.maximum(x.detach().amax((-2, -1), keepdim=True), y.detach().amax((-2, -1), keepdim=True))
    floor = (1e-12 * largest).clamp_min(1e-30)
    x, y = (torch.maximum(v, floor).sqrt() for v in (x, y))
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def _full(x: Tensor, y: Tensor) -> Tensor:
    """tr Σ + tr Σ' − 2 tr (Σ^½ Σ' Σ^½)^½.

    With Σ = L Lᵀ and Σ' = M Mᵀ the last trace is the nuclear norm of Lᵀ M, which is max ⟨Lᵀ M, Q⟩ over orthogonal Q.
    By the envelope theorem the maximiser, Q = U Vᵀ of the singular value decomposition, may be a constant: no backward
    through an eigendecomposition, whose gradient is not finite where eigenvalues coincide.
    """
    traces = _trace(x).unsqueeze(-1) + _trace(y).unsqueeze(-2)
    product = _factor(x).mT.unsqueeze(-3) @ _factor(y).unsqueeze(-4)
    u, _, vh = torch.linalg.svd(product.detach(), full_matrices=False)
    return traces - 2 * (product * (u @ vh)).sum((-2, -1))


def _factor(covariance: Tensor) -> Tensor:
    covariance = (covariance + covariance.mT) / 2
    width = covariance.shape[-1]
    ridge = (1e-6 * _trace(covariance.detach()) / width).clamp_min(1e-12)
    identity = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + ridge[..., None, None] * identity)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
