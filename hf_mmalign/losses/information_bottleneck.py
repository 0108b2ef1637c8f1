"""CAL's asymmetric information bottleneck: each modality's compressed features keep what the fusion needs.

Mutual information is that of Gaussians with the batch's correlations. It means something only where the batch is larger
than the features are wide (independent data of 512 features show hundreds of nats in a batch of 64), so wide features
are reduced to their leading principal components.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..ot.costs import full_precision, no_autocast

VARIANTS = ("mi", "mx", "mx_mi", "inverse_beta", "beta")
RATIO_BOUNDS = (0.1, 10.0)
# A feature whose standard deviation is far below the root of this is a constant, and tells nothing.
_SMALLEST_VARIANCE = 1e-8
# Principal components weaker than this, relative to the strongest, are rounding.
_SMALLEST_COMPONENT = 1e-12
_SMALLEST_CONTRIBUTION = 1e-8


def gaussian_mutual_information(
    x: torch.Tensor,
    y: torch.Tensor,
    present: torch.Tensor | None = None,
    ridge: float = 1e-3,
    max_components: int = 16,
) -> torch.Tensor:
    """I(X; Y) = ½ log(det Σ_X · det Σ_Y / det Σ_XY) of jointly Gaussian variables, in nats (Eq. 12 of CAL).

    Each feature is standardised over the batch, so the scale of a feature plays no part. Features wider than
    `max_components` are reduced to their leading principal components; the gradient passes the projection, its directions
    are constants.

    Args:
        x (`torch.Tensor` of shape `(B, d_x)`), y (`torch.Tensor` of shape `(B, d_y)`): Samples; computed in fp64.
        present (`torch.BoolTensor` of shape `(B,)`, *optional*): Samples that count; the others are never looked at.
        ridge (`float`, *optional*, defaults to 1e-3): Added to the diagonal of the correlations, which are singular where
            the batch is small; it bounds the information. Positive.
        max_components (`int`, *optional*, defaults to 16): Largest width of either side. At least 1.

    Returns:
        `torch.Tensor` of shape `()`, fp64 where an input is and else fp32; never negative but for rounding. 0, with a
        gradient of 0, where fewer than two samples count.

    Raises:
        ValueError: If `ridge` or `max_components` are out of range, or the inputs are no `(B, d)` of one B.
    """
    if not ridge > 0 or max_components < 1:
        raise ValueError(f"ridge is positive and max_components at least 1, not {ridge} and {max_components}.")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"Two (B, d) of one B are expected, not {tuple(x.shape)} and {tuple(y.shape)}.")
    dtype = torch.promote_types(full_precision(x).dtype, full_precision(y).dtype)
    with no_autocast(x.device):
        if present is None:
            present = torch.ones(len(x), dtype=torch.bool, device=x.device)
        parts = [
            _standardised(_leading_components(_centred(part, present), max_components), present) for part in (x, y)
        ]
        joint = torch.cat(parts, dim=1)
        correlation = joint.mT @ joint / present.sum().clamp(min=1)
        correlation = correlation + ridge * torch.eye(joint.shape[1], dtype=joint.dtype, device=joint.device)
        width = parts[0].shape[1]
        alone = [correlation[:width, :width], correlation[width:, width:]]
        log_volumes = [torch.linalg.slogdet(matrix).logabsdet for matrix in (*alone, correlation)]
        return (0.5 * (log_volumes[0] + log_volumes[1] - log_volumes[2])).to(dtype)


def compression_factors(coefficients: torch.Tensor, compression_lambda: float = 2.0) -> torch.Tensor:
    """β_m = exp(−λ a_m) (Eq. 9 of CAL).

    Args:
        coefficients (`torch.Tensor` of shape `(M,)`): The modulation coefficients a, a distribution over the modalities.
        compression_lambda (`float`, *optional*, defaults to 2.0): λ > 0: how far the modalities' compression differs.
    """
    return (-compression_lambda * coefficients).exp()


def contribution_ratios(contributions: torch.Tensor, compressed: torch.Tensor) -> torch.Tensor:
    """det_con = φ(c_m) / φ(m), a constant of the gradient within `RATIO_BOUNDS` (text below Eq. 14 of CAL).

    Negative contributions count as none: two of them would divide to a positive ratio. Where neither contributes the
    ratio is 1.

    Args:
        contributions, compressed (`torch.Tensor` of shape `(M,)`): Eq. 2 of the features, and of the compressed features
            in their place.
    """
    whole, part = (phi.detach().clamp(min=0) + _SMALLEST_CONTRIBUTION for phi in (contributions, compressed))
    return (part / whole).clamp(*RATIO_BOUNDS)


def contribution_alignment(contributions: torch.Tensor, compressed: torch.Tensor) -> torch.Tensor:
    """Σ_m (φ(m) − φ(c_m))², how far compression changes what each modality contributes (Eq. 14 of CAL).

    Args:
        contributions, compressed (`torch.Tensor` of shape `(M,)`): As for :func:`contribution_ratios`.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    return (contributions - compressed).square().sum()


