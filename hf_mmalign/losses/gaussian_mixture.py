"""Prototypes of a batch: Gaussian mixtures with diagonal covariance by expectation–maximisation in the log domain.

Everything here is batched over M modalities and differentiable; samples that miss a modality have no weight in it.
"""

import math
from typing import NamedTuple

import torch

# Below this share of a sample, a component is without samples in the batch and stays where it was.
_SMALLEST_COUNT = 1e-6


class GaussianMixture(NamedTuple):
    """Prototypes P_m = {(μ_k, Σ_k)} with weights π_k of M modalities (Eq. 2 of DecAlign).

    Attributes:
        weights: `(M, K)`, sum to 1.
        means: `(M, K, d)`.
        variances: `(M, K, d)`, the diagonals of Σ.
    """

    weights: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor

    def detach(self) -> "GaussianMixture":
        return GaussianMixture(*(part.detach() for part in self))


def responsibilities(x: torch.Tensor, mixture: GaussianMixture) -> torch.Tensor:
    """Probability w_n(k) of sample n belonging to component k (Eqs. 3–4).

    Args:
        x (`torch.Tensor` of shape `(M, N, d)`): Samples.
        mixture (`GaussianMixture`): With strictly positive variances.

    Returns:
        `torch.Tensor` of shape `(M, N, K)`.
    """
    return log_densities(x, mixture).softmax(dim=-1)


def log_densities(x: torch.Tensor, mixture: GaussianMixture) -> torch.Tensor:
    """log π_k N(x_n; μ_k, Σ_k), `(M, N, K)` (the numerator of Eq. 3, with Eq. 4)."""
    variances = mixture.variances.unsqueeze(1)
    distances = ((x.unsqueeze(2) - mixture.means.unsqueeze(1)).square() / variances).sum(dim=-1)
    log_volumes = variances.log().sum(dim=-1) + x.shape[-1] * math.log(2 * math.pi)
    # A component that the marginal has lost for good keeps a finite logarithm, and so a finite gradient.
    log_weights = mixture.weights.clamp(min=torch.finfo(x.dtype).tiny).log().unsqueeze(1)
    return log_weights - 0.5 * (distances + log_volumes)


def initial_mixture(
    x: torch.Tensor, present: torch.Tensor, num_components: int, variance_floor: float
) -> GaussianMixture:
    """Where EM starts: means at samples evenly spaced over the batch, the batch's variance, equal weights.

    With fewer samples than components, samples are taken repeatedly. Without any, the mean is 0.
    """
    count = present.sum(dim=1, keepdim=True)  # (M, 1)
    steps = torch.arange(num_components, device=x.device, dtype=torch.float32)
    spaced = (steps * (count - 1) / max(num_components - 1, 1)).round().long()
    rank = torch.where(count >= num_components, spaced, steps.long() % count.clamp(min=1))
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)  # samples that have the modality first
    chosen = order.gather(1, rank).unsqueeze(-1).expand(-1, -1, x.shape[-1])
    weight = present.to(x.dtype).unsqueeze(-1)
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (x * weight).sum(dim=1, keepdim=True) / total
    variance = ((x - mean).square() * weight).sum(dim=1, keepdim=True) / total
    return GaussianMixture(
        x.new_full((len(x), num_components), 1 / num_components),
        x.gather(1, chosen) * (count > 0).unsqueeze(-1),
        variance.clamp(min=variance_floor).expand(-1, num_components, -1),
    )


def em_step(x: torch.Tensor, present: torch.Tensor, mixture: GaussianMixture, variance_floor: float) -> GaussianMixture:
    """One step of expectation (Eq. 3) and maximisation; a component without samples keeps its mean and variance."""
    assigned = responsibilities(x, mixture) * present.unsqueeze(-1)  # (M, N, K)
    counts = assigned.sum(dim=1)  # (M, K)
    filled = (counts > _SMALLEST_COUNT).unsqueeze(-1)
    share = (assigned / counts.clamp(min=_SMALLEST_COUNT).unsqueeze(1)).mT  # (M, K, N)
    means = torch.where(filled, share @ x, mixture.means)
    deviations = (x.unsqueeze(1) - means.unsqueeze(2)).square()  # (M, K, N, d)
    variances = (share.unsqueeze(2) @ deviations).squeeze(2).clamp(min=variance_floor)
    return GaussianMixture(
        counts / present.sum(dim=1, keepdim=True).clamp(min=1), means, torch.where(filled, variances, mixture.variances)
    )


def fit_mixture(
    x: torch.Tensor,
    present: torch.Tensor,
    start: GaussianMixture,
    iterations: int,
    variance_floor: float = 1e-4,
    gradient: str = "last_step",
) -> GaussianMixture:
    """Fit a mixture to a batch by EM (Section 3.2.1).

    Args:
        x (`torch.Tensor` of shape `(M, N, d)`): Samples of M modalities, fp32 or fp64.
        present (`torch.BoolTensor` of shape `(M, N)`): Samples that have the modality. A modality that none has keeps the
            means and variances of `start`.
        start (`GaussianMixture`): For example :func:`initial_mixture`.
        iterations (`int`): EM steps, at least 1.
        variance_floor (`float`): Smallest variance.
        gradient (`str`): `"last_step"` lets the gradient pass the last step only, `"all_steps"` all and the start.
    """
    if gradient not in ("last_step", "all_steps"):
        raise ValueError(f"gradient is 'last_step' or 'all_steps', not {gradient!r}.")
    mixture = start
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "all_steps"):
        for _ in range(iterations - 1):
            mixture = em_step(x, present, mixture, variance_floor)
    if gradient == "last_step":
        mixture = mixture.detach()
    return em_step(x, present, mixture, variance_floor)


def blend_mixtures(running: GaussianMixture, batch: GaussianMixture, momentum: float) -> GaussianMixture:
    """Component by component, the mixture with the moments of `momentum` parts `running` and the rest `batch`."""
    old, new = momentum * running.weights, (1 - momentum) * batch.weights
    weights = old + new
    old, new = ((part / weights.clamp(min=_SMALLEST_COUNT)).unsqueeze(-1) for part in (old, new))
    means = old * running.means + new * batch.means
    variances = old * (running.variances + (running.means - means).square())
    variances = variances + new * (batch.variances + (batch.means - means).square())
    filled = (weights > _SMALLEST_COUNT).unsqueeze(-1)
    return GaussianMixture(
        weights, torch.where(filled, means, running.means), torch.where(filled, variances, running.variances)
    )
