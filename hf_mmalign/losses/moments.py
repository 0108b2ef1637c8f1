"""DecAlign's latent-space semantic alignment: equal mean, covariance and skewness in all modalities."""

import torch

from ..ot.costs import full_precision, no_autocast

_SMALLEST_VARIANCE = 1e-6


def semantic_loss(z: torch.Tensor, present: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """L_sem, the differences of the first three moments over pairs of modalities (Eq. 10 of DecAlign).

    Covariance is the unbiased estimate; skewness Γ is, per dimension, the third central moment over σ³, where σ² is the
    biased variance, floored at 1e-6.

    Args:
        z (`torch.Tensor` of shape `(M, B, d)`): Latent common features. Computed in fp32.
        present (`torch.BoolTensor` of shape `(M, B)`): Samples that have the modality. A pair counts where both
            modalities have at least two samples.
        reduction (`str`): `"sum"` is Eq. 10 as printed, 1 / (M(M − 1)) Σ_{i<j} of squared norms; `"mean"` takes the mean
            over the entries of each moment, and over pairs, in their place.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no pair counts.
    """
    with no_autocast(z.device):
        mean, covariance, skewness = moments(full_precision(z), present)
        first, second = torch.triu_indices(len(z), len(z), 1, device=z.device)
        distance = z.new_zeros(len(first), dtype=mean.dtype)
        for moment in (mean, covariance.flatten(1), skewness):
            squares = (moment[first] - moment[second]).square()
            distance = distance + (squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1))
        estimated = present.sum(dim=1) > 1
        counted = estimated[first] & estimated[second]
        # As printed, 1 / (M(M − 1)) over pairs i<j is half their mean.
        return (distance * counted).sum() / counted.sum().clamp(min=1) * (0.5 if reduction == "sum" else 1)


def moments(z: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean `(M, d)`, covariance `(M, d, d)` and skewness `(M, d)` over the samples that are present."""
    weight = present.to(z.dtype).unsqueeze(-1)
    count = weight.sum(dim=1).clamp(min=1)  # (M, 1)
    mean = (z * weight).sum(dim=1) / count
    centred = (z - mean.unsqueeze(1)) * weight
    covariance = centred.mT @ centred / (count - 1).clamp(min=1).unsqueeze(-1)
    variance = (centred.square().sum(dim=1) / count).clamp(min=_SMALLEST_VARIANCE)
    skewness = centred.pow(3).sum(dim=1) / count / variance.pow(1.5)
    return mean, covariance, skewness
