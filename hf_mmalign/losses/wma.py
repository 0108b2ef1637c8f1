"""Wasserstein Modality Alignment (Zhi et al.): token-level optimal transport between the modalities of one tower."""

from typing import NamedTuple

import torch

from .. import ot

# Tokens so near to each other that their distance is rounding.
_LEAST_UNIT = 1e-6


class TransportDistance(NamedTuple):
    """Optimal-transport distances of a batch.

    Attributes:
        value: `(B,)` fp32 D_i, 0 where a sample misses a modality.
        valid: `(B,)` bool, the samples that have both.
        gap: `(B,)` fp32, how far above the true distance the value can be (value − dual bound); `None` unless asked for.
    """

    value: torch.Tensor
    valid: torch.Tensor
    gap: torch.Tensor | None


def transport_distance(
    x: torch.Tensor,
    y: torch.Tensor,
    x_mask: torch.Tensor,
    y_mask: torch.Tensor,
    solver: str = "auto",
    certificate: bool = False,
) -> TransportDistance:
    """Optimal-transport distance between two token sets of each sample (Eqs. 5–8).

    D_i = ⟨C, T*⟩ with C[p, q] = 1 − cos(x_p, y_q) and uniform marginals over the valid tokens (Eq. 7). The plan is a
    constant of the gradient (envelope theorem); cost and solver run in fp32 whatever the autocast.

    Args:
        x (`torch.Tensor` of shape `(B, n, d)`): Tokens of one modality.
        y (`torch.Tensor` of shape `(B, m, d)`): Tokens of the other.
        x_mask, y_mask (`torch.Tensor` of shapes `(B, n)`, `(B, m)`): Valid tokens.
        solver (`str`): As in :func:`hf_mmalign.ot.solve`; `"ipot"` is the paper's.

        certificate (`bool`): Also bound the solver's error by duality.
    """
    valid = x_mask.any(dim=1) & y_mask.any(dim=1)
    _, value, bound = ot.solve(ot.cosine_cost(x, y), x_mask, y_mask, solver=solver, certificate=certificate)
    zero = torch.zeros_like(value)
    gap = None if bound is None else torch.where(valid, value.detach() - bound, zero).clamp_min(0)
    return TransportDistance(torch.where(valid, value, zero), valid, gap)


def alignment_penalty(
    distance: torch.Tensor, valid: torch.Tensor, reference: torch.Tensor, beta: float, relative: bool = False
) -> torch.Tensor:
    """mean_i (D_i − β·D̄)² for one pair of modalities (Eq. 9; Eq. 10 sums it over pairs).

    The distance's scale is that of the network: a ViLT pretrained with word–patch alignment has D̄ = 0.013, one from
    scratch 0.6, and the penalty differs by a factor of 2000. Relative, ((D_i − β·D̄) / D̄)², it does not.

    Args:
        distance (`torch.Tensor` of shape `(B,)`): D_i.
        valid (`torch.BoolTensor` of shape `(B,)`): Samples that have both modalities; the others contribute 0.
        reference (`torch.Tensor` of shape `()`): D̄. NaN, a pair never seen so far, makes the penalty 0.
        beta (`float`): β; 0 minimises the distance itself.
        relative (`bool`): Whether deviations are in units of D̄ (not in the paper).

    Returns:
        `torch.Tensor` of shape `()`.
    """
    target = beta * reference.to(distance) if beta else torch.zeros_like(reference, dtype=distance.dtype)
    unit = reference.to(distance).clamp(min=_LEAST_UNIT) if relative else torch.ones_like(target)
    counted = valid & ~target.isnan() & ~unit.isnan()
    deviation = torch.where(counted, distance - target.nan_to_num(), torch.zeros_like(distance))
    return (deviation / unit.nan_to_num(1.0)).square().mean()
