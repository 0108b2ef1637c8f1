"""Maximum mean discrepancy between the modalities' distributions."""

import torch

from ..ot.costs import full_precision, no_autocast


def mmd_loss(z: torch.Tensor, present: torch.Tensor, bandwidth: float = 1.0) -> torch.Tensor:
    """L_MMD, the squared maximum mean discrepancy averaged over pairs of modalities (Eqs. 11–12 of DecAlign).

    The expectations run over all pairs of samples, a sample with itself included (the biased estimate, never negative).

    Args:
        z (`torch.Tensor` of shape `(M, B, d)`): Latent common features. Computed in fp32.
        present (`torch.BoolTensor` of shape `(M, B)`): Samples that have the modality. A pair counts where both modalities
            have a sample.
        bandwidth (`float`): σ of the kernel exp(−‖x − y‖² / 2σ²).

    Returns:
        `torch.Tensor` of shape `()`; 0 where no pair counts.
    """
    modalities, batch, width = z.shape
    with no_autocast(z.device):
        points = full_precision(z)
        weight = present.to(points.dtype)
        # The kernel knows differences only, and around the samples' centre they lose the fewest digits.
        origin = torch.einsum("mb,mbd->d", weight, points.detach()) / weight.sum().clamp(min=1)
        points = (points - origin).reshape(-1, width)
        squares = points.square().sum(dim=1)
        distances = (squares.unsqueeze(1) + squares - 2 * points @ points.T).clamp(min=0)
        kernel = (distances / (-2 * bandwidth**2)).exp().view(modalities, batch, modalities, batch)
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
        expectation = torch.einsum("ib,ibjc,jc->ij", weight, kernel, weight)  # E[k(x, y)] of modalities i and j
        first, second = torch.triu_indices(modalities, modalities, 1, device=z.device)
        discrepancy = expectation[first, first] + expectation[second, second] - 2 * expectation[first, second]
        counted = present.any(dim=1)[first] & present.any(dim=1)[second]
        return (discrepancy * counted).sum() / counted.sum().clamp(min=1)
