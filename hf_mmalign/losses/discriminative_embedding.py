"""The losses of the Discriminative Embedding Framework and of its gate (DEF + AAF, §3.1 and Appendix D).

All take one vector per modality and who has it. Squared distances are means over coordinates, so that their weights mean
the same at every width; what is asked of pairs of modalities leaves out samples that have only one.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ot.costs import full_precision, no_autocast


def _squared(left: Tensor, right: Tensor) -> Tensor:
    """`(B,)`: squared distance, its mean over the coordinates."""
    return (full_precision(left) - full_precision(right)).square().mean(dim=1)


def _mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `(B,)` values over the chosen samples, `(B,)` bool; 0 where there are none."""
    return values.masked_fill(~chosen, 0).sum() / chosen.sum().clamp(min=1)


def homologous_loss(codes: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    r"""How far a sample's modalities lie apart: L_H (Eq. 4).

    .. math:: L_H = \frac{1}{N} \sum_i \frac{2}{M_i (M_i - 1)} \sum_{s<t} \|c_i^s - c_i^t\|^2

    Args:
        codes (`Mapping[str, torch.Tensor]`): c^s, `(B, d)` by modality.
        present (`Mapping[str, torch.Tensor]`): `(B,)` bool: the samples that have each. N are those with two or more.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    apart = torch.zeros_like(full_precision(next(iter(codes.values())))[:, 0])
    pairs = torch.zeros_like(apart)
    for left, right in combinations(codes, 2):
        both = (present[left] & present[right]).to(apart.dtype)
        apart, pairs = apart + _squared(codes[left], codes[right]) * both, pairs + both
    return _mean_over(apart / pairs.clamp(min=1), pairs > 0)


def reconstruction_losses(
    targets: Mapping[str, Tensor], decoded: Mapping[str, Mapping[str, Tensor]], present: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    r"""Intra- and cross-modal reconstruction: L_R^intra and L_R^cross (Eqs. 5 and 6), both averaged over a sample's
    modalities or pairs.

    Args:
        targets (`Mapping[str, torch.Tensor]`): x^s, `(B, d_s)` by modality.
        decoded (`Mapping[str, Mapping[str, torch.Tensor]]`): `decoded[s][t]`, `(B, d_s)`: x^s reconstructed from c^t.
        present (`Mapping[str, torch.Tensor]`): `(B,)` bool: the samples that have each.

    Returns:
        Two `torch.Tensor` of shape `()`.
    """
    has = {name: present[name].to(full_precision(targets[name]).dtype) for name in targets}
    own = sum(_squared(targets[name], decoded[name][name]) * has[name] for name in targets)
    count = sum(has.values())
    intra = _mean_over(own / count.clamp(min=1), count > 0)
    crossed = torch.zeros_like(count)
    for goal in targets:
        for source in targets:
            if source != goal:
                crossed = crossed + _squared(targets[goal], decoded[goal][source]) * has[goal] * has[source]
    pairs = count * (count - 1)
    return intra, _mean_over(crossed / pairs.clamp(min=1), pairs > 0)


def contrastive_loss(codes: Mapping[str, Tensor], present: Mapping[str, Tensor], temperature: float) -> Tensor:
    r"""InfoNCE between the modalities of a sample (Eq. 8), cosine similarities, the positive in the denominator too.

    .. math:: L_{con} = -\mathbb{E} \log \frac{\exp(\langle c_i^s, c_i^t \rangle / \tau)}
        {\sum_j \exp(\langle c_i^s, c_j^t \rangle / \tau)}

    The mean over every ordered pair of modalities and all samples i that have both; j are those that have t.

    Args:
        codes (`Mapping[str, torch.Tensor]`): c^s, `(B, d)` by modality.
        present (`Mapping[str, torch.Tensor]`): `(B,)` bool: the samples that have each.
        temperature (`float`): τ.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no sample has two modalities.
    """
    some = next(iter(codes.values()))
    total, count = some.new_zeros(()), some.new_zeros(())
    itself = torch.arange(some.shape[0], device=some.device)
    with no_autocast(some.device):
        units = {name: F.normalize(full_precision(code), dim=1) for name, code in codes.items()}
        for left, right in combinations(units, 2):
            both = (present[left] & present[right]).to(units[left].dtype)
            similarity = units[left] @ units[right].T / temperature
            for scores, others in ((similarity, present[right]), (similarity.T, present[left])):
                # Its own partner stays in the row of a sample that counts not, so that no row is empty.
                absent = ~(others.unsqueeze(0) | (itself.unsqueeze(0) == itself.unsqueeze(1)))
                entropy = F.cross_entropy(scores.masked_fill(absent, -torch.inf), itself, reduction="none")
                total, count = total + (entropy * both).sum(), count + both.sum()
        return total / count.clamp(min=1)


def entropy_shortfall(weights: Tensor, present: Tensor, floor: float) -> Tensor:
    r"""By how much gate weights are too peaked (Appendix D): the mean of max(0, h − H_i / log M_i) where M_i ≥ 2.

    Args:
        weights (`torch.Tensor` of shape `(B, M)`): α, 0 for absent modalities.
        present (`torch.Tensor` of shape `(B, M)`, bool): Who has which.
        floor (`float`): h in [0, 1], the least entropy as a share of that of equal weights.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    weights = full_precision(weights)
    entropy = -torch.special.xlogy(weights, weights.clamp(min=1e-12)).sum(dim=1)
    count = present.sum(dim=1)
    share = entropy / count.clamp(min=2).to(weights.dtype).log()
    return _mean_over((floor - share).clamp(min=0), count >= 2)
