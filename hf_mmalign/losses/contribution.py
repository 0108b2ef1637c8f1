"""How much each modality contributes, and what follows for its gradient: CAL (Eqs. 1–8) and OGM-GE, pure functions.

Everything is for any number M of modalities. What a batch tells is a table of sums, a row for each modality, so that
micro-batches, steps and processes are joined by adding their tables.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ContributionVariant = Literal[
    "phi_times_potential", "phi", "potential", "phi_plus_potential", "performance_times_potential"
]
NUM_SUMS = 7
_TINY = 1e-8


class Measured(NamedTuple):
    """What a table of sums says of each modality: `(M,)` float64; NaN for one that no sample had.

    Args:
        phi (`torch.Tensor`): Marginal contribution φ (Eq. 2).
        performance (`torch.Tensor`): P in [0, 1], of each modality alone, over the samples that have it.
        score (`torch.Tensor`): The mean probability that each modality alone gives to the truth, for OGM-GE.
    """

    phi: Tensor
    performance: Tensor
    score: Tensor


def log_likelihood(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """log p(y_i | x_i) of each sample, up to a constant: minus what [`~losses.task.task_loss`] averages.

    Args:
        logits (`torch.Tensor` of shape `(B, num_labels)`), labels, problem_type: As in `task_loss`.

    Returns:
        `torch.Tensor` of shape `(B,)`, fp32: of several labels the mean over labels of their Bernoulli log-likelihoods;
        of regression −½ of the mean squared error, a Gaussian's of variance 1. Labels of −100 count 0.
    """
    logits = logits.float()
    if problem_type == "single_label_classification":
        return -F.cross_entropy(logits, labels.long().view(-1), reduction="none")
    labels = _like(labels, logits)
    if problem_type == "regression":
        return -0.5 * (logits - labels).square().mean(dim=1)
    return -F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)


def contribution_sums(
    full: Tensor, without: list[Tensor], alone: list[Tensor], labels: Tensor, present: Tensor, problem_type: str
) -> Tensor:
    """What one batch says of every modality, as sums over its samples.

    Args:
        full (`torch.Tensor` of shape `(B, num_labels)`): Logits from all modalities.
        without (`list[torch.Tensor]`): For each modality, logits from all others.
        alone (`list[torch.Tensor]`): For each modality, logits from it alone.
        labels (`torch.Tensor`), problem_type (`str`): As in [`~losses.task.task_loss`].
        present (`torch.BoolTensor` of shape `(M, B)`): The samples that have each modality.

    Returns:
        `torch.Tensor` of shape `(M, NUM_SUMS)`, float64: samples; gain in log-likelihood by the modality; samples that
        have it; then of these, by problem type, correct ones and 0 and 0, or true positives and false decisions and 0,
        or squared error alone and, of all samples, Σy and Σy²; last the probability given to the truth.
    """
    single = problem_type == "single_label_classification"
    counted = labels.view(-1) != -100 if single else torch.ones_like(present[0])
    base = log_likelihood(full, labels, problem_type)
    rows = []
    for without_it, its, has in zip(without, alone, present, strict=True):
        gain = (base - log_likelihood(without_it, labels, problem_type)).double().sum()
        has = (has & counted).double()
        quality = _quality_sums(its.float(), labels, has, problem_type)
        rows.append(torch.stack([counted.double().sum(), gain, has.sum(), *quality]))
    return torch.stack(rows)


def _quality_sums(logits: Tensor, labels: Tensor, has: Tensor, problem_type: str) -> tuple[Tensor, ...]:
    nothing = has.new_zeros(())
    if problem_type == "single_label_classification":
        truth = labels.long().view(-1).clamp(min=0)
        probability = logits.softmax(dim=1).gather(1, truth.unsqueeze(1)).squeeze(1)
        return (has * (logits.argmax(dim=1) == truth)).sum(), nothing, nothing, (has * probability).sum()
    labels = _like(labels, logits)
    if problem_type == "regression":
        y = labels.double()
        error = (logits - labels).double().square().mean(dim=1)
        return (has * error).sum(), y.mean(dim=1).sum(), y.square().mean(dim=1).sum(), nothing
    true, said = labels > 0.5, logits > 0
    hits, misses = (true & said).double().sum(dim=1), (true ^ said).double().sum(dim=1)
    probability = torch.where(true, logits.sigmoid(), (-logits).sigmoid()).mean(dim=1)
    return (has * hits).sum(), (has * misses).sum(), nothing, (has * probability).sum()


def measured(sums: Tensor, problem_type: str) -> Measured:
    """φ, P and OGM-GE's score from summed tables of :func:`contribution_sums`.

    P lies in [0, 1]: accuracy; of several labels micro-averaged F1, since accuracy over sparse labels is close to 1 for
    whoever says nothing; of regression R² = 1 − MSE / Var(y), at least 0. In regression φ is that of a Gaussian whose
    variance is the labels', and the score exp(−½ MSE / Var(y)), so neither depends on the labels' unit.

    Args:
        sums (`torch.Tensor` of shape `(M, NUM_SUMS)`): float64.
        problem_type (`str`): That of the sums.
    """
    samples, gain, having, first, second, third, probability = sums.double().unbind(dim=1)
    phi, score = gain / samples, probability / having
    if problem_type == "single_label_classification":
        performance = first / having
    elif problem_type == "regression":
        variance = third / samples - (second / samples).square()
        variance = torch.where(variance > _TINY, variance, torch.ones_like(variance))  # labels that are all the same
        unexplained = first / having / variance
        phi, performance, score = phi / variance, (1 - unexplained).clamp(min=0), (-0.5 * unexplained).exp()
    else:
        performance = 2 * first / (2 * first + second).clamp(min=1)
        performance = torch.where(having > 0, performance, torch.nan)
    return Measured(torch.where(having > 0, phi, torch.nan), performance, score)


def smoothed_performance(performance: Tensor, previous: Tensor | None, gamma: float) -> Tensor:
    """P̂(t) = γ P(t) + (1 − γ) P̂(t − 1), and P(0) at first (CAL, Eq. 3); `(M,)` each."""
    return performance if previous is None else gamma * performance + (1 - gamma) * previous


def performance_trend(smoothed: Tensor, window: int) -> Tensor:
    """Relative change of the smoothed performance (CAL, Eq. 4).

    Args:
        smoothed (`torch.Tensor` of shape `(t + 1, M)`): P̂(0) … P̂(t).
        window (`int`): n; the change is relative to the mean of the last n values before the newest, or of as many as
            there are.

    Returns:
        `torch.Tensor` of shape `(M,)`: T(t), 0 where there is no value before.
    """
    if len(smoothed) < 2:
        return torch.zeros_like(smoothed[-1])
    before = smoothed[:-1][-window:]
    return (smoothed[-1] - before[-1]) / (before.mean(dim=0) + _TINY)


def dynamic_potential(smoothed: Tensor, trend: Tensor, balance: float) -> Tensor:
    """R = λ (1 − P̂) + (1 − λ) T (CAL, Eq. 5); `(M,)` each, λ is `balance`."""
    return balance * (1 - smoothed) + (1 - balance) * trend


def contribution(
    phi: Tensor, potential: Tensor, performance: Tensor, variant: ContributionVariant = "phi_times_potential"
) -> Tensor:
    """W = φ · R (CAL, Eq. 1), or a variant of Table 5: φ, R, φ + R or P · R; `(M,)` each.

    φ and R below 0 count as 0: the product of two negative numbers would be a large contribution.

    Raises:
        ValueError: For an unknown variant.
    """
    phi, potential = phi.clamp(min=0), potential.clamp(min=0)
    variants = {
        "phi_times_potential": phi * potential,
        "phi": phi,
        "potential": potential,
        "phi_plus_potential": phi + potential,
        "performance_times_potential": performance * potential,
    }
    if variant not in variants:
        raise ValueError(f"A contribution is one of {list(variants)}, not {variant!r}.")
    return variants[variant]


def cal_coefficients(contribution: Tensor, temperature: float) -> Tensor:
    """a = softmax(T · W) (CAL, Eq. 7), `(M,)`: uniform for T = 0, one-hot for large T; with −T the inverted weights of
    Table 6."""
    return (temperature * contribution).softmax(dim=0)


def ogm_coefficients(score: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """OGM-GE's factors k and discrepancy ratios ρ, `(M,)` each (Peng et al. 2022, Eqs. 8–10).

    ρ_m is the modality's score over the mean of the others' scores, which for two modalities is the printed ratio;
    k_m = 1 − tanh(α ρ_m) where ρ_m > 1, else 1.
    """
    others = (score.sum() - score) / max(1, len(score) - 1)
    ratio = score / others.clamp(min=_TINY)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), torch.ones_like(ratio)), ratio


def _like(labels: Tensor, logits: Tensor) -> Tensor:
    return labels.float().reshape(logits.shape)
