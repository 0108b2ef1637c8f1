"""DecAlign's heterogeneity alignment: multi-marginal transport between the modalities' prototypes, and its local term."""

import math

import torch

from .. import ot
from .gaussian_mixture import GaussianMixture


def prototype_costs(mixture: GaussianMixture, reduction: str = "mean") -> torch.Tensor:
    """Costs between the prototypes of all modalities, squared 2-Wasserstein distances of Gaussians (Eq. 6 of DecAlign).

    Args:
        mixture (`GaussianMixture`): M modalities with K components.
        reduction (`str`): `"sum"` over the d features as printed, or their `"mean"`, which does not grow with d.

    Returns:
        `torch.Tensor` of shape `(M, K, M, K)`: `[i, k, j, l]` between component k of modality i and l of j.
    """
    modalities, components, width = mixture.means.shape
    means, variances = mixture.means.flatten(0, 1), mixture.variances.flatten(0, 1)
    costs = ot.bures_cost(means, variances, means, variances)
    return costs.view(modalities, components, modalities, components) / (width if reduction == "mean" else 1)


def joint_cost(costs: torch.Tensor) -> torch.Tensor:
    """C(k_1, …, k_M) = Σ_{i<j} C_ij(k_i, k_j), `(K,) * M`, from `(M, K, M, K)` pair costs (Eq. 5)."""
    modalities, components = costs.shape[:2]
    joint = costs.new_zeros((components,) * modalities)
    for i in range(modalities):
        for j in range(i + 1, modalities):
            shape = [components if axis in (i, j) else 1 for axis in range(modalities)]
            joint = joint + costs[i, :, j].reshape(shape)
    return joint


def transport_loss(
    costs: torch.Tensor,
    marginals: torch.Tensor,
    counted: torch.Tensor,
    epsilon: float = 0.1,
    epsilon_scale: str = "mean_cost",
    entropy: bool = False,
    iterations: int = 50,
) -> tuple[torch.Tensor, torch.Tensor]:
    """⟨T*, C⟩ of the entropic multi-marginal transport between prototypes (Eqs. 7–8 and the first term of Eq. 9).

    T* is a constant of the gradient. By the envelope theorem, that is the exact gradient of the entropic objective, which
    T* minimises and `entropy=True` returns, with λ as a constant. Of ⟨T*, C⟩ alone, which `entropy=False` returns, it
    leaves out how T* moves with C.

    Args:
        costs (`torch.Tensor` of shape `(M, K, M, K)`): As :func:`prototype_costs` gives them.
        marginals (`torch.Tensor` of shape `(M, K)`): ν_m, each row a distribution.
        counted (`torch.BoolTensor` of shape `(M,)`): Modalities that take part. The others cost nothing anywhere, which
            leaves the transport between the rest as it is without them.
        epsilon (`float`): λ of Eq. 7, in units of the mean joint cost, or as it is with `epsilon_scale="absolute"`.
        entropy (`bool`): Add the entropy term λ Σ T (log T − 1) to the value, as the public code does; a constant of the
            gradient.
        iterations (`int`): Scaling rounds at most.

    Returns:
        The loss, `()`, and the plan, `(K,) * M`, detached.
    """
    costs = costs * (counted[:, None, None, None] & counted[None, None, :, None])
    uniform = torch.full_like(marginals, 1 / marginals.shape[1])
    marginals = torch.where(counted.unsqueeze(1), marginals.detach(), uniform)
    joint = joint_cost(costs)
    plan = ot.multi_marginal(
        joint.detach(), marginals, epsilon, epsilon_scale=epsilon_scale, iterations=iterations
    ).plan
    value = (plan * joint).sum()
    if entropy:
        # Of the plan between those that take part: the others' uniform marginals are independent of it.
        information = torch.xlogy(plan, plan).sum() + math.log(marginals.shape[1]) * (~counted).sum()
        strength = epsilon * joint.detach().mean() if epsilon_scale == "mean_cost" else epsilon
        value = value + strength * (information - 1) * (counted.sum() > 1)
    return value, plan


def matching_from_plan(plan: torch.Tensor) -> torch.Tensor:
    """Which component of modality j each component k of modality i is transported to: `(M, M, K, K)`, rows sum to 1."""
    modalities, components = plan.dim(), plan.shape[0]
    matching = torch.eye(components, dtype=plan.dtype, device=plan.device).repeat(modalities, modalities, 1, 1)
    for i in range(modalities):
        for j in range(i + 1, modalities):
            others = [axis for axis in range(modalities) if axis not in (i, j)]
            pair = plan.sum(dim=others) if others else plan  # an empty list would sum over all axes
            matching[i, j] = pair / pair.sum(dim=1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
            matching[j, i] = pair.T / pair.sum(dim=0).unsqueeze(1).clamp(min=torch.finfo(plan.dtype).tiny)
    return matching


def prototype_loss(
    x: torch.Tensor,
    present: torch.Tensor,
    weights: torch.Tensor,
    means: torch.Tensor,
    matching: torch.Tensor | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Distance of samples to the other modalities' prototypes (second term of Eq. 9), over samples and ordered pairs i ≠ j.

    Σ_k w_i(k) Σ_l P_ij(l | k) ‖F_i − μ_j^l‖², where P_ij tells which component of j answers to component k of i. Eq. 9
    prints the same index for both (P_ij the identity), though two mixtures number their components independently.

    Args:
        x (`torch.Tensor` of shape `(M, B, d)`): F_i, the samples.
        present (`torch.BoolTensor` of shape `(M, B)`): Samples that have the modality. Pairs of modalities count where both
            have a sample.
        weights (`torch.Tensor` of shape `(M, B, K)`): Responsibilities w.
        means (`torch.Tensor` of shape `(M, K, d)`): μ.
        matching (`torch.Tensor` of shape `(M, M, K, K)`, *optional*): P, as :func:`matching_from_plan` gives it; left out,
            the same index.
        reduction (`str`): `"sum"` over features as printed, or their `"mean"`.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no pair counts.
    """
    # Distances do not change with the origin, and around the prototypes' centre they lose the fewest digits.
    origin = means.detach().mean(dim=(0, 1))
    x, means = x - origin, means - origin
    products = torch.einsum("ind,jld->injl", x, means)
    distances = x.square().sum(-1)[..., None, None] + means.square().sum(-1) - 2 * products
    if reduction == "mean":
        distances = distances / x.shape[-1]
    if matching is None:
        per_sample = torch.einsum("ink,injk->inj", weights, distances)
    else:
        per_sample = torch.einsum("ink,ijkl,injl->inj", weights, matching, distances)
    count = present.sum(dim=1)
    per_pair = torch.einsum("inj,in->ij", per_sample, present.to(x.dtype)) / count.clamp(min=1).unsqueeze(1)
    counted = (count > 0).unsqueeze(1) & (count > 0) & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return (per_pair * counted).sum() / counted.sum().clamp(min=1)