def asymmetric_bottleneck_loss(
    compressed: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    fused: torch.Tensor,
    betas: torch.Tensor,
    ratios: torch.Tensor,
    present: torch.Tensor | None = None,
    variant: str = "beta",
    ridge: float = 1e-3,
    max_components: int = 16,
) -> torch.Tensor:
    """L_AIB = Σ_m −log σ(β_m I(Z_m; f) − I(Z_m; X_m)) / det_con_m (Eq. 13 of CAL).

    `variant` says which terms stand in σ, as in Table 4: `"mi"` −I(Z; X) alone; `"mx"` I(Z; f) alone; `"mx_mi"` both, all
    modalities alike; `"beta"` the printed form; `"inverse_beta"` 1/β_m in the place of β_m, which compresses modalities of
    high contribution less, as the paper's text (but not its formula) says.

    The gradient passes Z, X and f alike; detach those that should not move.

    Args:
        compressed (`Sequence[torch.Tensor]`, M of shape `(B, k_m)`): The bottlenecks' outputs Z_m.
        features (`Sequence[torch.Tensor]`, M of shape `(B, d_m)`): What they compress, X_m.
        fused (`torch.Tensor` of shape `(B, d)`): The fused features f.
        betas (`torch.Tensor` of shape `(M,)`): :func:`compression_factors`.
        ratios (`torch.Tensor` of shape `(M,)`): :func:`contribution_ratios`, or ones.
        present (`torch.BoolTensor` of shape `(M, B)`, *optional*): Samples that have the modality; all by default.
        variant (`str`, *optional*, defaults to `"beta"`): One of `VARIANTS`.
        ridge, max_components: As for :func:`gaussian_mutual_information`.

    Returns:
        `torch.Tensor` of shape `()`. A modality that fewer than two samples have adds 0.

    Raises:
        ValueError: If the variant is unknown, or the number of modalities differs between the arguments.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {VARIANTS}, not {variant!r}.")
    if not len(compressed) == len(features) == len(betas) == len(ratios):
        found = f"{len(compressed)} compressed, {len(features)} features, {len(betas)} betas and {len(ratios)} ratios"
        raise ValueError(f"An entry per modality is expected everywhere; there are {found}.")
    weights = {"inverse_beta": betas.reciprocal(), "beta": betas}.get(variant, torch.ones_like(betas))
    total = fused.new_zeros((), dtype=full_precision(fused).dtype)
    for m, (z, x) in enumerate(zip(compressed, features, strict=True)):
        of_modality = torch.ones(len(z), dtype=torch.bool, device=z.device) if present is None else present[m]
        settings = {"present": of_modality, "ridge": ridge, "max_components": max_components}
        kept = total.new_zeros(())
        if variant != "mi":
            kept = kept + weights[m] * gaussian_mutual_information(z, fused, **settings)
        if variant != "mx":
            kept = kept - gaussian_mutual_information(z, x, **settings)
        total = total + torch.where(of_modality.sum() > 1, -F.logsigmoid(kept) / ratios[m], 0)
    return total


def _centred(x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The samples that count around their mean in fp64; 0 in the others."""
    weight = present.unsqueeze(1)
    x = torch.where(weight, x.double(), 0)
    return torch.where(weight, x - x.sum(dim=0) / present.sum().clamp(min=1), 0)


def _leading_components(x: torch.Tensor, most: int) -> torch.Tensor:
    """`(B, d)` centred → its scores on the `min(most, B)` leading principal directions, if it is wider than `most`."""
    if x.shape[1] <= most:
        return x
    with torch.no_grad():
        # Activations that overflowed (fp16) must end as a loss that is not finite, not as an error of the solver.
        rows = x.detach().nan_to_num()
        rows = rows / rows.abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
        strengths, vectors = torch.linalg.eigh(rows @ rows.mT)  # ascending
        strengths, vectors = strengths[-most:], vectors[:, -most:]
        real = strengths > _SMALLEST_COMPONENT * strengths[-1]
        inverse = torch.where(real, torch.where(real, strengths, 1).rsqrt(), 0)
        directions = rows.mT @ (vectors * inverse)  # (d, most), orthonormal
    return x @ directions


def _standardised(x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """`(B, d)` centred, each column divided by its standard deviation over the samples that count."""
    variance = x.square().sum(dim=0) / present.sum().clamp(min=1)
    return x * (variance + _SMALLEST_VARIANCE).rsqrt()
